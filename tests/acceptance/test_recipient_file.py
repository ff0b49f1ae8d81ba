"""The file of `--map database` is put right where it is gone, closed, damaged or old; nobody hears 550."""

import os

import pytest

from orderflow_ingest.storage.database import DatabaseUnavailable
from tests.support.fakes import embedded
from tests.support.lab.deployment import DOMAIN, Deployment
from tests.support.lab.process import scratch, wait_until
from tests.support.rcpt import say

BROKEN = {
    "gone": lambda file: file.unlink(),
    "closed": lambda file: file.chmod(0),
    "damaged": lambda file: file.write_bytes(b"no database" * 500),
    "empty": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("how", [*BROKEN, "old"])
def test_a_file_that_is_not_right_is_written_again_once(place, how):
    app, file = embedded(place), place / "recipients.db"
    organizations = app.records.organizations
    organizations.publish(file)
    if how == "old":
        organizations.add("late", "Late")
    else:
        BROKEN[how](file)
    active = {org.slug for org in organizations.all()}
    assert organizations.keep_published(file) and not organizations.keep_published(file)
    assert organizations.published(file) == active and file.stat().st_mode & 0o777 == 0o644
    assert not (place / "recipients.db.new").exists()


def test_a_file_that_is_right_is_not_touched(place):
    app, file = embedded(place), place / "recipients.db"
    app.records.organizations.publish(file)
    before = os.stat(file)
    assert not app.records.organizations.keep_published(file)
    after = os.stat(file)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_place_that_cannot_be_written_is_told(place):
    app = embedded(place)
    with pytest.raises(DatabaseUnavailable, match=r"recipients\.db cannot be"):
        app.records.organizations.keep_published(place / "missing" / "recipients.db")


def test_what_cannot_be_replaced_is_told_and_looked_at_again(place):
    """In the service nothing but DatabaseUnavailable is expected: another error would end its looking."""
    app, file = embedded(place), place / "recipients.db"
    file.mkdir(mode=0o755)
    with pytest.raises(DatabaseUnavailable, match=r"recipients\.db cannot be replaced"):
        app.records.organizations.keep_published(file)
    file.rmdir()
    assert app.records.organizations.keep_published(file)


def test_behind_postfix_the_file_comes_back_and_senders_are_answered():
    """Postfix is made to open the file again each time; until it can, it does not greet, and a sender waits."""
    with scratch() as place:
        deployment = Deployment(place, way="lmtp", service=True, map_by="database")
        deployment.set_up("acme")
        with deployment:
            for number, broken in enumerate(BROKEN.values()):
                broken(deployment.state / "recipients.db")
                deployment.postfix.reload()
                assert wait_until(lambda number=number: answered(deployment, number), 120)
                assert say(deployment, f"<orders+nope@{DOMAIN}>", "nobody")[0].startswith("550")


def answered(deployment, number) -> bool:
    """Return whether a mail was taken; any refusal but a temporary one is wrong."""
    try:
        rcpt, reply = say(deployment, f"<orders+acme@{DOMAIN}>", f"again-{number}")
    except OSError:  # silent for a minute, or the connection was closed
        return False
    assert rcpt[:1] in ("2", "4", ""), rcpt
    return reply.startswith("250")
