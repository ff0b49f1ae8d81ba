"""Keys of JSON before 0.1.0. Each command still writes them beside the keys of today, for programs that read them."""

from collections.abc import Mapping

# By the command: the key of today, and the former one.
FORMER_KEYS: Mapping[str, Mapping[str, str]] = {
    "archive": {"name": "what", "count": "number"},
    "canary": {"arrived": "came", "detail": "says"},
    "check": {"detail": "says"},
    "dead": {"reason": "why"},
    "documents": {"reason": "why"},
    "erase": {"name": "what", "count": "number"},
    "handover": {"detail": "says"},
    "held": {"message_id": "clashes_with"},
    "import": {"name": "what", "count": "number", "outcome": "became", "reason": "why"},
    "message": {"detail": "says"},
    "reconcile": {"target": "about", "detail": "says", "name": "what"},
    "resume": {"detail": "says"},
    "runs": {"skipped": "passed_over"},
    "test": {"name": "what"},
}
