"""Batches, bursts and outages as `make run` serves them: real processes, real HTTP, the queue and its poller.

`make bursts` plays them at their full size and tells the figures.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import boto3
import pytest
import requests

from local.services import AWS_ENVIRONMENT
from local.stack import Stack

pytestmark = pytest.mark.slow

IS_FULL: Final = "BURST" in os.environ
PLAIN: Final = int(os.environ.get("BURST", "120"))
ASYNC: Final = 1000 if IS_FULL else 100
IN_ONE_POST: Final = 1000 if IS_FULL else 300
# Ten times as many plain requests as calls are made inline, also where they are few.
MARKS: Final = {} if IS_FULL else {"BUDGET_INLINE_CALLS": "40"}
RETRY_AFTER: Final = 5 if IS_FULL else 3
STORM_SECONDS: Final = 30 if IS_FULL else 4
# Within a second all know of a 429; where other tests run beside, a call may leave later than it was decided.
SLACK: Final = timedelta(seconds=1 if IS_FULL else 2)
# Longer than the simulator and a slow ledger need for claim, call and record.
# The guard has tests of its own (`test_end_to_end_guard.py`): what it reads is not counted here.
WAITS: Final = {
    "PORT": "0",
    "GUARD_MODE": "off",
    "LEASE_SECONDS": "10",
    "SETTLE_SECONDS": "2",
    "RECONCILE_EVERY_SECONDS": "1",
}
# What a slow machine lets go wrong, the sweep finds after two minutes.
PATIENCE_SECONDS: Final = 300
POLL_SECONDS: Final = 2
TIMEOUT: Final = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack({**WAITS, **MARKS}, processes=4) as running:
        yield running


@pytest.fixture
def fresh(stack: Stack) -> Stack:
    simulator(stack, "reset", {})
    simulator(stack, "settings", {"ratelimit_headers": False})
    return stack


def ids_of(name: str, count: int) -> list[str]:
    """Full ids, which Cloudflare's list tells apart, a second apart."""
    arrivals = [datetime(2026, 8, 28, tzinfo=UTC) + timedelta(seconds=number) for number in range(count)]
    return [f"4Njp{name}{number:04d}x-{at:%Y-%m-%dT%H:%M:%S}-{10000000 + number}" for number, at in enumerate(arrivals)]


def simulator(stack: Stack, path: str, content: Any = None) -> Any:
    url = f"{stack.simulator_url}/_simulator/{path}"
    answer = (
        requests.get(url, timeout=TIMEOUT) if content is None else requests.post(url, json=content, timeout=TIMEOUT)
    )
    answer.raise_for_status()
    return answer.json()


def send(stack: Stack, method: str, url: str, **more: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {stack.token}", **more.pop("headers", {})}
    return requests.request(method, url, headers=headers, timeout=TIMEOUT, **more)


def post(stack: Stack, *ids: str, **headers: str) -> requests.Response:
    return send(stack, "POST", f"{stack.base_url}/v1/releases", json={"ids": ids}, headers=headers)


def post_each(stack: Stack, ids: Sequence[str], connections: int, **headers: str) -> list[requests.Response]:
    with ThreadPoolExecutor(connections) as pool:
        return list(pool.map(lambda given: post(stack, given, **headers), ids))


def ends(stack: Stack, answers: Sequence[requests.Response]) -> list[dict[str, Any]]:
    """Poll as a platform does that hands over a list, 50 after 50, until all have ended."""
    names = [answer.json()["request_id"] for answer in answers]
    deadline = time.monotonic() + PATIENCE_SECONDS
    found: list[dict[str, Any]] = []
    for start in range(0, len(names), 50):
        some = ",".join(names[start : start + 50])
        while True:
            answer = send(stack, "GET", f"{stack.base_url}/v1/releases?ids={some}")
            # On a busy machine a poll may find the ledger too slow, which is a 503 that says to ask again.
            bodies = answer.json()["releases"] if answer.status_code == 200 else []
            if bodies and all(body["status"] == "completed" for body in bodies):
                break
            assert time.monotonic() < deadline, f"still open: {[body for body in bodies if body['ok'] is None][:3]}"
            time.sleep(POLL_SECONDS)
        found += bodies
    assert [body["request_id"] for body in found] == names
    return found


def check_calls(stack: Stack, ids: Sequence[str], began: float, at_most: int) -> None:
    """Check that each id was in one call, that none was refused and that they were few; tell how many."""
    calls = simulator(stack, "calls?endpoint=release")
    print(f"{len(ids)} ids: {len(calls)} calls, {time.monotonic() - began:.1f} s")
    assert {call["status"] for call in calls} == {200}
    assert Counter(one for call in calls for one in call["body"]["ids"]) == Counter(ids)
    assert len(calls) <= at_most


def dead_letters(stack: Stack) -> str:
    client = boto3.client(
        "sqs",
        region_name=AWS_ENVIRONMENT["AWS_REGION"],
        endpoint_url=stack.aws_url,
        aws_access_key_id=AWS_ENVIRONMENT["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=AWS_ENVIRONMENT["AWS_SECRET_ACCESS_KEY"],
    )
    (url,) = client.list_queues(QueueNamePrefix="ReleaseDeadLetterQueue")["QueueUrls"]
    found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
    return found["Attributes"]["ApproximateNumberOfMessages"]


def test_after_429_and_503_everything_is_released_and_nothing_is_called_in_between() -> None:
    ids = ids_of("Storm", 30)
    with Stack(WAITS, processes=4) as stack:
        simulator(stack, "script", {"behaviour": "429", "retry_after": RETRY_AFTER})
        answers = post_each(stack, ids[:20], 10)
        time.sleep(STORM_SECONDS)
        answers += post_each(stack, ids[20:], 10)
        simulator(stack, "script", [{"behaviour": "503", "times": 1}, {"behaviour": "delivered"}])
        assert {answer.status_code for answer in answers} == {202}
        assert {body["outcome"] for body in ends(stack, answers)} == {"released"}
        seen = [(datetime.fromisoformat(call["at"]), call) for call in simulator(stack, "calls")]
        assert dead_letters(stack) == "0"
    refused = [at for at, call in seen if call["status"] == 429]
    print(f"429 and 503: {len(refused)} calls in {refused[-1] - refused[0]} and {len(seen) - len(refused)} after it")
    pause = timedelta(seconds=RETRY_AFTER)
    assert refused[-1] - refused[0] >= pause  # they began again, and were refused again
    for refused_at in refused:
        assert not [at for at, _ in seen if SLACK < at - refused_at < pause]
    assert [call["status"] for _, call in seen].count(503) == 1
    good = [call for _, call in seen if (call["endpoint"], call["status"]) == ("release", 200)]
    assert Counter(one for call in good for one in call["body"]["ids"]) == Counter(ids)


def test_a_burst_of_plain_requests_never_meets_cloudflares_limit(fresh: Stack) -> None:
    ids, began = ids_of("Plain", PLAIN), time.monotonic()
    answers = post_each(fresh, ids, 50)
    assert {answer.status_code for answer in answers} == {200, 202}
    assert {body["outcome"] for body in ends(fresh, answers)} == {"released"}
    check_calls(fresh, ids, began, at_most=PLAIN - 1)


def test_requests_that_nobody_waits_for_are_merged_into_few_calls(fresh: Stack) -> None:
    ids, began = ids_of("Async", ASYNC), time.monotonic()
    answers = post_each(fresh, ids, 20, Prefer="respond-async")
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.headers["Preference-Applied"] for answer in answers} == {"respond-async"}
    assert {body["outcome"] for body in ends(fresh, answers)} == {"released"}
    check_calls(fresh, ids, began, at_most=40)


def test_many_ids_in_one_post_are_a_dozen_calls(fresh: Stack) -> None:
    ids, began = ids_of("Batch", IN_ONE_POST), time.monotonic()
    answer = post(fresh, *ids)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"].startswith(fresh.base_url)
    assert int(answer.headers["Retry-After"]) > 0
    assert (answer.json()["outcome"], answer.json()["counts"]["in_progress"]) == ("pending", len(ids))
    (body,) = ends(fresh, [answer])
    assert (body["outcome"], body["counts"]["released"]) == ("released", len(ids))
    final = send(fresh, "GET", answer.headers["Location"])
    assert (final.status_code, len(final.json()["released_ids"])) == (200, len(ids))
    check_calls(fresh, ids, began, at_most=12)
