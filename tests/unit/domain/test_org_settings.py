"""The settings of an organization: what may be set, and what becomes of it."""

import pytest

from orderflow_ingest.domain.org_settings import KEYS, OrgSettingsError, changed, read_settings
from orderflow_ingest.parsing.documents import Reason, accept_types, read_parts
from tests.support.mails import mail, order


def test_with_nothing_set_an_organization_is_like_all_others():
    found = read_settings({})
    assert (found.allowed_senders, found.document_types, found.accepts_reused_message_id) == ((), (), False)
    assert found.max_message_size is found.keep_raw_days is found.keep_documents_days is None


def test_what_is_set_is_read_as_it_is_meant():
    stored = changed(
        {}, {"allowed_senders": " @Shop.example,ann@other.example  @shop.example", "reused_message_id": "ACCEPT",
             "document_types": "application/PDF, image/*", "max_message_size": "1000", "keep_raw_days": " 30 "},
    )  # fmt: skip
    found = read_settings(stored)
    assert found.allowed_senders == ("@shop.example", "ann@other.example") and found.accepts_reused_message_id
    assert found.document_types == ("application/pdf", "image/*")
    assert (found.max_message_size, found.keep_raw_days, found.keep_documents_days) == (1000, 30, None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("allowed_senders", "shop.example"), ("allowed_senders", "a@b@c"), ("allowed_senders", "x@"),
        ("allowed_senders", "<a@b.example>"), ("reused_message_id", "maybe"), ("document_types", "pdf"),
        ("document_types", "*/*"), ("document_types", "/pdf"), ("max_message_size", "0"),
        ("max_message_size", "1e6"), ("max_message_size", "-1"), ("keep_raw_days", "ever"),
        ("keep_documents_days", "²"), ("keep_raw_days", "36501"), ("keep_documents_days", "99999999"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_meant_is_refused_by_its_key_and_never_told(key, value):
    with pytest.raises(OrgSettingsError, match=f"^{key} must be ") as caught:
        changed({}, {key: value})
    assert f" {value}" not in str(caught.value)
    with pytest.raises(OrgSettingsError, match=f"^{key} must be "):
        read_settings({key: value})


@pytest.mark.parametrize("value", [17, None, ["a@b.example"], {}, True])
def test_a_value_of_another_kind_is_refused_too(value):
    with pytest.raises(OrgSettingsError):
        read_settings({"reused_message_id": value})


def test_a_key_that_an_earlier_version_stored_under_another_name_is_read_changed_and_taken_out():
    assert read_settings({"conflicts": "accept"}).accepts_reused_message_id
    assert not read_settings({"conflicts": "accept", "reused_message_id": "hold"}).accepts_reused_message_id
    assert changed({"conflicts": "accept"}, {"keep_raw_days": "9"}) == {
        "reused_message_id": "accept",
        "keep_raw_days": 9,
    }
    assert changed({"conflicts": "accept"}, {"conflicts": "hold"}) == {"reused_message_id": "hold"}
    assert changed({"conflicts": "accept"}, {"reused_message_id": ""}) == changed({}, {"conflicts": ""}) == {}


def test_a_key_of_a_newer_version_is_ignored_and_kept_and_none_is_made_up():
    stored = {"color": {"of": "invoices"}, "reused_message_id": "accept"}
    assert read_settings(stored).accepts_reused_message_id
    assert changed(stored, {"reused_message_id": "", "keep_raw_days": "9"}) == {
        "color": {"of": "invoices"},
        "keep_raw_days": 9,
    }
    with pytest.raises(OrgSettingsError, match="no setting is named color; there are allowed_senders, "):
        changed(stored, {"color": "red"})
    assert set(KEYS[0].__dataclass_fields__) >= {"name", "expected", "meaning"}


def verdicts(raw: bytes, *types: str) -> list[tuple[str, bool, Reason]]:
    return [(part.content_type, part.is_document, part.reason) for part in accept_types(read_parts(raw), types)]


def test_a_document_of_another_type_is_told_as_skipped_and_a_text_body_stays():
    raw = order(1, 1).replace(b"text/plain\n\n", b"text/plain\n\n12 widgets\n", 1)
    (_, body, pdf) = verdicts(raw, "image/*")
    assert body == ("text/plain", True, Reason.TEXT_BODY)
    assert pdf == ("application/pdf", False, Reason.NOT_ACCEPTED)
    for types in ((), ("application/pdf",), ("application/*",)):
        assert verdicts(raw, *types)[2] == ("application/pdf", True, Reason.ATTACHMENT)


def test_what_could_not_be_opened_is_not_judged_by_its_type():
    raw = mail(1, b"PK\3\4" + b"\0" * 40, Content_Type='application/zip; name="a.zip"')
    ((kind, taken, reason),) = verdicts(raw, "application/pdf")
    assert (kind, taken, reason) == ("application/zip", True, Reason.NOT_OPENED)


def test_a_domain_beyond_ascii_is_one_entry_in_both_its_spellings():
    found = read_settings({"allowed_senders": "@Bücher.example, @XN--BCHER-KVA.example, ann@straße.example"})
    assert found.allowed_senders == ("@xn--bcher-kva.example", "ann@xn--strae-oqa.example")
