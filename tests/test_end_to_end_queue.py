"""Batches and bursts as `make run` serves them: real processes, real HTTP, the queue and its poller."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import requests

from local.stack import Stack

pytestmark = pytest.mark.slow

# The number of plain requests of a burst; `make burst-run` runs the 2,000 of the promise.
BURST = int(os.environ.get("BURST", "200"))
PATIENCE_SECONDS = 120
RETRY_AFTER = 5
# A call that came to nothing is read after both, which here only have to be longer than what the simulator does.
WAITS = {"LEASE_SECONDS": "21", "SETTLE_SECONDS": "9", "RECONCILE_EVERY_SECONDS": "1"}
TIMEOUT = 60


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    marks = {"BUDGET_INLINE_CALLS": "50"} if BURST < 2000 else {}
    with Stack({"PORT": "0", **WAITS, **marks}, processes=4) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh_simulator(stack: Stack) -> None:
    simulator(stack, "reset", {})
    simulator(stack, "settings", {"ratelimit_headers": False})


def simulator(stack: Stack, path: str, content: Any = None) -> Any:
    url = f"{stack.simulator_url}/_simulator/{path}"
    answer = requests.get(url, timeout=10) if content is None else requests.post(url, json=content, timeout=10)
    answer.raise_for_status()
    return answer.json()


def calls(stack: Stack) -> list[Any]:
    found = simulator(stack, "calls?endpoint=release")
    return list(found["calls"] if isinstance(found, dict) else found)


def named(call: Any) -> list[str]:
    body = call["body"]
    return list(body["ids"] if isinstance(body, dict) else body)


def send(stack: Stack, method: str, url: str, **more: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {stack.token}", **more.pop("headers", {})}
    url = url if url.startswith("http") else f"{stack.base_url}{url}"
    return requests.request(method, url, headers=headers, timeout=TIMEOUT, **more)


def post(stack: Stack, ids: Sequence[str], **headers: str) -> requests.Response:
    return send(stack, "POST", "/v1/releases", json={"ids": list(ids)}, headers=headers)


def ended(stack: Stack, answers: Sequence[requests.Response]) -> list[dict[str, Any]]:
    """Poll as a platform does that hands over a list, until all have ended."""
    names = [answer.json()["request_id"] for answer in answers]
    deadline = time.monotonic() + PATIENCE_SECONDS
    bodies: dict[str, dict[str, Any]] = {}
    while len(bodies) < len(names) and time.monotonic() < deadline:
        waiting = [name for name in names if name not in bodies]
        for start in range(0, len(waiting), 50):
            some = ",".join(waiting[start : start + 50])
            found = send(stack, "GET", f"/v1/releases?ids={some}").json()["releases"]
            bodies |= {body["request_id"]: body for body in found if body["status"] == "completed"}
        time.sleep(1)
    return [bodies[name] for name in names]


def test_a_thousand_ids_in_one_post_are_a_dozen_calls(stack: Stack) -> None:
    ids = [f"4NjpBatch{number:04d}x" for number in range(1000)]
    answer = post(stack, ids)
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"].startswith(stack.base_url)
    assert int(answer.headers["Retry-After"]) > 0
    assert (answer.json()["outcome"], answer.json()["counts"]["in_progress"]) == ("pending", 1000)
    (body,) = ended(stack, [answer])
    assert (body["outcome"], body["counts"]["released"]) == ("released", 1000)
    final = send(stack, "GET", answer.headers["Location"])
    assert (final.status_code, len(final.json()["released_ids"])) == (200, 1000)
    assert len(calls(stack)) <= 12
    assert Counter(one for call in calls(stack) for one in named(call)) == Counter(ids)


def test_requests_that_nobody_waits_for_are_merged_into_few_calls(stack: Stack) -> None:
    number = 1000 if BURST >= 2000 else 200
    ids = [f"4NjpMerge{count:04d}x" for count in range(number)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda given: post(stack, [given], Prefer="respond-async"), ids))
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.headers["Preference-Applied"] for answer in answers} == {"respond-async"}
    assert {body["outcome"] for body in ended(stack, answers)} == {"released"}
    assert Counter(one for call in calls(stack) for one in named(call)) == Counter(ids)
    assert len(calls(stack)) <= 40


def test_a_burst_of_plain_requests_never_meets_cloudflares_limit(stack: Stack) -> None:
    ids = [f"4NjpBurst{count:04d}x" for count in range(BURST)]
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda given: post(stack, [given]), ids))
    assert {answer.status_code for answer in answers} == {200, 202}
    assert {body["outcome"] for body in ended(stack, answers)} == {"released"}
    assert Counter(one for call in calls(stack) for one in named(call)) == Counter(ids)
    assert all(call["status"] == 200 for call in calls(stack))
    print(f"{BURST} plain requests: {len(calls(stack))} calls")


def test_calls_cease_within_a_second_of_a_429_and_everything_is_released_in_the_end(stack: Stack) -> None:
    ids = [f"4NjpStorm{count:04d}x" for count in range(30)]
    simulator(stack, "settings", {"reads_by_postfix_id": True})
    simulator(stack, "script", {"behaviour": "429", "id": "*", "on": "release", "retry_after": RETRY_AFTER, "times": 2})
    simulator(stack, "script", {"behaviour": "503", "id": "*", "on": "release", "times": 1})
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda given: post(stack, [given]), ids))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert {body["outcome"] for body in ended(stack, answers)} == {"released"}
    seen = [(datetime.fromisoformat(call["at"]), call["status"]) for call in simulator(stack, "calls")]
    assert [status for _, status in seen].count(503) == 1
    for refused_at in (at for at, status in seen if status == 429):
        late = [at - refused_at for at, _ in seen if at > refused_at]
        assert not [after for after in late if timedelta(seconds=1) < after < timedelta(seconds=RETRY_AFTER)]
    good = Counter(one for call in calls(stack) if call["status"] == 200 for one in named(call))
    assert good == Counter(ids)
