"""The circuit breaker: what is known to be unavailable is not waited for, and is found again."""

import fcntl
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from orderflow_ingest.domain.outcomes import DeadlineReached
from orderflow_ingest.storage.resilience import circuit_breaker as module
from orderflow_ingest.storage.resilience.circuit_breaker import CircuitBreaker
from orderflow_ingest.storage.resilience.timeouts import CONNECT, DEADLINE, READ, S3_ATTEMPTS, STATEMENT, scaled_to
from tests.support.breakers import AwayError, age, call, is_through, opened


@pytest.fixture
def path(place, monkeypatch):
    monkeypatch.setattr(module, "SLOW", 0.05)
    return place / "circuits" / "backend"


@pytest.fixture
def breaker(path):
    return CircuitBreaker(path, "backend", AwayError)


def test_a_failure_that_took_long_opens_it_for_every_program_of_the_host(breaker, path):
    opened(breaker)
    assert not is_through(breaker)
    assert not is_through(CircuitBreaker(path, "backend", AwayError)), "another program"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failure_at_once_does_not(breaker, path, monkeypatch):
    monkeypatch.setattr(module, "SLOW", 5.0)
    with pytest.raises(AwayError):
        call(breaker, AwayError("refused"))
    assert is_through(breaker) and not path.exists()


def test_a_deadline_that_runs_out_in_a_call_opens_it(breaker):
    opened(breaker, DeadlineReached())
    assert not is_through(breaker)


def test_what_the_backend_itself_answers_does_not_however_long_it_took(breaker, path):
    answer = AwayError("locked")
    answer.is_answer = True
    opened(breaker, answer)
    assert is_through(breaker) and not path.exists()


def test_a_probe_that_was_paused_keeps_nobody_out_for_long(breaker, path):
    opened(breaker)
    age(path, 6)
    with path.open() as paused:
        fcntl.flock(paused, fcntl.LOCK_EX)
        assert not is_through(breaker), "it may come back yet"
        age(path, 41)
        assert is_through(breaker) and is_through(CircuitBreaker(path, "backend", AwayError))
        assert path.exists(), "it is the probe that closes it"
        opened(breaker)
        assert not is_through(breaker), "it is away still"
    age(path, 6)
    assert is_through(breaker) and not path.exists()


def test_a_probe_has_its_time_from_when_it_begins(breaker, path):
    opened(breaker)
    age(path, 500)
    with breaker():
        assert not is_through(CircuitBreaker(path, "backend", AwayError))
    assert not path.exists()


def test_an_error_that_is_none_of_the_backend_does_not(breaker):
    opened(breaker, ValueError())
    assert is_through(breaker)


def test_after_a_while_one_call_probes_and_closes_it(breaker, path):
    opened(breaker)
    age(path, module.PROBE + 1)
    assert is_through(breaker)
    assert not path.exists()


def test_a_backend_that_answers_with_something_else_is_there(breaker, path):
    opened(breaker)
    age(path, module.PROBE + 1)
    with pytest.raises(KeyError):
        call(breaker, KeyError("no such object"))
    assert not path.exists()


def test_a_probe_that_fails_as_slowly_keeps_it_open(breaker, path):
    opened(breaker)
    age(path, module.PROBE + 1)
    opened(breaker)
    assert not is_through(breaker)


def test_a_probe_that_is_refused_at_once_closes_it(breaker, path, monkeypatch):
    """Refusals cost nothing; and one program with wrong credentials must not close the way to another."""
    opened(breaker)
    monkeypatch.setattr(module, "SLOW", 5.0)
    age(path, module.PROBE + 1)
    with pytest.raises(AwayError, match="refused"):
        call(breaker, AwayError("refused"))
    assert not path.exists() and is_through(breaker)


def test_while_one_probes_the_others_are_not_let_through(breaker, path):
    opened(breaker)
    age(path, module.PROBE + 1)
    probing, over = Event(), Event()

    def probe():
        with breaker():
            probing.set()
            assert over.wait(10)

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(probe)
        assert probing.wait(10)
        assert not is_through(breaker)
        over.set()
        done.result()
    assert is_through(breaker)


def test_a_probe_that_was_killed_is_followed_by_another(breaker, path):
    opened(breaker)
    age(path, module.PROBE + 1)
    child = os.fork()
    if child == 0:
        with breaker():
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    age(path, module.PROBE + 1)
    assert is_through(breaker)


def test_a_clock_that_was_set_back_does_not_keep_it_open(breaker, path):
    opened(breaker)
    age(path, -3600)
    assert is_through(breaker)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo], ids=["directory", "fifo"])
def test_what_is_no_file_in_its_place_stops_nobody(breaker, path, make):
    path.parent.mkdir()
    make(path)
    age(path, module.PROBE + 1)
    assert [is_through(breaker) for _ in range(3)] == [True] * 3


def test_where_it_cannot_be_noted_every_call_goes_through(place):
    (place / "file").write_text("no directory")
    opened(CircuitBreaker(place / "file" / "backend", "backend", AwayError))
    assert is_through(CircuitBreaker(place / "file" / "backend", "backend", AwayError))


@pytest.mark.parametrize("deadline", [60, 600, 15])
def test_what_one_backend_may_take_fits_twice_into_a_deadline(deadline):
    times = scaled_to(deadline)
    backoff = 1  # second, of boto3 before its second attempt, at the most
    assert S3_ATTEMPTS * (times.connect + times.read) + backoff < deadline / 2 + 1
    assert times.connect + times.statement < deadline / 2


def test_a_longer_deadline_is_no_reason_to_wait_longer():
    assert scaled_to(600) == scaled_to(DEADLINE)
    assert (scaled_to().connect, scaled_to().statement, scaled_to().read) == (CONNECT, STATEMENT, READ)


def test_a_call_that_hung_where_a_later_one_went_well_opens_nothing(breaker, path):
    """A standby has taken over: who began before it fails by his timeout, and all others are answered."""
    with pytest.raises(AwayError), breaker():
        time.sleep(0.1)
        call(breaker)
        raise AwayError("hung")
    assert not path.exists()
    opened(breaker)
    assert path.exists()


# A part that is away for some organizations alone


def about(breaker, org, fault=None, seconds=0.0, kind=module.READ):
    with breaker((org,) if isinstance(org, int) else org, kind):
        time.sleep(seconds)
        if fault:
            raise fault


def hung(breaker, org, fault=None, kind=module.READ):
    with pytest.raises(AwayError):
        about(breaker, org, fault or AwayError("hangs"), 0.1, kind)


def goes(breaker, org) -> bool:
    try:
        about(breaker, org)
    except AwayError as away:
        assert "known to be unavailable" in str(away)
        return False
    return True


@pytest.fixture
def sharded(breaker, path):
    """Return a breaker that knows organization 7 to be away alone: another one's call went well meanwhile."""
    with pytest.raises(AwayError), breaker((7,)):
        time.sleep(0.1)
        about(breaker, 8)
        raise AwayError("hangs")
    return breaker


def test_a_hang_of_one_organization_stops_that_one_alone(sharded, path):
    assert not goes(sharded, 7) and not goes(CircuitBreaker(path, "backend", AwayError), 7), "another program"
    assert goes(sharded, 8) and is_through(sharded) and not path.exists()
    assert module.unavailable_organizations(path) == 1


def test_its_probe_closes_it_and_one_that_hangs_opens_nothing_else(sharded, path):
    own = path.with_name("backend.7")
    age(own, module.PROBE + 1)
    other = CircuitBreaker(path, "backend", AwayError)
    with pytest.raises(AwayError), other((7,)):
        time.sleep(0.1)
        assert not goes(sharded, 7)
        about(sharded, 8)  # of another program, which notes it where both see it
        raise AwayError("hangs")
    assert not path.exists() and not goes(other, 7)
    age(own, module.PROBE + 1)
    assert goes(other, 7) and not own.exists()


def test_a_hang_while_nobody_else_is_known_to_be_served_stops_all_until_one_is(breaker, path):
    hung(breaker, 7)
    assert not goes(breaker, 8) and not is_through(breaker)
    age(path, module.PROBE + 1)
    assert goes(breaker, 8) and not path.exists() and not goes(breaker, 7)


def test_the_probe_of_an_organization_keeps_nobody_from_the_probe_for_all(breaker, path):
    hung(breaker, 7)
    age(path.with_name("backend.7"), module.PROBE + 1)
    with pytest.raises(AwayError), breaker((7,)):
        age(path, module.PROBE + 1)
        assert goes(breaker, 8) and not path.exists()
        time.sleep(0.1)
        raise AwayError("hangs")
    assert not path.exists() and not goes(breaker, 7)


def test_a_backend_of_one_organization_alone_comes_back_by_its_probe(breaker, path):
    hung(breaker, 7)
    age(path.with_name("backend.7"), module.PROBE + 1)
    assert goes(breaker, 7) and not path.exists() and goes(breaker, 7)


def test_a_backend_that_was_not_reached_is_away_for_all(breaker, path):
    unreached = AwayError("no connection")
    unreached.is_unreached = True
    about(breaker, 8)
    hung(breaker, 7, unreached)
    assert path.exists() and not goes(breaker, 8) and module.unavailable_organizations(path) == 0


def test_a_backend_that_reads_well_and_hangs_in_writing_is_away_for_all(breaker, path):
    with pytest.raises(AwayError), breaker((7,), module.WRITE):
        time.sleep(0.1)
        about(breaker, 8)
        raise AwayError("hangs")
    assert path.exists()


def test_a_call_about_several_is_stopped_by_one_of_them_and_blames_none(sharded, path):
    assert not goes(sharded, (7, 8)) and goes(sharded, (8, 9)) and goes(sharded, ())
    with pytest.raises(AwayError), sharded((8, 9)):
        time.sleep(0.1)
        about(sharded, 10)
        raise AwayError("hangs")
    assert not path.exists() and goes(sharded, 8)
    age(path.with_name("backend.7"), module.PATIENCE + 1)
    assert goes(sharded, (7, 8)), "no mail of it has come since"
    hung(sharded, (8, 9))
    assert path.exists()


def test_what_is_known_of_organizations_without_mail_is_forgotten(sharded, path):
    age(path.with_name("backend.7"), module.STALE + 1)
    assert module.unavailable_organizations(path) == 0
    hung(sharded, 9)
    assert not path.with_name("backend.7").exists()
