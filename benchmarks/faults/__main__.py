"""A fault campaign: a steady load by SMTP through a real Postfix, while all behind it is broken, one by one or at once.

    script/benchmark faults [--faults NAME…] [--mix N] [--seed N] [--messages N] [--rate N] [--short] [--list]
                            [--way pipe|lmtp|before-queue] [--queue postgresql|redis] [--minute S] [--patience S]
                            [--json FILE] [--save]

The stack is the production one (`plant`), the faults are in `catalogue`, the load in `load`. After each fault, and at
the end for all, the answers of clients are compared with the deployment (`reconcile`): every message that got 250 is
PARSED with exactly its documents, held, or a dead letter with a reason; nothing is there twice; every object has its
digest; nothing bounced. The table goes to standard output, progress to standard error; the exit status is 1 if a
promise was broken.

--json FILE keeps the results after each round; a campaign of the same seed, way and queue goes on with them.

Without --faults and --mix every fault that the way and the queue know is injected alone, then as many again mixed.
Needs root, as the tests do; small file systems are mounted in a namespace that ends with the command.
"""

import argparse
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.lab.process import scratch

from .campaign import Campaign, Result, Round, mixed, rounds_of
from .catalogue import FAULTS, SHORT
from .plant import QUEUES, WAYS, open_plant, own_mounts
from .reconcile import Verdict
from .report import Report, read, write

_ROOT = Path(__file__).parents[2]


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a campaign as the command line says."""
    options = _parser().parse_args(arguments)
    if options.list:
        print("\n".join(f"{fault.name:26} {fault.breaks}" for fault in FAULTS.values()))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what runs is ended
    may_mount = own_mounts()
    lacks = {name: FAULTS[name].lacks(options.way, options.queue, may_mount) for name in FAULTS}
    rounds, skipped = _rounds(options, lacks)
    for name, why in skipped.items():
        tell(f"not injected: {name} {why}")
    before, stacks = _kept(options)
    rounds = [one for one in rounds if one.name not in {result.name for result in before}]
    report = _run(options, rounds, skipped, may_mount, before, stacks + 1)
    print(report.text())
    if options.save:
        write([report], _ROOT / "benchmarks" / "results")
    sys.exit(not report.is_kept)


def _rounds(options: argparse.Namespace, lacks: dict[str, str]) -> tuple[list[Round], dict[str, str]]:
    """Return the rounds that the options choose, and what cannot be injected here, with the reason."""
    able = {name: fault for name, fault in FAULTS.items() if not lacks[name]}
    names = options.faults or ([] if options.mix is not None else SHORT if options.short else tuple(FAULTS))
    mix = options.mix if options.mix is not None else 0 if options.faults else 2 if options.short else len(able)
    rounds = rounds_of([able[name] for name in names if name in able], options.messages)
    rounds += mixed(able, mix, options.messages, random.Random(options.seed))
    return rounds, {name: lacks[name] for name in names if lacks[name]}


def _kept(options: argparse.Namespace) -> tuple[list[Result], int]:
    """Return the rounds that a campaign of the same seed has kept in --json, and on how many stacks they ran."""
    if not options.json or not options.json.exists():
        return [], 0
    found = read(options.json.read_text())
    same = {"seed": options.seed, "way": options.way, "queue": options.queue}
    if any(found.facts[name] != value for name, value in same.items()):
        sys.exit(f"{options.json} holds another campaign: {found.facts}")
    return list(found.results), found.facts["stacks"]


def _run(
    options: argparse.Namespace,
    rounds: list[Round],
    skipped: dict[str, str],
    may_mount: bool,
    before: list[Result],
    stacks: int,
) -> Report:
    results = list(before)

    def report(verdict: Verdict | None = None) -> Report:
        facts = {
            "seed": options.seed, "way": options.way, "queue": options.queue,
            "rounds": f"{len(results)} of {len(before) + len(rounds)}",
            "messages": sum(result.sent for result in results), "rate": options.rate,
            "sweep and drain each": f"{options.minute:g} s",
            "minutes": round(sum(result.seconds for result in results) / 60, 1),
            "stacks": stacks,
        }  # fmt: skip
        return Report(facts, results, verdict, skipped)

    tell(f"seed {options.seed}: {len(rounds)} rounds of {options.messages} messages, {options.way}, {options.queue}")
    with scratch() as place, open_plant(place, options.way, options.queue, options.minute, may_mount) as plant:
        campaign = Campaign(plant, options.seed, options.rate, options.patience, tell)
        first = time.monotonic()
        for number, one in enumerate(rounds, 1):
            result = campaign.run(one)
            results.append(result)
            left = (time.monotonic() - first) / number * (len(rounds) - number) / 60
            went = f"{result.accepted} of {result.sent} accepted, {result.deferred} deferred, {result.hit} hit"
            end = "not recovered" if result.recovered is None else f"recovered in {result.recovered:.0f} s"
            tell(f"[{number}/{len(rounds)}] {one.name}: {went}, {end}; about {left:.0f} min left")
            for finding in result.findings[:20]:
                tell(f"  BROKEN {finding}")
            if options.json:  # after each round: what is broken off is not lost
                options.json.write_text(report().json())
        found = report(campaign.all())
    if options.json:
        options.json.write_text(found.json())
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="script/benchmark faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--faults", nargs="+", choices=FAULTS, metavar="NAME", default=(), help="these alone; --list tells all")
    add("--mix", type=int, help="so many faults drawn from the seed, two or three at once")
    add("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="of messages, kills and the mix")
    add("--messages", type=int, default=400, help="in each round, and more where a fault takes longer")
    add("--rate", type=float, default=30.0, help="messages a second")
    add("--short", action="store_true", help="a handful of faults, one of each kind, and a mix of two")
    add("--list", action="store_true", help="list the faults")
    add("--way", choices=WAYS, default="pipe", help="from Postfix to the service")
    add("--queue", choices=QUEUES, default="postgresql", help="where tasks wait")
    add("--minute", type=float, default=10.0, help="seconds between two sweeps; 60 leaves them to the workers alone")
    add("--patience", type=float, default=240.0, help="seconds that the stack may take to recover")
    add("--json", type=Path, help="a file for all results, and to go on with those in it")
    add("--save", action="store_true", help="write faults.md and faults.json into benchmarks/results")
    return parser


if __name__ == "__main__":
    main()
