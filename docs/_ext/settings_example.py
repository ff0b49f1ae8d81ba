"""Print an example of the settings file: every key as a comment, with its meaning and its default."""

import textwrap

from orderflow_ingest.config import KEYS, Key

HEAD = """\
# Settings of OrderFlow ingest, for /etc/orderflow/ingest.env (root:orderflow, mode 640).
# Every line is a comment and shows the default. Remove the # of what you change.
# Special characters in the password of a URL are written as %xx.
"""


def entry(key: Key) -> str:
    """Return the lines of a key."""
    about = textwrap.wrap(key.meaning, 116, initial_indent="# ", subsequent_indent="# ")
    if key.default_meaning:
        about += textwrap.wrap(f"default: {key.default_meaning}", 116, initial_indent="# ", subsequent_indent="# ")
    value = "" if key.default_meaning else key.default
    return "\n".join([*about, f"#{key.name}={value}"])


def text() -> str:
    """Return the whole file."""
    return "\n\n".join([HEAD.rstrip(), *map(entry, KEYS)]) + "\n"


if __name__ == "__main__":
    print(text(), end="")
