"""What a session overrides and uses of aiosmtpd without being documented: a release that changes it fails here."""

import inspect

import pytest
from aiosmtpd.smtp import SMTP

from orderflow_ingest.entrypoints.service.lmtp_smtp import LmtpSession, SmtpSession
from orderflow_ingest.entrypoints.service.session import Session

OVERRIDDEN = {
    "_create_envelope", "_reset_timeout", "_set_post_data_state", "_timeout_cb", "command_size_limit",
    "connection_lost", "connection_made", "data_received", "handle_exception", "push", "smtp_DATA", "smtp_EHLO",
    "smtp_HELO", "smtp_MAIL", "smtp_RCPT", "smtp_VRFY",
}  # fmt: skip
# Attributes of a session of aiosmtpd that ours sets or reads.
USED = ("_reader", "_writer", "_timeout_handle", "_timeout_duration", "envelope", "session", "loop")


def own_overrides() -> set[str]:
    """Return the names that our sessions and aiosmtpd's share."""
    return {
        name
        for kind in (Session, LmtpSession, SmtpSession)
        for name in vars(kind)
        if not name.startswith("__") and any(name in vars(base) for base in SMTP.__mro__)
    }


def test_what_a_session_overrides_is_listed_here():
    assert own_overrides() == OVERRIDDEN


@pytest.mark.parametrize("name", sorted(OVERRIDDEN))
def test_an_overridden_method_takes_what_aiosmtpd_passes(name):
    base = inspect.getattr_static(SMTP, name)
    if not inspect.isroutine(base):
        return
    own = next(vars(kind)[name] for kind in (Session, SmtpSession) if name in vars(kind))
    wanted = [one.kind for one in inspect.signature(base).parameters.values()]
    assert [one.kind for one in inspect.signature(own).parameters.values()] == wanted
    assert inspect.iscoroutinefunction(own) is inspect.iscoroutinefunction(base)


@pytest.mark.parametrize("name", USED)
def test_an_attribute_that_a_session_uses_is_set_by_aiosmtpd(name):
    assert f"self.{name}" in inspect.getsource(SMTP)
