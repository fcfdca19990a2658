"""The ledger tells the truth about a message: over HTTP, with a scripted Cloudflare behind the whole system."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Event, Lock
from typing import Any

import pytest
import requests

from local.cloudflare_messages import POSTFIX_ALPHABET
from tests.scripted_cloudflare import Deployed, Row, deployed, row

pytestmark = pytest.mark.slow
PROCESSES = 4
# Below the five seconds that a read may take while its caller waits.
PATIENCE = 3.0
DONE = {"is_quarantined": False, "delivery_status": ["delivered"]}


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed(processes=PROCESSES) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh(system: Deployed) -> None:
    system.cloudflare.reset()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(40) as threads:
        yield threads


def investigate_id(name: str, *, days: float = 2.0, digits: int = 10_000_000) -> str:
    """Return the id of a mail that arrived so many days ago, as its Postfix id tells too, which `name` completes."""
    at = datetime.now(UTC) - timedelta(days=days)
    seconds, encoded = int(at.timestamp()), ""
    while seconds:
        seconds, digit = divmod(seconds, len(POSTFIX_ALPHABET))
        encoded = POSTFIX_ALPHABET[digit] + encoded
    return f"{encoded}{name}-{at:%Y-%m-%dT%H:%M:%S}-{digits}"


def shows_the_effect_early(system: Deployed) -> Event:
    """Have each release visible in the search 0.3 s before its call is answered; return when there was one."""
    visible = Event()

    def on_release(ids: list[str]) -> list[Row]:
        for each in system.cloudflare.rows:
            each.update(DONE)
        visible.set()
        time.sleep(0.3)
        return [{"id": each, "delivered": ["ann@example.com"]} for each in ids]

    system.cloudflare.on_release = on_release
    return visible


def outcomes(results: list[dict[str, Any]]) -> list[tuple[str, str | None]]:
    return [(result["outcome"], result["code"]) for result in results]


# --- A release by somebody else, seen before the ledger is asked


def test_of_thirty_parallel_requests_one_is_released_and_none_is_told_otherwise(
    system: Deployed, pool: ThreadPoolExecutor
) -> None:
    full = investigate_id("kTh1rtyAtOnce")
    system.cloudflare.rows = [row(full)]
    visible, lock, seen = shows_the_effect_early(system), Lock(), []

    def on_read(target: str) -> None:
        """Let every process read the ledger first, one go on, and the others see what that one did."""
        with lock:
            seen.append(target)
            number = len(seen)
        until = time.monotonic() + PATIENCE
        if number == 1:
            while len(seen) < PROCESSES and time.monotonic() < until:
                time.sleep(0.01)
        else:
            visible.wait(PATIENCE)

    system.cloudflare.on_read = on_read
    answers = list(pool.map(lambda _: system.post([full]), range(30)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    first = [answer.json()["results"][0]["outcome"] for answer in answers]
    assert set(first) <= {"released", "already_released", "in_progress"}
    last = [system.ended(answer)["results"][0]["outcome"] for answer in answers]
    assert sorted(last) == ["already_released"] * 29 + ["released"]
    assert system.cloudflare.released(full) == 1


def overtaken(system: Deployed, pool: ThreadPoolExecutor, full: str, body: Any, **headers: str) -> requests.Response:
    """Post; while Cloudflare is read for it, have another client release the message; return the first answer."""
    visible, arrived = shows_the_effect_early(system), Event()

    def on_read(_: str) -> None:
        if not arrived.is_set():
            arrived.set()
            visible.wait(PATIENCE)

    system.cloudflare.on_read = on_read
    asking: Future[requests.Response] = pool.submit(system.post, body, **headers)
    assert arrived.wait(60)
    assert system.results([full])[0]["outcome"] == "released"
    return asking.result()


@pytest.mark.parametrize("shape", ["id", "alert_id", "postfix_id", "message_id"])
@pytest.mark.parametrize("how", ["inline", "worker", "dry run"])
def test_a_release_that_overtakes_the_read_decides(
    system: Deployed, pool: ThreadPoolExecutor, how: str, shape: str
) -> None:
    full = investigate_id(f"{shape}{how}".translate(str.maketrans("", "", " _")))
    message = row(full)
    given = full if shape == "id" else message[shape]
    system.cloudflare.rows = [message]
    if shape == "message_id":  # what it means is known from now on, so that the message itself is read
        system.results({"ids": [given], "dry_run": True})
    headers = {"Prefer": "respond-async"} if how == "worker" else {}
    answer = overtaken(system, pool, full, {"ids": [given], "dry_run": how == "dry run"}, **headers)
    assert outcomes(system.ended(answer)["results"]) == [("already_released", None)]
    assert system.cloudflare.released(full) == 1


# --- Dry runs end


def dry_run_beside(
    system: Deployed, pool: ThreadPoolExecutor, full: str
) -> tuple[requests.Response, requests.Response]:
    """Ask for a release that Cloudflare refuses, and for a dry run while the call is under way."""
    system.cloudflare.rows = [row(full)]
    called, looked = Event(), Event()
    refusal = 429 if "429" in full else 403

    def on_release(_: list[str]) -> int:
        called.set()
        looked.wait(8)
        return refusal

    system.cloudflare.on_release = on_release
    asking = pool.submit(system.post, [full])
    assert called.wait(60)
    dry_run = system.post({"ids": [full], "dry_run": True})
    looked.set()
    assert dry_run.status_code == 202
    return asking.result(), dry_run


def test_a_dry_run_ends_when_the_release_that_it_met_is_refused(system: Deployed, pool: ThreadPoolExecutor) -> None:
    full = investigate_id("kDryRefused1")
    refused, dry_run = dry_run_beside(system, pool, full)
    assert refused.status_code == 503
    (result,) = system.ended(dry_run, seconds=15)["results"]
    assert (result["outcome"], result["code"], result["retryable"]) == ("failed", "not_attempted", True)
    assert "again" in result["detail"]
    system.cloudflare.on_release = None
    assert outcomes(system.results({"ids": [full], "dry_run": True})) == [("would_release", None)]


def test_a_dry_run_ends_when_the_release_that_it_met_is_cancelled(system: Deployed, pool: ThreadPoolExecutor) -> None:
    full = investigate_id("kDryCance429")
    given_back, dry_run = dry_run_beside(system, pool, full)
    name = given_back.json()["request_id"]
    assert outcomes(system.post({}, f"/v1/releases/{name}/cancel").json()["results"]) == [("cancelled", None)]
    assert outcomes(system.ended(dry_run, seconds=15)["results"]) == [("failed", "not_attempted")]
