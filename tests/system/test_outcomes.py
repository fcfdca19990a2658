"""What a caller is told of dry runs, cancelled requests and requests that waited too long, over HTTP."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final

import pytest

from tests.support.scripted_cloudflare import Deployed, deployed, row

pytestmark = pytest.mark.slow

_NUMBERS: Final = count(10)
WAITS: Final = {"LEASE_SECONDS": "2", "SETTLE_SECONDS": "1", "EXPIRE_AFTER": "8s"}


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed(WAITS) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()


def held_mail(system: Deployed, disposition: str = "SPAM") -> str:
    """Put a mail of two days ago into quarantine; return its investigate id."""
    at = datetime.now(UTC) - timedelta(days=2)
    message_id = f"4Wtk0utc0me{next(_NUMBERS)}-{at:%Y-%m-%dT%H:%M:%S}-10000000"
    system.cloudflare.rows = [*system.cloudflare.rows, row(message_id, final_disposition=disposition)]
    return message_id


@pytest.mark.parametrize("fail_on", ["none", "partial"])
def test_a_dry_run_whose_every_message_would_be_released_is_no_incomplete_release(
    system: Deployed, fail_on: str
) -> None:
    rehearsal = {"ids": [held_mail(system)], "dry_run": True, "fail_on": fail_on}
    key = {"Idempotency_Key": f"rehearsal-{fail_on}"}
    first = system.post(rehearsal, **key)
    again = system.post(rehearsal, **key)
    polled = system.get(f"/v1/releases/{first.json()['request_id']}")
    assert [answer.status_code for answer in (first, again, polled)] == [200, 200, 200]
    assert [result["outcome"] for result in first.json()["results"]] == ["would_release"]
    # `ok` speaks of releases, and a dry run makes none.
    assert [answer.json()["ok"] for answer in (first, again, polled)] == [False, False, False]
    assert system.cloudflare.releases == []


@pytest.mark.parametrize(("fail_on", "status"), [("none", 200), ("partial", 400)])
def test_a_dry_run_that_would_release_only_some_fails_as_partial(system: Deployed, fail_on: str, status: int) -> None:
    ids = [held_mail(system), held_mail(system, "MALICIOUS")]
    first = system.post({"ids": ids, "dry_run": True, "fail_on": fail_on})
    polled = system.get(f"/v1/releases/{first.json()['request_id']}")
    assert [answer.status_code for answer in (first, polled)] == [status, status]
    assert [result["outcome"] for result in polled.json()["results"]] == ["would_release", "denied"]


@pytest.mark.parametrize("fail_on", ["none", "partial"])
def test_a_dry_run_that_would_release_nothing_fails(system: Deployed, fail_on: str) -> None:
    answer = system.post({"ids": [held_mail(system, "MALICIOUS")], "dry_run": True, "fail_on": fail_on})
    assert (answer.status_code, answer.json()["code"]) == (400, "release_incomplete")


def test_an_id_whose_call_was_refused_can_be_cancelled_and_is_never_sent_again(system: Deployed) -> None:
    message_id = held_mail(system)
    system.cloudflare.on_release, system.cloudflare.retry_after = (lambda _: 429), 4
    accepted = system.post([message_id]).json()
    (result,) = system.ended(system.post({}, f"/v1/releases/{accepted['request_id']}/cancel"))["results"]
    assert (result["outcome"], result["delivered"]) == ("cancelled", [])
    calls = system.cloudflare.released(message_id)
    assert calls > 0
    system.cloudflare.on_release = None
    assert system.results([message_id])[0]["outcome"] == "released"
    assert system.cloudflare.released(message_id) == calls + 1


def test_a_request_that_waits_longer_than_the_setting_expires(system: Deployed) -> None:
    message_id = held_mail(system)
    system.cloudflare.on_release = lambda _: 429
    answer = system.post([message_id])
    assert answer.status_code == 202, answer.text
    (result,) = system.ended(answer)["results"]
    assert (result["outcome"], result["retryable"]) == ("expired", True)
    system.cloudflare.on_release = None
    assert system.results([message_id])[0]["outcome"] == "released"
