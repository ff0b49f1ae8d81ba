"""A recipient is read as Postfix reads it: RCPT's answer and the delivery agree, by each way and with each map.

Never 250 at RCPT and then a bounce or a mail that is deferred for ever, and never another organization's mail.
"""

import re

import pytest

from tests.support.lab.deployment import DOMAIN as D
from tests.support.lab.deployment import Deployment
from tests.support.lab.process import scratch
from tests.support.rcpt import POSTMASTER, SLUGS, STRANGER, row, say, status

ACCEPTED = {
    f"<orders+acme@{D}>": "acme",
    # Letter case, dots, folding
    f"<Orders+ACME@{D.upper()}>": "acme",
    f"<orders+acme@{D}.>": "acme",
    f"<orders+\u212aiss@{D}>": "kiss",
    f"<orders+ki\u017fs@{D}>": "kiss",
    f"<orders+ki\u00df@{D}>": "kiss",
    f"<order\u017f+acme@{D}>": "acme",
    # Quotes and backslashes
    f'<"orders+acme"@{D}>': "acme",
    f'<"orders+acme"@{D}.>': "acme",
    rf'<"orders\+acme"@{D}>': "acme",
    rf'<"orders+ac\me"@{D}>': "acme",
    rf"<orders\+acme@{D}>": "acme",
    rf"<orders+ac\me@{D}>": "acme",
    f'<"orders+acme@{D}">': "acme",
    f'<"orders+acme"@"{D}">': "acme",
    f'"orders+acme"@{D}': "acme",
    # Source routes, percent hack, bang paths
    f"<@a.example,@b.example:orders+acme@{D}>": "acme",
    f"<@{D}:orders+beta@{D}>": "beta",
    f"<@x(:orders+acme@{D}>": "acme",
    f"<orders+acme%{D}>": "acme",
    f"<{D}!orders+acme>": "acme",
    # Blanks, comments, groups, phrases, lists, brackets
    f" <orders+acme@{D}>": "acme",
    f"< orders+acme@{D} >": "acme",
    f"<orders+acme @ {D}>": "acme",
    f"orders+acme@{D}": "acme",
    f"  orders+acme@{D}": "acme",
    f"<orders+acme(comment (two))@{D}>": "acme",
    f"<(comment)orders+acme@{D}(comment)>": "acme",
    f"<g:orders+acme@{D}.;>": "acme",
    f"<x<orders+acme@{D}>>": "acme",
    f"<,orders+acme@{D}>": "acme",
    f"<<@x:orders+acme@{D}>>": "acme",
    f"<orders+acme@{D}>;": "acme",
    # Postmaster's
    "<postmaster>": POSTMASTER,
    f"<postmaster@{D}>": POSTMASTER,
    f"<Postmaster@{D}.>": POSTMASTER,
    f'<"postmaster"@{D}>': POSTMASTER,
    f"<@a:abuse@{D}>": POSTMASTER,
    f"<abuse(c)@{D}>": POSTMASTER,
    f"<postmaster+acme@{D}>": POSTMASTER,
}
REFUSED = (
    f"<orders+acme@{D}..>",
    f"<orders+acme@.{D}>",
    f"<orders+acme@sub.{D}>",
    "<orders+acme@[127.0.0.1]>",
    "<orders+acme@[192.0.2.1]>",
    f"<orders+acme@[{D}]>",
    f"<orders+acme@{D}@{D}>",
    f"<orders+acme%{D}@{D}>",
    f"<orders+acme%other.example@{D}>",
    f"<a!orders+acme@{D}>",
    f'<"orders+acme@{D}"@{D}>',
    f"<orders+acme+x@{D}>",
    f"<orders++acme@{D}>",
    f"<orders+@{D}>",
    f"<orders@{D}>",
    f"<orders-acme@{D}>",
    f"<orders=acme@{D}>",
    f"<orders+-acme@{D}>",
    f"<orders+acme'@{D}>",
    f"<orders+acme.@{D}>",
    f"<orders+acme:x@{D}>",
    f"<orders+\uff41cme@{D}>",
    f"<orders+äcme@{D}>",
    f"<orders+acme@{D}\u3002>",
    f'<"orders+acme "@{D}>',
    f'<" orders+acme"@{D}>',
    f'<"orders+ac me"@{D}>',
    f'<"orders+a\\"cme"@{D}>',
    f'<orders+"acme"@{D}>',
    f"<orders+acme,orders+beta@{D}>",
    f"<orders+acme@{D},orders+beta@{D}>",
    f"<orders+acme@{D}:25>",
    f"Name <orders+acme@{D}>",
    f"<postmaster%{D}@{D}>",
    "<orders+acme@>",
    "<>",
)


@pytest.fixture(scope="module", params=["pipe", "lmtp", "before-queue", "lmtp, postgresql", "pipe, own network"])
def deployment(request):
    way, _, what = request.param.partition(", ")
    settings, map_by = {}, "database" if what else "service"
    if what == "postgresql":
        settings["DATABASE_URL"] = request.getfixturevalue("postgres").create_database("recipients")
    own = "minimal_backoff_time = 300s\nmaximal_backoff_time = 300s\n" + ("" if what == "own network" else STRANGER)
    with scratch() as place:
        deployment = Deployment(place, settings, way=way, service=True, overrides=own, map_by=map_by)
        deployment.set_up(*SLUGS)
        with deployment:
            yield deployment


@pytest.mark.parametrize(("form", "owner"), ACCEPTED.items(), ids=ascii)
def test_what_is_accepted_at_rcpt_is_delivered_to_whom_it_names(deployment, form, owner):
    subject = f"accepted-{list(ACCEPTED).index(form)}"
    rcpt, reply = say(deployment, form, subject)
    assert rcpt.startswith("250"), rcpt
    assert status(deployment, reply) in ("250", "sent"), reply
    found = row(deployment, subject)
    if owner == POSTMASTER:
        assert found is None
    else:
        slug, recipient = found
        assert slug == owner and "@" in recipient and not re.search(r'["\\<>()%!:; ]|\.$', recipient), recipient


@pytest.mark.parametrize("form", REFUSED, ids=ascii)
def test_what_names_nobody_is_refused_at_rcpt_and_else_reaches_no_organization(deployment, form):
    subject = f"refused-{REFUSED.index(form)}"
    rcpt, reply = say(deployment, form, subject)
    if rcpt.startswith("250"):  # our own network may send to the world
        assert STRANGER not in deployment.postfix.config_directory.joinpath("main.cf").read_text()
        assert status(deployment, reply) == "sent"
    else:
        assert rcpt.startswith("5"), rcpt
    assert row(deployment, subject) is None


@pytest.mark.parametrize("way", ["pipe", "before-queue"])
def test_a_recipient_without_a_domain_is_taken_where_postfix_takes_it(way):
    """It does where the host itself is named as our domain."""
    names = f"myhostname = {D}\nmyorigin = {D}\n"
    with scratch() as place:
        deployment = Deployment(place, way=way, service=True, overrides=STRANGER + names)
        deployment.set_up("acme")
        with deployment:
            rcpt, reply = say(deployment, "<orders+acme>", "no domain")
            assert rcpt.startswith("250"), rcpt
            assert status(deployment, reply) in ("250", "sent"), reply
            assert row(deployment, "no domain") == ("acme", f"orders+acme@{D}")
            assert say(deployment, "<orders+nope>", "nobody")[0].startswith("550")
