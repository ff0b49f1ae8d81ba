"""Keeping: whether all that should be there is there, and that what should go goes.

    reconcile    holds spool, rows, archive and queue against each other, and mends what is safe to mend
    retention    deletes the objects that their organisation does not keep any longer
    erasure      deletes all that there is of an organisation, a sender or a message

All three join what the archive lists, in the order of keys, with what the rows say, which `ledger` sorts by digest:
one listing and one reading of an organisation's rows, with a few megabytes of memory however many there are.
"""

from .erasure import Erased, Request, erase
from .findings import Digests, Finding, Scope, Trouble
from .ledger import Ledger
from .reconcile import reconcile, reconcile_host
from .retention import Retained, Rule, retain, rule_of

__all__ = [
    "Digests",
    "Erased",
    "Finding",
    "Ledger",
    "Request",
    "Retained",
    "Rule",
    "Scope",
    "Trouble",
    "erase",
    "reconcile",
    "reconcile_host",
    "retain",
    "rule_of",
]
