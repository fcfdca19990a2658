"""What calls left unknown is settled by the reconciler and called again by the worker: real processes, HTTP, kills.

All messages are on their way beside each other from the start, since each of them mostly waits.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
import requests

from local.cloudflare_messages import POSTFIX_ALPHABET
from local.stack import Stack

pytestmark = pytest.mark.slow

# The webhook's function may run for 20 s: a shorter lease could end while its call is under way.
LEASE: Final = timedelta(seconds=21)
SETTLE: Final = timedelta(seconds=9)
ENVIRONMENT: Final = {
    "GUARD_MODE": "off",  # the one read that hangs is to be the reconciler's
    "PORT": "0",
    "LEASE_SECONDS": str(LEASE.seconds),
    "SETTLE_SECONDS": str(SETTLE.seconds),
    "RECONCILE_EVERY_SECONDS": "1",
}
# What a slow machine lets go wrong, the sweep finds after two minutes.
PATIENCE_SECONDS: Final = 300
TIMEOUT: Final = 60

RESET: Final = "4WtSettleReset1-2026-08-28T15:32:35-10000001"
LOST: Final = "4WtSettleLost02-2026-08-28T15:32:36-10000002"
KILLED_BEFORE: Final = "4WtSettleKill03-2026-08-28T15:32:37-10000003"
KILLED_AFTER: Final = "4WtSettleKill04-2026-08-28T15:32:38-10000004"
WORKER_BEFORE: Final = "4WtSettleWork05-2026-08-28T15:32:39-10000005"
WORKER_AFTER: Final = "4WtSettleWork06-2026-08-28T15:32:40-10000006"
LIMITED: Final = "4WtSettleLimit7-2026-08-28T15:32:41-10000007"
# Is released between troubles, of which three in a row would pause all calls.
GOOD: Final = "4WtSettleGood08-2026-08-28T15:32:42-10000008"
# By message, in the order of its calls.
SCRIPT: Final[dict[str, list[dict[str, Any]]]] = {
    RESET: [{"behaviour": "reset_after_effect"}],
    LOST: [{"behaviour": "lost"}],
    KILLED_BEFORE: [{"behaviour": "hang"}],
    KILLED_AFTER: [{"behaviour": "hang", "effect": True}],
    WORKER_BEFORE: [{"behaviour": "hang"}],
    WORKER_AFTER: [{"behaviour": "hang", "effect": True}],
    LIMITED: [{"behaviour": "429", "retry_after": 1}, {"behaviour": "429", "retry_after": 1}],
}


def bare_id(arrival: datetime) -> str:
    """A Postfix id that begins, as long ones do, with the time at which its message arrived."""
    seconds, first = int(arrival.timestamp()), ""
    for _ in range(6):
        seconds, digit = divmod(seconds, len(POSTFIX_ALPHABET))
        first = POSTFIX_ALPHABET[digit] + first
    return f"{first}SettleBare"


@dataclass(frozen=True)
class Story:
    """What was asked for, what was answered at once, and what was killed meanwhile."""

    stack: Stack
    bare: str
    answers: dict[str, requests.Response]
    reconciler_killed: "Future[list[int]]"

    def call(self, method: str, url: str, **more: Any) -> requests.Response:
        headers = {"Authorization": f"Bearer {self.stack.token}", **more.pop("headers", {})}
        return requests.request(method, url, headers=headers, timeout=TIMEOUT, **more)

    def post(self, message_id: str, **headers: str) -> requests.Response:
        headers["Idempotency-Key"] = f"key-of-{message_id}"
        return self.call("POST", f"{self.stack.base_url}/v1/releases", json=[message_id], headers=headers)

    def first(self, message_id: str) -> tuple[int, str]:
        """Status and outcome of the POST."""
        answer = self.answers[message_id]
        return answer.status_code, answer.json()["results"][0]["outcome"]

    def end(self, message_id: str) -> tuple[int, str]:
        """Status and outcome of the GET, once the request is open no more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self.call("GET", self.answers[message_id].headers["Location"])
            if answer.status_code != 202 or time.monotonic() > deadline:
                return answer.status_code, answer.json()["results"][0]["outcome"]
            time.sleep(0.5)

    def releases(self, message_id: str) -> list[dict[str, Any]]:
        """The release calls that Cloudflare has seen for one message."""
        return [call for call in self.seen("release") if message_id in _named(call["body"])]

    def seen(self, endpoint: str) -> list[dict[str, Any]]:
        return _simulator(self.stack, f"calls?endpoint={endpoint}")  # type: ignore[no-any-return]

    def trace(self, message_id: str) -> dict[str, Any]:
        return self.call("GET", f"{self.stack.base_url}/v1/messages/{message_id}").json()  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """Begin all of it."""
    with ThreadPoolExecutor(3) as threads, Stack(ENVIRONMENT, processes=3) as stack:
        for message_id, steps in SCRIPT.items():
            for step in steps:
                _simulator(stack, "script", {"id": message_id, "times": 1, **step})
        bare = bare_id(datetime.now(UTC) - timedelta(hours=2))
        _simulator(stack, "script", {"behaviour": "reset_after_effect", "id": bare, "times": 1})
        _simulator(stack, "script", {"behaviour": "hang", "on": "read", "times": 1})
        answers: dict[str, requests.Response] = {}
        story = Story(stack, bare, answers, threads.submit(_kill_reconciler, stack))
        _kill_webhook(story, threads)
        _kill_worker(story)
        for message_id in (KILLED_BEFORE, KILLED_AFTER, RESET, LOST):
            answers[message_id] = story.post(message_id)
        assert story.post(GOOD).json()["outcome"] == "released"
        for message_id in (bare, LIMITED):  # what Cloudflare does not take comes last, since it pauses all calls
            answers[message_id] = story.post(message_id)
        yield story


def test_an_answer_that_was_lost_is_found_out_by_reading(story: Story) -> None:
    assert story.first(RESET) == (202, "unconfirmed")

    assert story.end(RESET) == (200, "released")
    assert len(story.releases(RESET)) == 1
    assert story.trace(RESET)["evidence"]["seen"] == "released"


def test_a_bare_postfix_id_is_found_in_the_list(story: Story) -> None:
    assert story.first(story.bare) == (202, "unconfirmed")

    assert story.end(story.bare) == (200, "released")
    assert len(story.releases(story.bare)) == 1
    trace = story.trace(story.bare)
    assert trace["evidence"]["seen"] == "released"
    assert trace["id"].startswith(f"{story.bare}-")  # which only the list can have told
    by_path = {call["status"] for call in story.seen("message") if call["path"].endswith(f"/{story.bare}")}
    assert by_path <= {404}


def test_a_release_that_was_lost_on_its_way_is_made_once_more_and_not_too_soon(story: Story) -> None:
    assert story.first(LOST) == (202, "unconfirmed")

    assert story.end(LOST) == (200, "released")
    assert_once_more_and_not_too_soon(story, LOST)
    assert [attempt["verdict"]["state"] for attempt in story.trace(LOST)["attempts"]] == ["RETRYABLE", "RELEASED"]


def test_a_release_whose_process_was_killed_before_its_effect_is_made_once_more(story: Story) -> None:
    assert story.first(KILLED_BEFORE) == (202, "in_progress")

    assert story.end(KILLED_BEFORE) == (200, "released")
    assert_once_more_and_not_too_soon(story, KILLED_BEFORE)


def test_a_release_whose_process_was_killed_after_its_effect_is_found_out_by_reading(story: Story) -> None:
    assert story.first(KILLED_AFTER) == (202, "in_progress")

    assert story.end(KILLED_AFTER) == (200, "released")
    assert len(story.releases(KILLED_AFTER)) == 1


def test_what_cloudflare_does_not_take_for_a_while_is_released_later(story: Story) -> None:
    assert story.first(LIMITED) == (202, "in_progress")

    assert story.end(LIMITED) == (200, "released")
    assert [call["status"] for call in story.releases(LIMITED)] == [429, 429, 200]


def test_a_release_whose_worker_was_killed_before_its_effect_is_made_once_more(story: Story) -> None:
    assert story.first(WORKER_BEFORE) == (202, "in_progress")

    assert story.end(WORKER_BEFORE) == (200, "released")
    assert_once_more_and_not_too_soon(story, WORKER_BEFORE)


def test_a_release_whose_worker_was_killed_after_its_effect_is_found_out_by_reading(story: Story) -> None:
    assert story.first(WORKER_AFTER) == (202, "in_progress")

    assert story.end(WORKER_AFTER) == (200, "released")
    assert len(story.releases(WORKER_AFTER)) == 1
    assert story.trace(WORKER_AFTER)["evidence"]["seen"] == "released"


def test_what_a_killed_reconciler_had_begun_is_gone_on_with_by_the_next(story: Story) -> None:
    assert not set(story.reconciler_killed.result()) & set(story.stack.pids("reconciler"))
    assert story.end(RESET) == (200, "released")


def test_in_all_of_this_nothing_was_released_twice_and_nothing_crashed(story: Story) -> None:
    for message_id in story.answers:
        story.end(message_id)

    overview = _simulator(story.stack, "")
    assert (overview["released"], overview["double_releases"], overview["faults"]) == (len(story.answers) + 1, 0, [])
    assert "Traceback" not in story.stack.log_path.read_text()


def assert_once_more_and_not_too_soon(story: Story, message_id: str) -> None:
    """Check that there were two calls, the second not before lease and settle time of the first were over."""
    assert len(story.releases(message_id)) == 2
    sent_at = sorted(datetime.fromisoformat(attempt["sent_at"]) for attempt in story.trace(message_id)["attempts"])
    first, second = sent_at
    assert second - first >= LEASE + SETTLE


def _kill_webhook(story: Story, threads: ThreadPoolExecutor) -> None:
    """Have two requests hang at Cloudflare, then kill the processes at work for them."""
    dying = [threads.submit(story.post, message_id) for message_id in (KILLED_BEFORE, KILLED_AFTER)]
    for message_id in (KILLED_BEFORE, KILLED_AFTER):
        _wait_for_release(story.stack, message_id)
    _kill(story.stack, "webhook")
    assert [each.result().status_code for each in dying] == [502, 502]


def _kill_worker(story: Story) -> None:
    """The same with two calls of the worker; each hangs before the next is asked for, lest they become one."""
    for message_id in (WORKER_BEFORE, WORKER_AFTER):
        story.answers[message_id] = story.post(message_id, Prefer="respond-async")
        _wait_for_release(story.stack, message_id)
    _kill(story.stack, "worker")


def _kill_reconciler(stack: Stack) -> list[int]:
    """Kill the reconciler while its first read hangs."""
    _wait_for_hanging(stack, lambda call: call["endpoint"] != "release")
    return _kill(stack, "reconciler")


def _kill(stack: Stack, function: str) -> list[int]:
    pids = stack.pids(function)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return pids


def _wait_for_release(stack: Stack, message_id: str) -> None:
    _wait_for_hanging(stack, lambda call: call["endpoint"] == "release" and message_id in _named(call["body"]))


def _wait_for_hanging(stack: Stack, is_meant: Callable[[Any], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not any(call["behaviour"] == "hang" and is_meant(call) for call in _simulator(stack, "calls")):
        assert time.monotonic() < deadline, "no such call hangs"
        time.sleep(0.1)


def _named(body: Any) -> list[str]:
    ids: list[str] = body["ids"] if isinstance(body, dict) else body
    return ids


def _simulator(stack: Stack, path: str, content: Any = None) -> Any:
    answer = requests.request(
        "GET" if content is None else "POST", f"{stack.simulator_url}/_simulator/{path}", json=content, timeout=TIMEOUT
    )
    answer.raise_for_status()
    return answer.json()
