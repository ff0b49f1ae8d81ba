"""Reconciliation: what clients were promised, compared with the deployment.

A message that a client got 250 for is PARSED with exactly its documents, each handed over; or held
beside the message that has its Message-ID; or a dead letter with a reason. Everything else is a finding:

    lost        it is nowhere, or a document of it is not there or was never handed over
    doubled     it is there twice, or a document of it has two rows or two ids
    altered     an object's digest is not that of its row, or its content is not what was sent
    bounced     a client was refused for good, or Postfix gave it up
    leaked      a tenant has what was never sent to it: a row, an object among its own, a call of its handler
    failed      FAILED, with the error
    unfinished  not final when the time was up; or no client could get rid of it

reconcile() is a function of what it is given, `evidence` gathers that from rows, objects and files.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from .load import Identity, Mail

KINDS = ("lost", "doubled", "altered", "bounced", "leaked", "failed", "unfinished")


@dataclass(frozen=True)
class Row:
    """A message's row; `area` is where the objects of its tenant lie."""

    identity: Identity
    area: str
    id: UUID
    status: str
    digest: str
    raw_key: str
    error: str = ""


@dataclass(frozen=True)
class DocumentRow:
    """A document's row."""

    message: UUID
    id: UUID
    part_path: str
    digest: str
    object_key: str
    handover: str
    error: str = ""


@dataclass(frozen=True)
class Held:
    """A held mail's row."""

    message: UUID
    digest: str
    raw_key: str


@dataclass(frozen=True)
class Object:
    """What an object really holds: the digest of its bytes, and of what the sender wrote of it."""

    digest: str
    content: str


@dataclass(frozen=True)
class SetAside:
    """A dead letter: what the sender wrote of it, and whether a reason stands beside it."""

    name: str
    identity: Identity
    content: str
    has_reason: bool


@dataclass(frozen=True)
class Handed:
    """A call of the document handler."""

    document: UUID
    message: UUID
    part_path: str
    digest: str
    org: str


@dataclass(frozen=True)
class Evidence:
    """All that is there."""

    rows: Sequence[Row] = ()
    documents: Sequence[DocumentRow] = ()
    held: Sequence[Held] = ()
    objects: Mapping[str, Object] = field(default_factory=dict)
    set_aside: Sequence[SetAside] = ()
    handed: Sequence[Handed] = ()


@dataclass(frozen=True)
class Finding:
    """A promise that was not kept."""

    kind: str
    identity: Identity
    detail: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.identity.message_id} for {self.identity.org}: {self.detail}"


@dataclass(frozen=True)
class Verdict:
    """What was found wrong, and how many messages are held or dead letters as they should be."""

    findings: tuple[Finding, ...]
    parsed: int = 0
    held: int = 0
    set_aside: int = 0

    def count(self, kind: str) -> int:
        """Count the messages that have a finding of this kind."""
        return len({finding.identity for finding in self.findings if finding.kind == kind})


def reconcile(
    accepted: Mapping[Identity, set[str]], contents: Mapping[Identity, Mapping[str, Mail]], there: Evidence
) -> Verdict:
    """Compare what was accepted with the deployment; `contents` are all that was ever tried, by their digests."""
    rows = _grouped(there.rows, lambda row: row.identity)
    documents = _grouped(there.documents, lambda document: document.message)
    held = _grouped(there.held, lambda one: one.message)
    handed = _grouped(there.handed, lambda one: one.message)
    dead = _grouped(there.set_aside, lambda one: one.identity)
    findings: list[Finding] = []
    counts: Counter[str] = Counter()
    for row in there.rows:
        keys = [row.raw_key, *(one.object_key for one in documents.get(row.id, ()))]
        keys += [one.raw_key for one in held.get(row.id, ())]
        calls = handed.get(row.id, ())
        findings += [Finding("leaked", row.identity, detail) for detail in _leaks(row, contents, keys, calls)]
    for identity, digests in accepted.items():
        ours, known = rows.get(identity, []), contents[identity]
        places = Counter({one.content: 1 for one in dead.get(identity, ())})
        counts["set_aside"] += len(places)
        unexplained = (one.name for one in dead.get(identity, ()) if not one.has_reason)
        told = [("lost", f"{name} is a dead letter without a reason") for name in unexplained]
        if len(ours) > 1:
            told.append(("doubled", f"{len(ours)} rows: {', '.join(str(row.id) for row in ours)}"))
        for row in ours:
            raw = there.objects.get(row.raw_key)
            places[raw.content if raw else ""] += 1
            told += _of_object("raw mail", row.raw_key, row.digest, raw, known)
            told += _of_status(row.status, "PARSED", row.error, f"message {row.id}")
            mail = known.get(raw.content) if raw else None
            if mail and row.status == "PARSED":
                counts["parsed"] += 1
                told += _of_documents(mail, documents.get(row.id, []), handed.get(row.id, []), there.objects)
            for one in held.get(row.id, []):
                counts["held"] += 1
                raw = there.objects.get(one.raw_key)
                places[raw.content if raw else ""] += 1
                told += _of_object("held mail", one.raw_key, one.digest, raw, known)
        for digest in sorted(digests):
            if not places[digest]:
                where = f"row {ours[0].id} holds another content" if ours else "no row"
                told.append(("lost", f"content {digest[:12]} got 250 and is nowhere; {where}"))
            elif places[digest] > 1:
                told.append(("doubled", f"content {digest[:12]} is there {places[digest]} times"))
        findings += [Finding(kind, identity, detail) for kind, detail in told]
    return Verdict(tuple(findings), counts["parsed"], counts["held"], counts["set_aside"])


def _leaks(
    row: Row, contents: Mapping[Identity, object], keys: Sequence[str], calls: Sequence[Handed]
) -> Iterator[str]:
    if row.identity not in contents:
        yield f"message {row.id} was never sent to this tenant"
    yield from (f"{key} does not lie below {row.area}" for key in keys if not key.startswith(row.area))
    yield from (
        f"document {call.document} was handed over as {call.org}'s" for call in calls if call.org != row.identity.org
    )


def _grouped(items, key):  # type: ignore[no-untyped-def]
    found: dict = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def _of_object(
    what: str, key: str, digest: str, there: Object | None, known: Mapping[str, Mail] | None = None
) -> Iterator[tuple[str, str]]:
    if there is None:
        yield "lost", f"{what} {key} is not in the archive"
    elif there.digest != digest:
        yield "altered", f"{what} {key} has the digest {there.digest[:12]}, its row says {digest[:12]}"
    elif known is not None and there.content not in known:
        yield "altered", f"{what} {key} does not hold what was sent"


def _of_status(status: str, final: str, error: str, what: str) -> Iterator[tuple[str, str]]:
    if status == "FAILED":
        yield "failed", f"{what}: {error}"
    elif status != final:
        yield "unfinished", f"{what} is {status}"


def _of_documents(
    mail: Mail, rows: Sequence[DocumentRow], calls: Sequence[Handed], objects: Mapping[str, Object]
) -> Iterator[tuple[str, str]]:
    wanted, found = Counter(mail.documents), Counter(row.digest for row in rows)
    for digest in wanted | found:
        if not wanted[digest]:
            yield "altered", f"document {digest[:12]} was not in the mail"
        elif found[digest] < wanted[digest]:
            yield "lost", f"document {digest[:12]} is not recorded"
        elif found[digest] > wanted[digest]:
            yield "doubled", f"document {digest[:12]} has {found[digest]} rows"
    heard = {call.document: call.digest for call in calls}
    for row in rows:
        yield from _of_object("document", row.object_key, row.digest, objects.get(row.object_key))
        yield from _of_status(row.handover, "DONE", row.error, f"document {row.id}")
        if row.handover == "DONE" and row.id not in heard:
            yield "lost", f"document {row.id} is DONE, and its handler was never called"
        elif heard.get(row.id, row.digest) != row.digest:
            yield "altered", f"document {row.id} reached its handler with other bytes"
    for path, ids in sorted(_grouped({(call.part_path, call.document) for call in calls}, lambda one: one[0]).items()):
        if len(ids) > 1:
            yield "doubled", f"part {path} was handed over under {len(ids)} ids"
