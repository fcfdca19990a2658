"""Crowds: 30 requests at once for each message, in every shape of its id, with Cloudflare slow to answer.

The effect shows at Cloudflare before its answer is sent, so a request may find the mail released before the ledger
says so. `make crowds` plays 10,000 requests and prints the figures.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from math import ceil
from threading import Barrier
from typing import Any, Final

import pytest
import requests

from local.cloudflare_messages import POSTFIX_ALPHABET
from tests.support.scripted_cloudflare import ACCOUNT, Deployed, Row, action, deployed, row

pytestmark = pytest.mark.slow

CROWD: Final = 30
MESSAGES: Final = ceil(int(os.environ.get("CROWDS", "300")) / CROWD)
# Longer than another request needs from its look at the ledger to its look at Cloudflare.
SECONDS_BEFORE_THE_ANSWER: Final = 0.3
PATIENCE_SECONDS: Final = 600
# What a crowd reads would use up an account's budget, which has tests of its own.
SETTINGS: Final = {"BUDGET_INLINE_CALLS": "99999", "BUDGET_CALLS": "99999", "RECONCILE_EVERY_SECONDS": "5"}
DURING: Final = {"released", "already_released", "in_progress"}


@pytest.fixture(scope="module")
def system() -> Iterator[Deployed]:
    with deployed(SETTINGS, processes=8) as running:
        yield running


def message_ids(number: int) -> dict[str, str]:
    """Return every id of one mail, which arrived some seconds after two days ago, and is found by each."""
    at = (datetime.now(UTC) - timedelta(days=2)).replace(microsecond=0) + timedelta(seconds=number)
    seconds, first = int(at.timestamp()), ""
    for _ in range(6):
        seconds, digit = divmod(seconds, len(POSTFIX_ALPHABET))
        first = POSTFIX_ALPHABET[digit] + first
    postfix_id = f"{first}z{number:05}Crwd"
    alert_id = f"{postfix_id}-{at:%Y-%m-%dT%H:%M:%S}"
    investigate_id = f"{alert_id}-{10_000_000 + number}"
    return {"bare": postfix_id, "alert": alert_id, "full": investigate_id, "header": f"<{postfix_id}@example.net>"}


def show_as_released(mail: Row) -> None:
    mail |= {"is_quarantined": False, "delivery_status": ["delivered"]}
    mail["post_delivery_operations"] = ["QUARANTINE_RELEASE"]


def deliver_late(system: Deployed, mails: dict[str, Row]) -> None:
    def on_release(ids: list[str]) -> list[Row]:
        for each in ids:
            mail = mails[each.partition("-")[0]]
            show_as_released(mail)
            system.cloudflare.logs[mail["id"]] = [action(started_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")]
        time.sleep(SECONDS_BEFORE_THE_ANSWER)
        return [{"id": each, "delivered": ["ann@example.com"]} for each in ids]

    system.cloudflare.on_release = on_release


def ask(system: Deployed, ids: dict[str, str], position: int, barrier: Barrier) -> requests.Response:
    """Ask as one of the crowd: by one of the four ids, every other with a key, every fifth without waiting."""
    given = list(ids.values())[position % 4]
    headers = {"Idempotency_Key": f"{ids['bare']}-{position}"} if position // 4 % 2 else {}
    headers |= {"Prefer": "respond-async"} if position % 5 == 4 else {}
    barrier.wait()
    return system.post({"ids": [given]}, **headers)


def ends(system: Deployed, request_ids: Sequence[str]) -> list[dict[str, Any]]:
    """Poll as a platform does that hands over a list, 50 after 50, until all have ended."""
    until = time.monotonic() + PATIENCE_SECONDS
    found: list[dict[str, Any]] = []
    for start in range(0, len(request_ids), 50):
        some = ",".join(request_ids[start : start + 50])
        while True:
            answer = system.get(f"/v1/releases?ids={some}")
            assert answer.status_code == 200, answer.text
            if not answer.json()["open"]:
                break
            assert time.monotonic() < until, f"still open: {answer.json()['open']}"
            time.sleep(0.5)
        found += answer.json()["releases"]
    return found


def outcomes(bodies: Sequence[dict[str, Any]]) -> Counter[tuple[str, str | None]]:
    return Counter((result["outcome"], result["code"]) for body in bodies for result in body["results"])


def test_of_a_crowd_one_releases_and_all_others_find_it_released(system: Deployed) -> None:
    crowds = [message_ids(number) for number in range(MESSAGES)]
    mails = {ids["bare"]: row(ids["full"]) for ids in crowds}
    system.cloudflare.rows = list(mails.values())
    deliver_late(system, mails)
    began = time.monotonic()
    answers: list[list[requests.Response]] = []
    with ThreadPoolExecutor(CROWD) as pool:
        for ids in crowds:
            barrier = Barrier(CROWD)
            asked = [pool.submit(ask, system, ids, position, barrier) for position in range(CROWD)]
            answers.append([each.result() for each in asked])
    asked_for = time.monotonic() - began
    flat = [answer for some in answers for answer in some]
    statuses = Counter(answer.status_code for answer in flat)
    waits = sorted(answer.elapsed.total_seconds() for answer in flat)
    print(f"\n{len(flat)} requests for {MESSAGES} messages in {asked_for:.1f} s: {dict(statuses)},", end=" ")
    print(f"median {waits[len(waits) // 2]:.2f} s, longest {waits[-1]:.2f} s")
    causes = Counter(line for line in system.stack.log_path.read_text().splitlines() if '"ledger_unavailable"' in line)
    assert set(statuses) <= {200, 202}, ([answer.text for answer in flat if answer.status_code > 202][:3], causes)
    at_once = outcomes([answer.json() for answer in flat])
    print(f"at once: {dict(at_once)}")
    assert {outcome for outcome, _ in at_once} <= DURING, at_once
    ended = ends(system, [answer.json()["request_id"] for answer in flat])
    print(f"at the end, after {time.monotonic() - began:.1f} s: {dict(outcomes(ended))}")
    print(f"{len(system.cloudflare.reads)} reads, {len(system.cloudflare.releases)} release calls")
    assert {body["ok"] for body in ended} == {True}
    for number, ids in enumerate(crowds):
        final = ended[number * CROWD : (number + 1) * CROWD]
        assert outcomes(final) == {("released", None): 1, ("already_released", None): CROWD - 1}
        assert system.cloudflare.released(ids["bare"]) == 1
        assert system.item(f"M#{ACCOUNT}#{ids['bare']}")["state"] == {"S": "RELEASED"}
