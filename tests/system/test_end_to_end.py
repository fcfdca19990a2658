"""The whole system as `make run` serves it: real processes, real HTTP, concurrency and kills."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from local.stack import Stack

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack({"PORT": "0"}, processes=4) as running:
        yield running


@pytest.fixture(autouse=True)
def _fresh_simulator(stack: Stack) -> None:
    control(stack, "reset")


def control(stack: Stack, name: str, **content: Any) -> None:
    requests.post(f"{stack.simulator_url}/_simulator/{name}", json=content, timeout=10).raise_for_status()


def calls(stack: Stack) -> list[Any]:
    answer = requests.get(f"{stack.simulator_url}/_simulator/calls?endpoint=release", timeout=10).json()
    found: list[Any] = answer["calls"] if isinstance(answer, dict) else answer
    return found


def post(stack: Stack, ids: list[str], key: str | None = None, **members: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {stack.token}"} | ({"Idempotency-Key": key} if key else {})
    return requests.post(f"{stack.base_url}/v1/releases", json={"ids": ids, **members}, headers=headers, timeout=60)


def get(stack: Stack, path: str) -> requests.Response:
    return requests.get(f"{stack.base_url}{path}", headers={"Authorization": f"Bearer {stack.token}"}, timeout=60)


def test_fifty_at_once_for_each_of_twenty_messages_are_one_call_each_and_a_thousand_truthful_answers(
    stack: Stack,
) -> None:
    ids = [f"4Njp3P0STMrace{number:02d}" for number in range(20)]
    jobs = [(given, f"key-{given}-{turn % 10}" if turn % 2 else None) for turn in range(50) for given in ids]

    def one(job: tuple[str, str | None]) -> tuple[str, requests.Response]:
        return job[0], post(stack, [job[0]], job[1])

    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(one, jobs))
    assert Counter(id_ for call in calls(stack) for id_ in call["body"]) == Counter(ids)
    assert len(answers) == 1000
    released: dict[str, set[str]] = {given: set() for given in ids}
    for given, answer in answers:
        body = answer.json()
        assert answer.status_code in (200, 202), body
        outcome = body["results"][0]["outcome"]
        assert outcome in ("released", "already_released", "in_progress")
        assert (answer.status_code == 202) == (outcome == "in_progress")
        if outcome == "released":
            released[given].add(body["request_id"])
    assert all(len(owners) <= 1 for owners in released.values())
    request_ids = {(given, answer.json()["request_id"]) for given, answer in answers}
    ends = [(given, get(stack, f"/v1/releases/{request_id}").json()) for given, request_id in sorted(request_ids)[:200]]
    for given, body in ends:
        assert body["results"][0]["outcome"] == (
            "released" if body["request_id"] in released[given] else "already_released"
        )


def test_a_reset_after_reading_is_unconfirmed_and_never_called_again(stack: Stack) -> None:
    control(stack, "script", behaviour="reset_after_reading", id="*", times=1)
    first = post(stack, ["4Njp3P0STMreset1"], "reset")
    assert (first.status_code, first.json()["results"][0]["outcome"]) == (202, "unconfirmed")
    assert first.json()["ok"] is None
    for key in ("reset", "another", None):
        again = post(stack, ["4Njp3P0STMreset1"], key)
        assert (again.status_code, again.json()["results"][0]["outcome"]) == (202, "unconfirmed")
    polled = requests.get(first.headers["Location"], headers={"Authorization": f"Bearer {stack.token}"}, timeout=10)
    assert (polled.status_code, polled.json()["request_id"]) == (202, first.json()["request_id"])
    assert len(calls(stack)) == 1


def test_a_handler_killed_while_cloudflare_hangs_makes_no_second_call(stack: Stack) -> None:
    control(stack, "script", behaviour="hang", id="*", times=1)
    with ThreadPoolExecutor(1) as pool:
        dying = pool.submit(post, stack, ["4Njp3P0STMkilled"], "killed")
        while not calls(stack):
            time.sleep(0.05)
        for pid in stack.pids("webhook"):
            os.kill(pid, signal.SIGKILL)
        assert dying.result().status_code == 502
    for key in ("killed", None):
        again = post(stack, ["4Njp3P0STMkilled"], key)
        assert (again.status_code, again.json()["results"][0]["outcome"]) == (202, "in_progress")
    assert len(calls(stack)) == 1


def test_another_upstream_receives_exactly_the_documented_requests(stack: Stack) -> None:
    account = "0123456789abcdef0123456789abcdef"
    upstream = f"{stack.simulator_url}/client/v4"
    environment = {"PORT": "0", "CLOUDFLARE_API_BASE_URL": upstream, "CLOUDFLARE_ACCOUNT_ID": account}
    control(stack, "settings", account_id=account, keys={"soc@example.com": "key-of-a-person"}, tokens=[])
    try:
        environment |= {"CLOUDFLARE_API_EMAIL": "soc@example.com", "CLOUDFLARE_API_KEY": "key-of-a-person"}
        with Stack(environment, processes=1) as other:
            full = "4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7"
            assert post(other, ["4Njp3P0STMz2c02Q", full]).json()["outcome"] == "released"
        path = f"/client/v4/accounts/{account}/email-security/investigate/release"
        assert [(call["method"], call["path"], call["body"]) for call in calls(stack)] == [
            ("POST", path, ["4Njp3P0STMz2c02Q"]),
            ("POST", path, {"ids": [full]}),
        ]
        for call in calls(stack):
            names = {name.lower() for name in call["headers"]}
            assert {"x-auth-email", "x-auth-key"} <= names
            assert "authorization" not in names
    finally:
        control(stack, "settings", account_id=stack.account_id)
