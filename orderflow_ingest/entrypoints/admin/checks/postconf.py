"""What a Postfix is set to, asked of its own postconf(1) and postmap(1), never read from its files.

A service of master.cf may set a parameter for itself with -o. Main.cf's value counts where it does not.
"""

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orderflow_ingest.entrypoints.cli.run_as import ENVIRONMENT

_COMPLAINT = re.compile(r"(?:line (\d+): )?(overriding earlier entry|unused parameter): ([^=\s]+)")
_WORD = re.compile(r"\S+")
_TIME = re.compile(r"(\d+)([smhdw]?)")
_TABLE = re.compile(r"(?:[^\s,{}]|\{(?:[^{}]|\{[^{}]*\})*\})+")
_MAP_SERVERS = re.compile(r"^hosts\s*=(.*(?:\n[ \t].*)*)", re.MULTILINE)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


@dataclass(frozen=True)
class Service:
    """An entry of master.cf: its name and type, whether it is chrooted, how many processes, and its command."""

    name: str
    type: str
    chroot: str
    maxproc: str
    command: str

    @property
    def daemon(self) -> str:
        return self.command.partition(" ")[0]

    def attribute(self, name: str) -> str | None:
        """Return an attribute of pipe(8) or lmtp(8), such as user=, or None if it is not there."""
        return next((word.partition("=")[2] for word in self.command.split()[1:] if word.startswith(f"{name}=")), None)

    @property
    def argv(self) -> list[str]:
        """Return pipe(8)'s command and arguments, macros as they stand, without the braces around one with blanks."""
        return list(_words(self.command.partition(" argv=")[2]))


def map_servers(text: str) -> list[str]:
    """Return the entries of `hosts` in a table of pgsql_table(5)."""
    return " ".join(_MAP_SERVERS.findall(text)).replace(",", " ").split()


class Postconf:
    """One Postfix. Its methods raise subprocess.CalledProcessError."""

    def __init__(self, program: str, config: str | None):
        self.program = program
        self.config_directory = str(Path(config).resolve()) if config else "/etc/postfix"
        self.services = [self._service(line) for line in self._run("-M").splitlines() if line.strip()]
        self._options = self._listed("-Px")
        self._values = self._listed("-x")
        self.complaints = self._complaints()

    def value(self, name: str, service: Service | None = None) -> str:
        """Return what a parameter is set to, for a service or in main.cf."""
        own = f"{service.name}/{service.type}/{name}" if service else ""
        if own in self._options:
            return self._options[own]
        return self._values[name] if name in self._values else self._run("-xh", name).strip()

    def seconds(self, name: str, service: Service | None = None) -> float:
        """Return a time in seconds. 0.0 where there is none. A number alone is of the unit that its default has."""
        found = _TIME.fullmatch(self.value(name, service))
        return float(found[1]) * _UNITS[found[2] or self._usual_unit(name)] if found else 0.0

    def service(self, name: str) -> Service | None:
        """Return the service of type unix of that name."""
        return next((s for s in self.services if (s.name, s.type) == (name, "unix")), None)

    def tables(self, name: str) -> list[str]:
        """Return the tables that a parameter lists, without `proxy:`. `inline:{ { a = b } }` is one, blanks and all."""
        found = _TABLE.findall(self.value(name))
        return [table.removeprefix("proxy:") for table in found]

    def lookup(self, key: str, table: str, account: pwd.struct_passwd | None = None) -> tuple[str | None, str]:
        """Look a key up as Postfix does. Return what was found, if anything, and what postmap complained of.

        As a user where one is given: root reads what Postfix's user may not.
        """
        postmap = str(Path(self.program).with_name("postmap"))
        ended = subprocess.run(
            [postmap, "-c", self.config_directory, "-q", key, table], capture_output=True, text=True, cwd="/",
            env=ENVIRONMENT, **_as(account),
        )  # fmt: skip
        errors = [line for line in ended.stderr.splitlines() if not _COMPLAINT.search(line)]
        return (ended.stdout.strip() if ended.returncode == 0 else None), "\n".join(errors)

    def _usual_unit(self, name: str) -> str:
        """Return the unit of a parameter's default, such as d of maximal_queue_lifetime. S where it has none."""
        found = _TIME.fullmatch(self._run("-dxh", name).strip())
        return (found[2] if found else "") or "s"

    def _complaints(self) -> list[tuple[str, str, str]]:
        """Return what postconf finds wrong in main.cf: line, what, and the parameter's name."""
        command = [self.program, "-c", self.config_directory, "-n"]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stderr
        found = (_COMPLAINT.search(line) for line in output.splitlines())
        return sorted({(one[1] or "", one[2], one[3]) for one in found if one})

    def _listed(self, *arguments: str) -> dict[str, str]:
        """Return what postconf lists, by name."""
        pairs = (line.partition(" =")[::2] for line in self._run(*arguments).splitlines())
        return {name: value.strip() for name, value in pairs}

    @staticmethod
    def _service(line: str) -> Service:
        name, type_, _, _, chroot, _, maxproc, command = line.split(None, 7)
        return Service(name, type_, chroot, maxproc, command)

    def _run(self, *arguments: str) -> str:
        command = [self.program, "-c", self.config_directory, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=ENVIRONMENT).stdout


def _as(account: pwd.struct_passwd | None) -> dict[str, Any]:
    """Return the arguments of subprocess that make a program run as a user. Root alone can."""
    if account is None or os.geteuid():
        return {}
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


def _words(text: str) -> Iterator[str]:
    """Split a command at its blanks, but for those between `{` and `}`, which begin and end a word."""
    begin = -1  # of the braces that are open
    for found in _WORD.finditer(text):
        word = found[0]
        if begin < 0 and word.startswith("{") and "}" not in word[:-1]:
            begin = found.start() + 1
        if begin < 0:
            yield word
        elif word.endswith("}"):
            yield text[begin : found.end() - 1].strip()
            begin = -1
    if begin >= 0:
        yield text[begin - 1 :].strip()
