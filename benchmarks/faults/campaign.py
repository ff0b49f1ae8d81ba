"""The course of a campaign: for each fault, or several at once, a load, the injury, quiet, and what was found.

A round sends its messages at a steady rate, and more of them where a fault takes longer: first nothing is wrong, then
the faults are on, then they are healed while the load goes on. Recovered is the stack when the last mail has been
taken, Postfix's queue and the spool are empty, and every message and document is final; the time is taken from the
end of the last heal, and the load's last third is in it. Then the round is reconciled, and at the end all of them
together, since a later fault may damage what an earlier one left.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import psycopg

from tests.support.lab.process import LabError

from .catalogue import Fault, Injury
from .load import Identity, Load, Mail
from .plant import Plant
from .reconcile import Finding, Verdict, reconcile

_LEAD, _ON, _TAIL = 0.2, 0.5, 0.3
_TICK = 0.1
_TURNS = 60.0  # seconds more for a fault that has not hit all that it is to hit


@dataclass(frozen=True)
class Round:
    """Faults that are on at the same time, and how many messages meet them at the least."""

    name: str
    faults: tuple[Fault, ...]
    messages: int


@dataclass
class Result:
    """What became of a round."""

    name: str
    sent: int = 0
    accepted: int = 0
    again: int = 0
    deferred: int = 0
    parsed: int = 0
    held: int = 0
    set_aside: int = 0
    hit: int = 0
    felt: int = 0
    recovered: float | None = None
    seconds: float = 0.0
    details: str = ""
    findings: list[Finding] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Count the messages that have a finding of this kind."""
        return len({finding.identity for finding in self.findings if finding.kind == kind})


class Campaign:
    """Rounds on one stack; keeps what was promised to clients, for the reconciliation of all."""

    def __init__(
        self, plant: Plant, seed: int, rate: float, patience: float, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._plant, self._seed, self._rate, self._patience, self._tell = plant, seed, rate, patience, tell
        self._accepted: dict[Identity, set[str]] = {}
        self._contents: dict[Identity, dict[str, Mail]] = {}
        self._number = 0

    def run(self, chosen: Round) -> Result:
        """Do one round."""
        self._number += 1
        plant, run = self._plant, f"campaign-{self._seed}-{self._number}"
        rng = random.Random(f"{self._seed} {self._number} {chosen.name}")
        load = Load(plant.port, run, chosen.messages, self._rate, rng)
        result = Result(chosen.name)
        plant.maillog.read()
        bounces, before = len(plant.maillog.bounces), plant.maillog.attempts_deferred

        def felt() -> int:
            plant.maillog.read()
            return plant.maillog.attempts_deferred - before + load.put_off

        began = time.monotonic()
        load.start()
        try:
            self._pause(_LEAD * chosen.messages / self._rate, [])
            injuries = self._try_to_injure(chosen, rng, result, run, felt)
            healed = time.monotonic()
            self._pause(_TAIL * chosen.messages / self._rate, [])
            load.enough()
            result.felt = felt()
            result.hit = _hits(injuries, felt)
            result.details = "; ".join(text for injury in injuries if (text := injury.details()))
            if self._wait(load, run):
                result.recovered = time.monotonic() - healed
        finally:
            load.stop()
        result.seconds = time.monotonic() - began
        for identity, digests in load.accepted.items():
            self._accepted.setdefault(identity, set()).update(digests)
        self._contents |= load.contents
        self._note(result, load, run, bounces)
        return result

    def all(self) -> Verdict:
        """Reconcile all rounds together."""
        return reconcile(self._accepted, self._contents, self._plant.evidence(f"campaign-{self._seed}-"))

    def _try_to_injure(
        self, chosen: Round, rng: random.Random, result: Result, run: str, felt: Callable[[], int]
    ) -> list[Injury]:
        """Inject the faults; where that cannot be done the round is a failed one, and the campaign goes on."""
        try:
            return self._injure(chosen, rng, felt)
        except (LabError, OSError, psycopg.Error) as error:
            why = f"the fault could not be injected or healed: {type(error).__name__}: {error}"
            result.findings.append(Finding("failed", Identity("-", run), why))
            return []

    def _injure(self, chosen: Round, rng: random.Random, felt: Callable[[], int]) -> list[Injury]:
        """Inject the faults one after the other, keep them on, and heal them in any order."""
        least = max(max(fault.seconds for fault in chosen.faults), _ON * chosen.messages / self._rate)
        on: list[tuple[Fault, ExitStack]] = []
        injuries: list[Injury] = []
        try:
            for fault in chosen.faults:
                stack = ExitStack()
                on.append((fault, stack))
                injuries.append(stack.enter_context(fault.inject(self._plant, rng)))
                self._pause(least / 3 * rng.random() if len(chosen.faults) > 1 else 0.0, injuries)
            self._pause(least, injuries)
            self._wait_until_through(injuries, felt)
            rng.shuffle(on)
            for _, stack in on[1:]:
                stack.close()
                self._pause(least / 4 * rng.random(), [])
        finally:
            for _, stack in on:
                stack.close()
        return injuries

    def _pause(self, seconds: float, injuries: Sequence[Injury]) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            for injury in injuries:
                injury.tick()
            time.sleep(min(_TICK, max(0.0, left)))

    def _wait_until_through(self, injuries: Sequence[Injury], felt: Callable[[], int]) -> None:
        until = time.monotonic() + _TURNS
        while not (_hits(injuries, felt) and all(injury.is_through() for injury in injuries)):
            if time.monotonic() > until:
                return
            self._pause(1.0, injuries)

    def _wait(self, load: Load, run: str) -> bool:
        """Wait for quiet; false if the time was up before."""
        until, told = time.monotonic() + self._patience, 0.0
        while time.monotonic() < until:
            try:
                self._plant.revive()
                state = self._plant.state(run)
            except (LabError, OSError, psycopg.Error) as error:
                if time.monotonic() < until:  # a server that a loaded machine is slow to start is started again
                    self._tell(f"  the stack cannot be asked yet: {str(error).splitlines()[0]}")
                    continue
                raise LabError(f"the stack cannot be asked: {error}") from error
            if load.is_done and state.is_quiet and state.messages >= len(load.accepted):
                return True
            if time.monotonic() - told > 15:
                told = time.monotonic()
                waits = f"{state.messages} of {len(load.accepted)} recorded, {state.unfinished} unfinished"
                self._tell(f"  {waits}, {state.queued} in Postfix's queue, {state.spooled} in the spool")
            time.sleep(0.3)
        return False

    def _note(self, result: Result, load: Load, run: str, bounces: int) -> None:
        """Reconcile the round."""
        plant = self._plant
        plant.maillog.read()
        verdict = reconcile(load.accepted, load.contents, plant.evidence(f"{run}."))
        result.sent, result.accepted, result.again = load.sent, load.taken, load.again
        result.deferred = plant.maillog.count_deferred(load.queue_ids.__contains__)
        result.parsed, result.held, result.set_aside = verdict.parsed, verdict.held, verdict.set_aside
        result.findings += verdict.findings
        result.findings += [Finding("bounced", refusal.identity, refusal.text) for refusal in load.refusals]
        for bounce in plant.maillog.bounces[bounces:]:
            identity = Identity(bounce.recipient, f"queue id {bounce.queue_id}")
            result.findings.append(Finding("bounced", identity, bounce.text))
        if not load.is_done:
            why = "no client could get rid of it"
            left = (one for one, known in load.contents.items() if set(known) - load.accepted.get(one, set()))
            result.findings += [Finding("unfinished", one, why) for one in left]
        elif result.recovered is None and not result.findings:
            state = plant.state(run)
            result.findings.append(Finding("unfinished", Identity("-", run), f"not quiet: {state}"))


def _hits(injuries: Sequence[Injury], felt: Callable[[], int]) -> int:
    """Return how often faults have hit, by what was put off where one cannot be counted."""
    counts = [injury.hits() for injury in injuries]
    return sum(filter(None, counts)) + (felt() if None in counts else 0)


def rounds_of(faults: Sequence[Fault], messages: int) -> list[Round]:
    """Make a round of each fault alone."""
    return [Round(fault.name, (fault,), messages) for fault in faults]


def mixed(faults: Mapping[str, Fault], number: int, messages: int, rng: random.Random) -> list[Round]:
    """Draw so many faults, two or three at a time, that do not touch the same part."""
    rounds: list[Round] = []
    left = number
    while left > 0:
        wanted = min(left, rng.choice((2, 3))) if left != 1 else 1
        chosen: list[Fault] = []
        for fault in rng.sample(sorted(faults.values(), key=lambda one: one.name), len(faults)):
            if len(chosen) < wanted and not any(fault.touches & other.touches for other in chosen):
                chosen.append(fault)
        left -= wanted
        name = " + ".join(fault.name for fault in chosen)
        rounds.append(Round(f"mix {len(rounds) + 1}: {name}", tuple(chosen), messages))
    return rounds
