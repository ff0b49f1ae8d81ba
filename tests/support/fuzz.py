"""The fuzzer of the MIME reader: damaged mails, and what has to hold for each of them.

    python -m tests.support.fuzz [--seeds DIR] [--executions N] [--seconds S] [--processes P] [--seed N] [--engine NAME]
                         [--findings DIR]
    python -m tests.support.fuzz --reproduce FILE

Each execution damages a mail as `mutations` says and reads it with read_parts. It is a finding if

- anything is raised, or a net inside caught something ("reading failed", "decoding failed");
- it takes more than 2 s of CPU, or MORE_MEMORY more of address space than there was at the start;
- a text would not fit a database, a file name is not safe, or not the same when made safe again, a path comes twice,
  a reason is none of REASONS, or what is taken exceeds what a mail and its containers can hold.

A finding is saved in --findings, the smallest mail of each kind, and told with the command that shows it again; the
command ends with 1. The slowest mail is saved too. Mails come from --seeds, a directory, and from `mutations.seeds`.

Engines: "atheris" is guided by the coverage of orderflow_ingest, and is taken if atheris is installed; "own" is blind,
needs nothing, and finds the same for the same --seed and --executions. Own reads ten times as many mails a second, but
of three faults planted for trial atheris found one in 40 s that took three conditions, and own none in 240,000 mails.
"""

import argparse
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

from orderflow_ingest.parsing.documents import Part, Reason, read_parts
from orderflow_ingest.parsing.documents.walk import UNPACKED_LIMIT
from orderflow_ingest.parsing.mime.filenames import safe_filename

from .mutations import LARGEST, damage, mutate, seeds

CPU_SECONDS = 2.0
MORE_MEMORY = 1_000_000_000
REASONS = frozenset(Reason) - {Reason.UNREADABLE}
_TIMES_THE_MAIL = 6  # the mail itself, four times as much nested in encoded messages, files uuencoded in text
_TEXT, _PATH = 1000, 2000  # characters; a path is in an index, whose rows PostgreSQL limits to 2704 bytes
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f/\\\\\u202a-\u202e\u2066-\u2069]")
_CAUGHT = re.compile("reading failed|decoding failed|opening failed")
_ROOT = Path(__file__).parents[2]


class TooSlow(BaseException):
    """The CPU seconds of an execution are over; no Exception, or the reader's own nets would catch it."""


def violations(raw: bytes, read: Callable[[bytes], Iterable[Part]] | None = None) -> list[str]:
    """Read a mail and tell what does not hold; the text before the colon is the kind of finding."""
    try:
        return list(dict.fromkeys(_check(raw, read)))
    except TooSlow as stopped:
        return [f"too slow in {stopped}: more than {CPU_SECONDS} s for {len(raw)} bytes"]
    except Exception as error:
        return [f"{type(error).__name__} in {_origin(error)}: {error}"]


def _check(raw: bytes, read: Callable[[bytes], Iterable[Part]] | None) -> Iterator[str]:
    paths, taken, count = set[str](), 0, 0
    for part in read(raw) if read else read_parts(raw):
        count += 1
        paths.add(part.path)
        taken += len(part.data) if part.is_document else 0
        names = (part.filename, part.claimed_filename, part.declared_type, part.detected_type, part.content_type)
        for text in (part.path, *names, part.reason, *part.defects):
            if text is not None and (_UNSTORABLE.search(text) or len(text) > (_PATH if text == part.path else _TEXT)):
                yield f"text cannot be stored: {text[:100]!r}"
        if part.reason not in REASONS:
            yield f"unknown reason {part.reason}: {part.defects}"
        for defect in (one for one in part.defects if _CAUGHT.search(one)):
            yield f"caught inside, {defect}: at {part.path}"
        if (name := part.filename) is not None:
            if not name or _UNSAFE.search(name) or len(name.encode()) > 200 or name.strip(" .") != name:
                yield f"file name is not safe: {name!r}"
            elif safe_filename(name) != name and "%" not in name:  # its escapes were kept
                yield f"file name is not the same when made safe again: {name!r}"
    if len(paths) != count:
        yield f"a path comes twice: {count} parts have {len(paths)} paths"
    if taken > _TIMES_THE_MAIL * len(raw) + UNPACKED_LIMIT:
        yield f"too much is taken: {taken} bytes of {len(raw)}"


def _origin(error: BaseException) -> str:
    """Name the innermost line of ours that an error came through."""
    found, trace = "?", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "orderflow_ingest" in code.co_filename:
            found = f"{Path(code.co_filename).name} {code.co_name} line {trace.tb_lineno}"
        trace = trace.tb_next
    return found


def _stop(_: int, frame: FrameType | None) -> None:
    while frame is not None and "orderflow_ingest" not in frame.f_code.co_filename:
        frame = frame.f_back
    raise TooSlow(f"{Path(frame.f_code.co_filename).name} {frame.f_code.co_name}" if frame else "?")


def limited(raw: bytes) -> tuple[list[str], float]:
    """Read a mail within the limit of CPU, and return what does not hold and the seconds that it took."""
    began = time.process_time()
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
    try:
        found = violations(raw)
    except TooSlow:  # between two limits
        found = ["too slow in ?: at the limit"]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return found, time.process_time() - began


def limit() -> None:
    """Set the limits of this process."""
    signal.signal(signal.SIGVTALRM, _stop)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def file_name(kind: str) -> str:
    """Return the name of the file that a kind of finding is saved in."""
    return re.sub(r"[^A-Za-z0-9]+", "-", kind) + ".eml"


class Campaign:
    """Executions of one process: how many, the slowest, and the smallest mail of each kind of finding."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.place: Path = options.findings
        self.place.mkdir(parents=True, exist_ok=True)
        self.executions: int = options.executions
        self.until = time.monotonic() + options.seconds if options.seconds else float("inf")
        self.began = time.monotonic()
        self.count = 0
        self.slowest = (0.0, 0)
        self.found: dict[str, tuple[int, str]] = {}

    @property
    def over(self) -> bool:
        """Return whether there were enough."""
        return self.count >= self.executions or time.monotonic() >= self.until

    def execute(self, raw: bytes) -> None:
        """Read a mail, and keep it if it is a finding."""
        told, taken = limited(raw)
        self.count += 1
        if taken > self.slowest[0]:
            self.slowest = (round(taken, 3), len(raw))
            (self.place / "slowest.eml").write_bytes(raw)
        self.keep(raw, told)

    def keep(self, raw: bytes, told: Sequence[str]) -> None:
        """Save a mail for each kind of finding of which it is the smallest."""
        for text in told:
            kind = text.partition(":")[0]
            if kind not in self.found or len(raw) < self.found[kind][0]:
                self.found[kind] = (len(raw), text)
                (self.place / file_name(kind)).write_bytes(raw)

    def tell(self) -> None:
        """Print what there was, in a line that the parent reads."""
        seconds = time.monotonic() - self.began
        figures = {"executions": self.count, "seconds": seconds, "slowest": self.slowest, "found": self.found}
        print(json.dumps(figures), flush=True)


def _run_own(campaign: Campaign, mails: Sequence[bytes], seed: int) -> None:
    random = Random(seed)
    for raw in mails:
        if not campaign.over:
            campaign.execute(raw)
    while not campaign.over:
        campaign.execute(mutate(random, mails))
    campaign.tell()


def _run_atheris(campaign: Campaign, mails: Sequence[bytes], seed: int) -> None:
    import atheris

    with atheris.instrument_imports(include=["orderflow_ingest"]):
        import orderflow_ingest.parsing.documents  # noqa: F401

    def execute(raw: bytes) -> None:
        campaign.execute(raw)
        if campaign.over:
            campaign.tell()
            os._exit(0)

    def change(raw: bytes, largest: int, chosen: int) -> bytes:
        random = Random(chosen)
        if random.random() < 0.2:
            return bytes(atheris.Mutate(raw, largest))
        return damage(random, raw, mails)[:largest]

    with tempfile.TemporaryDirectory() as place:
        for number, raw in enumerate(mails):
            Path(place, f"{number:06}").write_bytes(raw[:LARGEST])
        options = [f"-seed={seed}", f"-max_len={LARGEST}", "-timeout=60", "-rss_limit_mb=0", "-verbosity=0"]
        options += [f"-artifact_prefix={campaign.place}/", place]
        atheris.Setup([sys.argv[0], *options], execute, custom_mutator=change)
        limit()
        atheris.Fuzz()


def _run(options: argparse.Namespace) -> None:
    mails = seeds()
    if options.seeds:
        mails += [path.read_bytes() for path in sorted(options.seeds.rglob("*")) if path.is_file()]
    campaign = Campaign(options)
    if options.engine == "atheris":
        signal.signal(signal.SIGVTALRM, _stop)
        _run_atheris(campaign, mails, options.seed)
    limit()
    _run_own(campaign, mails, options.seed)


def main(arguments: list[str] | None = None) -> None:
    """Run a campaign, or one mail, as the command line says."""
    options = _parser().parse_args(arguments)
    if options.reproduce:
        limit()
        told, taken = limited(options.reproduce.read_bytes())
        sys.exit("\n".join(told) or print(f"nothing found, {taken:.3f} s") or 0)
    if options.child:
        _run(options)
        return
    share = ["--executions", str(-(-options.executions // options.processes)), "--seconds", str(options.seconds)]
    share += ["--engine", options.engine, "--findings", str(options.findings), "--child"]
    share += ["--seeds", str(options.seeds)] if options.seeds else []
    command = [sys.executable, "-m", "tests.support.fuzz", *share, "--seed"]
    children = [
        subprocess.Popen([*command, str(options.seed + number)], cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        for number in range(options.processes)
    ]
    said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        sys.exit("a process of the fuzzer died")
    sys.exit(report([json.loads(text.splitlines()[-1]) for text in said], options))


def report(runs: Sequence[dict[str, Any]], options: argparse.Namespace) -> int:
    """Print what all processes found, and return the exit status."""
    count = sum(run["executions"] for run in runs)
    rate = sum(run["executions"] / run["seconds"] for run in runs)
    seconds, size = max(run["slowest"] for run in runs)
    print(f"{count} executions by {options.engine}, {rate:.0f} a second; the slowest {seconds} s for {size} bytes")
    found = {kind: text for run in runs for kind, (_, text) in run["found"].items()}
    for kind, text in sorted(found.items()):
        print(f"{text}\n    python -m tests.support.fuzz --reproduce {options.findings / file_name(kind)}")
    return 1 if found else 0


def _default_engine() -> str:
    return "atheris" if importlib.util.find_spec("atheris") else "own"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--seeds", type=Path, help="a directory of mails to begin with, beside the built-in ones")
    add("--executions", type=int, default=100_000, help="how many in all")
    add("--seconds", type=float, default=0.0, help="how long at the most; 0 for no limit")
    add("--processes", type=int, default=1, help="how many at a time")
    add("--seed", type=int, default=1, help="of the chance; each process adds its number")
    add("--engine", choices=("own", "atheris"), default=_default_engine(), help="how mails are chosen")
    add("--findings", type=Path, default=Path("findings"), help="where findings are saved")
    add("--reproduce", type=Path, metavar="FILE", help="read one mail and tell what does not hold")
    add("--child", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main()
