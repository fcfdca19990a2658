"""The real collaborators: built once and on first use, and what they are given of time and chance."""

import random
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release import wiring
from quarantine_release.config.settings import SettingsInvalid
from tests.support.deployment import Deployment


def test_the_clock_tells_utc_in_whole_milliseconds() -> None:
    now = wiring.clock()
    assert now.tzinfo is UTC
    assert now.microsecond % 1000 == 0
    assert abs(now - datetime.now(UTC)) < timedelta(seconds=5)


@given(st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001  zone added
def test_an_attempt_id_is_a_ulid_of_its_time(now: datetime) -> None:
    attempt_id = wiring.new_attempt_id(now)
    number = 0
    for character in attempt_id:
        number = number * 32 + "0123456789ABCDEFGHJKMNPQRSTVWXYZ".index(character)
    assert len(attempt_id) == 26
    assert abs((number >> 80) - now.timestamp() * 1000) <= 1


def test_attempt_ids_sort_by_time_and_differ_within_a_millisecond() -> None:
    now = wiring.clock()
    assert wiring.new_attempt_id(now) < wiring.new_attempt_id(now + timedelta(milliseconds=1))
    assert wiring.new_attempt_id(now) != wiring.new_attempt_id(now)


def test_pauses_grow_to_320_ms_with_full_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(random, "uniform", lambda _, most: most)
    for round_ in range(7):
        wiring.pause(round_)
    assert slept == [0.02, 0.04, 0.08, 0.16, 0.32, 0.32, 0.32]


def test_what_is_built_is_built_once(deployment: Deployment) -> None:
    assert deployment.environment
    first, second = wiring.ports(lambda: 20.0), wiring.ports(lambda: 20.0)
    assert first.ledger is second.ledger
    assert first.cloudflare is second.cloudflare
    assert first.reader is second.reader
    assert first.budget is second.budget
    assert first.queue is second.queue
    assert wiring.clients() is wiring.clients()


def test_nothing_is_primed_outside_lambda(deployment: Deployment) -> None:
    assert deployment.is_untouched
    wiring.prime()
    assert wiring.ledger.cache_info().currsize == 0


def test_priming_builds_all_fetches_the_secrets_and_reads_the_ledger_once(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    wiring.prime(wiring.clients, wiring.accounts)
    builders = (
        wiring.settings,
        wiring.ledger,
        wiring.budget,
        wiring.queue,
        wiring.clients,
        wiring.accounts,
        wiring.cloudflare,
        wiring.reader,
    )
    for builder in builders:
        assert builder.cache_info().currsize == 1
    assert deployment.is_untouched
    assert deployment.aws_calls == ["GetSecretValue", "GetSecretValue", "BatchGetItem"]
    assert deployment.log == ""


def test_a_failed_priming_is_logged_without_its_text_and_left_to_the_first_request(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    monkeypatch.setenv("LEASE_SECONDS", "canary")
    wiring.prime()
    (logged,) = deployment.events("priming_failed")
    assert logged["error_type"] == "SettingsInvalid"
    assert "canary" not in deployment.log
    with pytest.raises(SettingsInvalid):
        wiring.ports(lambda: 20.0)
    monkeypatch.setenv("LEASE_SECONDS", "90")
    assert wiring.ports(lambda: 20.0)
