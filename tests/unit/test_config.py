"""Settings are read from one file and the environment, and what is wrong is refused by its key's name alone."""

import os
from pathlib import Path

import pytest

from orderflow_ingest.config import KEYS, SettingsError, doubtful_lines, load, read_file, sets_nothing

SECRET = "not-for-any-log"
OTHERWISE = "systemd reads the value of {} in another way: take out backslash and lone quote"


def loaded(**environ):
    """Load settings from this environment alone; an empty file keeps /etc out of the tests."""
    return load(os.devnull, environ)


def test_without_any_settings_everything_lies_below_the_state_directory():
    found = loaded(ORDERFLOW_STATE_DIR="/srv/of")
    assert found.spool_dir == Path("/srv/of/spool")
    assert (found.database_url, found.queue_url) == ("sqlite:////srv/of/orderflow.db", "sqlite:////srv/of/queue.db")
    assert (found.archive_url, found.s3_endpoint_url) == ("file:///srv/of/archive", None)


def test_the_defaults_are_safe():
    found = loaded(ORDERFLOW_STATE_DIR="/srv/of")
    assert (found.domains, found.local_part) == (("orderflow.example.com",), "orders")
    assert (found.max_message_size, found.deadline, found.lease) == (26214400, 60, 600)
    assert (found.retry_delay, found.sweep_after, found.max_queue) == (60, 120, 100000)
    assert (found.require_tls, found.spool_accepts, found.log) == (False, False, "auto")
    assert found.document_handler == "orderflow_ingest.pipeline.handler:log_document"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_an_empty_value_means_the_default(key):
    state = {"ORDERFLOW_STATE_DIR": "/srv/of"}
    if key.name not in state:
        assert loaded(**state, **{key.name: ""}) == loaded(**state)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_says_what_it_means_and_what_it_expects(key):
    assert key.meaning and key.expected and (isinstance(key.default, str) or key.default_meaning)


def test_the_queue_is_in_the_same_database_if_that_is_postgresql():
    url = "postgresql://of:pw@db/of"
    assert (
        loaded(DATABASE_URL=url).queue_url
        == loaded(DATABASE_URL=url).database_url
        == "postgresql+psycopg://of:pw@db/of"
    )
    assert loaded(DATABASE_URL=url, QUEUE_URL="redis://r/0").queue_url == "redis://r/0"


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("ORDERFLOW_STATE_DIR", "/srv/order flow", "state_dir", Path("/srv/order flow")),
        ("ORDERFLOW_DOMAIN", "a.example", "domains", ("a.example",)),
        ("ORDERFLOW_DOMAIN", " A.Example , b.example", "domains", ("a.example", "b.example")),
        ("ORDERFLOW_LOCAL_PART", "purchase.orders_2-x", "local_part", "purchase.orders_2-x"),
        ("ORDERFLOW_MAX_MESSAGE_SIZE", "1", "max_message_size", 1),
        ("ORDERFLOW_REQUIRE_TLS", "Yes", "require_tls", True),
        ("ORDERFLOW_REQUIRE_TLS", "TRUE", "require_tls", True),
        ("ORDERFLOW_REQUIRE_TLS", "no", "require_tls", False),
        ("ORDERFLOW_SPOOL_MODE", "accept", "spool_accepts", True),
        ("ORDERFLOW_SPOOL_MODE", "defer", "spool_accepts", False),
        ("ORDERFLOW_DEADLINE", "0.5", "deadline", 0.5),
        ("ORDERFLOW_MAX_QUEUE", "0", "max_queue", 0),
        ("ORDERFLOW_DOCUMENT_HANDLER", "shop.orders:take_1", "document_handler", "shop.orders:take_1"),
        ("ORDERFLOW_LOG", "/var/log/of.log", "log", "/var/log/of.log"),
        ("ORDERFLOW_LOG", "syslog", "log", "syslog"),
        ("ORDERFLOW_RELAY", "127.0.0.1:10026", "relay", "127.0.0.1:10026"),
        ("ORDERFLOW_RELAY", "[::1]:10026", "relay", "[::1]:10026"),
        ("ORDERFLOW_RELAY", "unix:/run/back.sock", "relay", "unix:/run/back.sock"),
        ("ORDERFLOW_RELAY", "", "relay", None),
        ("DATABASE_URL", "sqlite:////srv/x.db", "database_url", "sqlite:////srv/x.db"),
        ("DATABASE_URL", "postgresql+psycopg://h/d", "database_url", "postgresql+psycopg://h/d"),
        (
            "DATABASE_URL",
            "postgresql://u:p%40@[::1]:1/d?a=b",
            "database_url",
            "postgresql+psycopg://u:p%40@[::1]:1/d?a=b",
        ),
        ("DATABASE_URL", "postgresql://u@/d?host=/run/p", "database_url", "postgresql+psycopg://u@/d?host=/run/p"),
        ("QUEUE_URL", "rediss://h:6380/1", "queue_url", "rediss://h:6380/1"),
        ("QUEUE_URL", "postgresql://h/q", "queue_url", "postgresql+psycopg://h/q"),
        ("ARCHIVE_URL", "s3://orders", "archive_url", "s3://orders"),
        ("ARCHIVE_URL", "s3://orders.example/mail/Raw_1", "archive_url", "s3://orders.example/mail/Raw_1"),
        ("ARCHIVE_URL", "file:///srv/archive", "archive_url", "file:///srv/archive"),
        ("S3_ENDPOINT_URL", "http://127.0.0.1:9000", "s3_endpoint_url", "http://127.0.0.1:9000"),
        ("S3_ENDPOINT_URL", "https://[::1]:9000", "s3_endpoint_url", "https://[::1]:9000"),
    ],
)
def test_a_good_value_is_read(name, text, field, value):
    assert getattr(loaded(**{name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ORDERFLOW_STATE_DIR", "srv/of"),
        ("ORDERFLOW_STATE_DIR", "~/of"),
        ("ORDERFLOW_DOMAIN", "a.example,"),
        ("ORDERFLOW_DOMAIN", "a example"),
        ("ORDERFLOW_DOMAIN", ".example"),
        ("ORDERFLOW_DOMAIN", "@a.example"),
        ("ORDERFLOW_LOCAL_PART", "Orders"),
        ("ORDERFLOW_LOCAL_PART", "orders+x"),
        ("ORDERFLOW_LOCAL_PART", "o" * 65),
        ("ORDERFLOW_MAX_MESSAGE_SIZE", "0"),
        ("ORDERFLOW_MAX_MESSAGE_SIZE", "25M"),
        ("ORDERFLOW_MAX_MESSAGE_SIZE", "1.5"),
        ("ORDERFLOW_REQUIRE_TLS", "maybe"),
        ("ORDERFLOW_SPOOL_MODE", "drop"),
        ("ORDERFLOW_DEADLINE", "0"),
        ("ORDERFLOW_DEADLINE", "-5"),
        ("ORDERFLOW_DEADLINE", "nan"),
        ("ORDERFLOW_DEADLINE", "inf"),
        ("ORDERFLOW_DEADLINE", "a minute"),
        ("ORDERFLOW_LEASE", ".05"),
        ("ORDERFLOW_MAX_QUEUE", "-1"),
        ("ORDERFLOW_DOCUMENT_HANDLER", "shop.orders"),
        ("ORDERFLOW_DOCUMENT_HANDLER", "shop orders:take"),
        ("ORDERFLOW_DOCUMENT_HANDLER", ":take"),
        ("ORDERFLOW_LOG", "of.log"),
        ("ORDERFLOW_RELAY", "10026"),
        ("DATABASE_URL", "postgresql://u:100%@h/d"),
        ("DATABASE_URL", "postgresql://u:a%00b@h/d"),
        ("QUEUE_URL", "postgresql://u:a@b@h/d"),
        ("MAP_DATABASE_URL", "postgresql://u:a b@h/d"),
        ("ORDERFLOW_S3_ENCRYPTION", "aes256"),
        ("ORDERFLOW_S3_CHECKSUM", "sha512"),
        ("ORDERFLOW_S3_ADDRESSING", "host"),
        ("ORDERFLOW_S3_ENCRYPTION", "aws:kms:a b"),
        ("ORDERFLOW_RELAY", "localhost:0"),
        ("ORDERFLOW_RELAY", "localhost:smtp"),
        ("ORDERFLOW_RELAY", "unix:back.sock"),
        ("ORDERFLOW_RELAY", "a b:25"),
        ("DATABASE_URL", "sqlite:///relative.db"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "mysql://of:" + SECRET + "@db/of"),
        ("DATABASE_URL", "postgresql://"),
        ("QUEUE_URL", "amqp://of:" + SECRET + "@mq"),
        ("QUEUE_URL", "redis://"),
        ("ARCHIVE_URL", "/srv/archive"),
        ("ARCHIVE_URL", "file://srv/archive"),
        ("ARCHIVE_URL", "file:///"),
        ("ARCHIVE_URL", "s3://Orders"),
        ("ARCHIVE_URL", "s3://or"),
        ("ARCHIVE_URL", "s3://key:" + SECRET + "@orders"),
        ("S3_ENDPOINT_URL", "127.0.0.1:9000"),
        ("S3_ENDPOINT_URL", "ftp://of:" + SECRET + "@h"),
        ("S3_ENDPOINT_URL", "http://"),
        ("S3_ENDPOINT_URL", "http://[::1"),
    ],
)
def test_a_bad_value_is_refused_with_the_keys_name_and_never_its_value(name, text):
    with pytest.raises(SettingsError) as refused:
        loaded(**{name: text})
    key = next(key for key in KEYS if key.name == name)
    assert str(refused.value) == f"environment: {name} must be {key.expected}"
    assert refused.value.__cause__ is None and refused.value.__suppress_context__


def test_an_unknown_key_of_ours_is_refused_by_name_with_the_one_that_is_meant():
    with pytest.raises(SettingsError) as refused:
        loaded(ORDERFLOW_DEADLNE=SECRET, ORDERFLOW_X9=SECRET, PATH="/bin")
    assert str(refused.value) == (
        "environment: unknown key ORDERFLOW_DEADLNE, ORDERFLOW_DEADLINE is meant?; "
        "environment: unknown key ORDERFLOW_X9; keys of your document handler begin with ORDERFLOW_HANDLER_"
    )


@pytest.mark.parametrize("key", [key.name for key in KEYS if key.name.startswith("ORDERFLOW_")])
def test_for_every_key_a_slip_is_answered_with_the_key(key):
    for slip in (key[:-1], key[:-2] + key[-1] + key[-2], key + "S"):
        if slip.startswith("ORDERFLOW_") and slip not in {known.name for known in KEYS}:
            with pytest.raises(SettingsError, match=f"unknown key {slip}, {key} is meant"):
                loaded(**{slip: SECRET})


def test_a_key_without_the_prefix_is_found_behind_it():
    with pytest.raises(SettingsError, match="unknown key ORDERFLOW_DATABASE_URL, DATABASE_URL is meant"):
        loaded(ORDERFLOW_DATABASE_URL=SECRET)


def test_what_is_wrong_in_the_file_is_told_by_its_line(place):
    file = written(place, f"# ours\n\nORDERFLOW_LEASE={SECRET}\n".encode())
    with pytest.raises(SettingsError) as refused:
        load(file, {})
    assert str(refused.value) == f"settings file {file}, line 3: ORDERFLOW_LEASE must be a number of seconds"
    file = written(place, f"ORDERFLOW_LEASE=5\nORDERFLOW_DOMAINS={SECRET}\n".encode())
    with pytest.raises(
        SettingsError, match=f"settings file {file}, line 2: unknown key ORDERFLOW_DOMAINS, ORDERFLOW_DOM"
    ):
        load(file, {})
    with pytest.raises(SettingsError, match="environment: ORDERFLOW_LEASE must be a number of seconds"):
        load(written(place, b"ORDERFLOW_LEASE=5\n"), {"ORDERFLOW_LEASE": SECRET})  # the one that is in force


def test_keys_of_the_handler_are_taken_and_stand_in_no_value_of_ours(place):
    file = written(place, f"ORDERFLOW_HANDLER_SHOP_PASSWORD={SECRET}\n".encode())
    assert SECRET not in repr(load(file, {"ORDERFLOW_HANDLER_URL": SECRET}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("DATABSE_URL=x", "line 1: DATABSE_URL is no key of these programs: is DATABASE_URL meant?"),
        ("A=1\narchive_url=x", "line 2: archive_url is no key of these programs: is ARCHIVE_URL meant?"),
        ("ORDERFLW_LEASE=1", "line 1: ORDERFLW_LEASE is no key of these programs: is ORDERFLOW_LEASE meant?"),
        ("S3_ENDPOINT=x", "line 1: S3_ENDPOINT is no key of these programs: is S3_ENDPOINT_URL meant?"),
        ("QUEUE_URL=x\nTZ=UTC\nQUEUE_URL=y", "line 3: QUEUE_URL stands in line 1 too, and the last one counts"),
        (r"A=b\c", f"line 1: {OTHERWISE.format('A')}"),
        ("A=1\nB=b\\\nC=d", f"line 2: {OTHERWISE.format('B')}"),
        ("A='b\nB=''", f"line 1: {OTHERWISE.format('A')}"),
        ('A="b" # c', f"line 1: {OTHERWISE.format('A')}"),
        ("A='\"b\"'", f"line 1: {OTHERWISE.format('A')}"),
        ("A=it's\nB=\"it's\"\nC='d'\nD=''", ""),
        ("TZ=UTC\nLANG=C\nAWS_ACCESS_KEY_ID=x\nSENTRY_DSN=x\nHTTPS_PROXY=x\nORDERFLOW_HANDLER_URL=x", ""),
    ],
)
def test_a_line_that_may_mean_another_key_is_named(place, text, said):
    assert list(doubtful_lines(written(place, text.encode()))) == ([said] if said else [])


@pytest.mark.parametrize("text", [b"A=a\0b\n", b"A\0=b\n"])
def test_a_line_with_a_nul_is_refused(place, text):
    with pytest.raises(SettingsError, match="line 1: not of the form"):
        read_file(written(place, text))


def test_lines_are_counted_as_an_editor_does(place):
    assert read_file(written(place, "A=x\x0cy\u2028z\n".encode())) == {"A": "x\x0cy\u2028z"}
    with pytest.raises(SettingsError, match="line 3"):
        read_file(written(place, "# \x0b \x85 \u2028\n\nno equals sign\n".encode()))


@pytest.mark.parametrize("secret", ["DATABASE_URL", "QUEUE_URL"])
def test_settings_that_are_printed_show_no_password(secret):
    assert SECRET not in repr(loaded(**{secret: f"postgresql://of:{SECRET}@db/of"}))


def written(place, text):
    file = place / "ingest.env"
    file.write_bytes(text)
    return str(file)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"", {}),
        (b"# comment\n; comment\n\n  # indented\n", {}),
        (b"A=1\nB=2", {"A": "1", "B": "2"}),
        (b"A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
        (b"  A  =  1 2  \n", {"A": "1 2"}),
        (b"A=\n", {"A": ""}),
        (b"A=b=c#d;e\n", {"A": "b=c#d;e"}),
        (b"A='one two'\nB=\"it's\"\nC='\n", {"A": "one two", "B": "it's", "C": "'"}),
        (b"A=1\nA=2\n", {"A": "2"}),
        ("A=bü\n".encode(), {"A": "bü"}),
    ],
)
def test_a_settings_file_is_read_like_an_environment_file(place, text, values):
    assert read_file(written(place, text)) == values


@pytest.mark.parametrize(
    ("text", "line"), [(b"A=1\nno equals sign\n", 2), (b"\n\nexport A=1\n", 3), (b"1A=2\n", 1), (b"=1\n", 1)]
)
def test_a_line_of_another_form_is_refused_by_its_number(place, text, line):
    file = written(place, text.replace(b"A=2", b"A=" + SECRET.encode()))
    with pytest.raises(SettingsError) as refused:
        read_file(file)
    assert str(refused.value) == f"settings file {file}, line {line}: not of the form KEY=value"


def test_a_file_that_cannot_be_read_is_refused_by_its_name(place):
    for file in (str(place), str(place / "missing.env"), written(place, b"A=\xff\n")):
        with pytest.raises(SettingsError, match=file):
            load(file, {})


@pytest.mark.parametrize("environ", [{}, {"ORDERFLOW_SETTINGS": os.devnull}])
def test_an_empty_name_of_a_file_is_no_choice_of_the_defaults(environ):
    with pytest.raises(SettingsError, match="--settings names no file: its value is empty"):
        load("", environ)


@pytest.mark.parametrize(("text", "nothing"), [("", True), ("#A=1\nTZ=UTC\n", True), ("ORDERFLOW_LEASE=6", False)])
def test_a_file_that_sets_nothing_of_ours_is_known(place, text, nothing):
    assert sets_nothing(written(place, text.encode())) == nothing


def test_the_environment_wins_over_the_file(place):
    file = written(place, b"ORDERFLOW_DEADLINE=5\nORDERFLOW_LEASE=6\n")
    found = load(file, {"ORDERFLOW_DEADLINE": "7"})
    assert (found.deadline, found.lease, found.file) == (7, 6, Path(file))


def test_the_file_is_the_argument_else_the_one_that_the_environment_names(place):
    file = written(place, b"ORDERFLOW_DEADLINE=5\n")
    assert load(None, {"ORDERFLOW_SETTINGS": file}).deadline == 5
    assert load(os.devnull, {"ORDERFLOW_SETTINGS": file}).deadline == 60


def test_the_file_may_hold_keys_that_are_not_ours(place):
    load(written(place, b"TZ=UTC\nAWS_REGION=eu-central-1\nORDERFLOW_SETTINGS=/this/file\n"), {})


def test_reading_settings_for_another_environment_leaves_ours_alone(place):
    before = dict(os.environ)
    load(written(place, b"AWS_SECRET_ACCESS_KEY=file\n"), {})
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("values", "mail_time", "part_time"),
    [
        ({}, 120, 30),
        ({"ORDERFLOW_LEASE": "100"}, 80, 30),
        ({"ORDERFLOW_LEASE": "20"}, 16, 16),
        ({"ORDERFLOW_LEASE": "0.2"}, 2, 2),
        ({"ORDERFLOW_MAIL_TIME": "480"}, 480, 30),
        ({"ORDERFLOW_MAIL_TIME": "10"}, 10, 10),
    ],
)
def test_the_times_to_read_a_mail_and_a_part_follow_the_lease(values, mail_time, part_time):
    settings = load(environ={"ORDERFLOW_SETTINGS": "/dev/null", **values})
    assert (settings.mail_time, settings.part_time) == (mail_time, part_time)
    assert settings.task_time_limit < settings.task_end < settings.lease


@pytest.mark.parametrize(
    "values",
    [
        {"ORDERFLOW_MAIL_TIME": "481"},
        {"ORDERFLOW_MAIL_TIME": "100", "ORDERFLOW_LEASE": "100"},
        {"ORDERFLOW_PART_TIME": "121"},
        {"ORDERFLOW_MAX_DOCUMENTS": "0"},
    ],
)
def test_bounds_that_contradict_each_other_are_refused(values):
    with pytest.raises(SettingsError, match="ORDERFLOW_"):
        load(environ={"ORDERFLOW_SETTINGS": "/dev/null", **values})
