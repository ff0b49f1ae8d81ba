"""An organization's address is read the same way everywhere: delimiters, spellings of a domain, folding."""

import pytest

from orderflow_ingest.config import SettingsError, load
from orderflow_ingest.domain.addresses import Addresses, ForeignDomainError, ascii_domain, is_slug, unicode_domain

OURS = Addresses("orders", "+", ("orderflow.example.com", "orders.example.net"))
BOOKS, STREET = "xn--bcher-kva.example", "xn--strae-oqa.example"


def loaded(**settings):
    return load(environ={"ORDERFLOW_SETTINGS": "/dev/null", **settings})


@pytest.mark.parametrize("text", ["a", "0", "acme", "acme-2", "a--b", "7-eleven", "a" * 63, "xn--bcher-kva"])
def test_a_good_slug(text):
    assert is_slug(text)


@pytest.mark.parametrize(
    "text",
    ["", "-", "-a", "a-", "A", "Acme", "a_b", "a.b", "a+b", "a b", "a\n", "\na", "ä", "a" * 64, "a/b", "٣", "a\0"],
)
def test_a_bad_slug(text):
    assert not is_slug(text)


@pytest.mark.parametrize(
    ("recipient", "slug"),
    [
        ("orders+acme@orderflow.example.com", "acme"),
        ("Orders+ACME@OrderFlow.Example.COM", "acme"),
        ("orders+acme-2@orders.example.net", "acme-2"),
        ("orders+acme@orderflow.example.com.", "acme"),
        ("order\u017f+\u212ai\u017fs@Orderflow.example.com", "kiss"),
        ("orders+gro\u00df@orders.example.net", "gross"),
        ("orders+\uff41cme@orderflow.example.com", None),
        ("orders@orderflow.example.com", None),
        ("orders+@orderflow.example.com", None),
        ("orders+a+b@orderflow.example.com", None),
        ("orders+-acme@orderflow.example.com", None),
        ("orders-acme@orderflow.example.com", None),
        ("invoices+acme@orderflow.example.com", None),
        ("+acme@orderflow.example.com", None),
        ('"orders+acme"@orderflow.example.com', None),
        ("orders+acme@evil@orderflow.example.com", None),
        ("orders+../../etc@orderflow.example.com", None),
        ("orders+ac me@orderflow.example.com", None),
        ("orders+" + "a" * 64 + "@orderflow.example.com", None),
        ("orders+b\udce9@orderflow.example.com", None),
    ],
)
def test_the_extension_alone_names_the_organization(recipient, slug):
    assert OURS.slug(recipient) == slug


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "orders+acme",
        "orders+acme@",
        "orders+acme@example.com",
        "orders+acme@evil.orderflow.example.com",
        "orders+acme@orderflow.example.com..",
        "orders+acme@.",
        "orders+acme@orderflow.example.com@evil.example",
    ],
)
def test_a_foreign_domain_is_our_fault_and_not_the_senders(recipient):
    with pytest.raises(ForeignDomainError) as refused:
        OURS.slug(recipient)
    assert "acme" not in str(refused.value)


# Delimiters


@pytest.mark.parametrize(
    ("delimiters", "recipient", "slug"),
    [
        ("-", "orders-acme@x.example", "acme"),
        ("-", "orders-acme-shop@x.example", "acme-shop"),
        ("-", "Orders-ACME-Shop@x.example", "acme-shop"),
        ("-", "orders--acme@x.example", None),
        ("-", "orders+acme@x.example", None),
        ("-", "orders-@x.example", None),
        ("-", "-acme@x.example", None),
        # Postfix does not divide such a name itself (owner_request_special); its map and ours get the whole address.
        ("-", "orders-request@x.example", "request"),
        ("=", "orders=acme@x.example", "acme"),
        (".", "orders.acme@x.example", "acme"),
        ("_", "orders_acme@x.example", "acme"),
        ("+-", "orders+acme-shop@x.example", "acme-shop"),
        ("+-", "orders-acme-shop@x.example", "acme-shop"),
        ("+-", "orders-acme+shop@x.example", None),
        ("-+", "orders+acme@x.example", "acme"),
    ],
)
def test_the_first_delimiter_divides(delimiters, recipient, slug):
    assert Addresses("orders", delimiters, ("x.example",)).slug(recipient) == slug


@pytest.mark.parametrize("delimiters", ["+", "-", "=+", "_-+=."])
def test_the_address_that_is_shown_names_its_organization(delimiters):
    addresses = Addresses("orders", delimiters, ("x.example", BOOKS))
    assert addresses.of("acme-shop") == f"orders{delimiters[0]}acme-shop@x.example"
    assert addresses.slug(addresses.of("acme-shop")) == addresses.slug(addresses.of("acme-shop", BOOKS)) == "acme-shop"


@pytest.mark.parametrize("delimiters", ["-", "+-.", "_"])
def test_a_local_part_that_holds_a_delimiter_is_refused_by_name(delimiters):
    given = {"ORDERFLOW_LOCAL_PART": "our-own_or.ders", "ORDERFLOW_RECIPIENT_DELIMITER": delimiters}
    with pytest.raises(SettingsError, match=r"ORDERFLOW_LOCAL_PART must not hold .* ORDERFLOW_RECIPIENT_DELIMITER"):
        loaded(**given)


@pytest.mark.parametrize("delimiters", ["a", "++", "+ ", "%", "@", "+-%", "!"])
def test_a_delimiter_that_cannot_divide_is_refused(delimiters):
    with pytest.raises(SettingsError, match="ORDERFLOW_RECIPIENT_DELIMITER must be different characters of"):
        loaded(ORDERFLOW_RECIPIENT_DELIMITER=delimiters)


# Domains beyond ASCII


@pytest.mark.parametrize("spelling", ["bücher.example", "BÜCHER.Example", BOOKS, BOOKS.upper(), "bu\u0308cher.example"])
def test_both_spellings_of_a_domain_are_one(spelling):
    settings = loaded(ORDERFLOW_DOMAIN=f"{spelling}, x.example, {BOOKS}")
    assert settings.domains == (BOOKS, "x.example")
    assert settings.addresses.spellings == (BOOKS, "bücher.example", "x.example")
    assert settings.addresses.of("acme") == f"orders+acme@{BOOKS}"
    for domain in ("bücher.example", "BÜCHER.EXAMPLE", "bücher.example.", BOOKS, BOOKS.upper()):
        assert settings.addresses.slug(f"orders+acme@{domain}") == "acme"
        assert settings.addresses.is_postmaster(f"Postmaster@{domain}")
    for other in ("bucher.example", "xn--bcher-kva.example.com", "xn--bcher.example", "b\xfccher\udce9.example"):
        with pytest.raises(ForeignDomainError):
            settings.addresses.slug(f"orders+acme@{other}")


@pytest.mark.parametrize("name", ["straße.example", "βόλος.example", "a\u200db.example", "😀\u0378.example"])
def test_a_name_that_the_standards_read_differently_is_refused_with_what_to_write(name):
    with pytest.raises(SettingsError, match=r"ORDERFLOW_DOMAIN must be .* in its ASCII form, xn--"):
        loaded(ORDERFLOW_DOMAIN=name)


def test_its_ascii_form_is_taken_as_it_is():
    settings = loaded(ORDERFLOW_DOMAIN=STREET)
    assert settings.addresses.spellings == (STREET, "straße.example")
    assert settings.addresses.slug(f"orders+acme@{STREET}") == "acme"
    # Postfix folds ß to ss in its lists, so it lets in both; what it has let in is delivered.
    for domain in ("straße.example", "strasse.example", "STRASSE.example"):
        assert settings.addresses.slug(f"orders+acme@{domain}") == "acme"


@pytest.mark.parametrize(
    "name", ["xn--", "xn--a", "xn---", "xn--abc-", "xn--99999999", "-a", "a b", "a,", "é|x", "", "ü\n", "é..x"]
)
def test_what_is_no_domain_is_refused(name):
    with pytest.raises(ValueError):
        ascii_domain(name)


def test_a_plain_domain_has_one_spelling():
    assert unicode_domain("orders.example.com") == ascii_domain("Orders.Example.COM") == "orders.example.com"
