"""A thousand hostile requests against the whole system: no 5xx, and afterwards nothing is different from before."""

import json
import random
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
import requests

from local.stack import Stack
from tests.support.canaries import SECRET, leaked
from tests.support.stand_ins import sign

pytestmark = pytest.mark.slow
KEY = f"signing-{SECRET}-of-this-test".encode()
TOKEN = f"token-{SECRET}-of-this-test"
BODY = b'{"ids": ["4Njp3P0STMz2c02Q"]}'
HOSTILE = 1000


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    environment = {
        "PORT": "0",
        "QUARANTINE_RELEASE_TOKEN": TOKEN,
        "QUARANTINE_RELEASE_SIGNING_SECRET": f"whsec_{b64encode(KEY).decode()}",
    }
    with Stack(environment, processes=2) as running:
        yield running


def headers(body: bytes, message_id: str, at: int | None = None, key: bytes = KEY) -> dict[str, str]:
    """Return those of a right request."""
    timestamp = str(int(time.time()) if at is None else at)
    return {
        "Authorization": f"Bearer {TOKEN}",
        "webhook-id": message_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": sign(key, message_id, timestamp, body),
    }


def state(stack: Stack) -> Any:
    """Return the rows, how many hints there are, and the calls that Cloudflare got."""

    session = boto3.Session("x", "x", region_name="us-east-1")

    def client(service: Any) -> Any:
        return session.client(service, endpoint_url=stack.aws_url)

    (table,) = client("dynamodb").list_tables()["TableNames"]
    items = client("dynamodb").scan(TableName=table)["Items"]
    rows = sorted(json.dumps(item, default=repr, sort_keys=True) for item in items if item["pk"]["S"][:2] != "A#")
    counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    hints = client("sqs").get_queue_attributes(QueueUrl=stack.queue_url, AttributeNames=counts)["Attributes"]
    calls = requests.get(f"{stack.simulator_url}/_simulator/calls", timeout=10).json()
    return rows, hints, calls


def mutated(chance: random.Random, text: str) -> str:
    """Return a header value with one character changed."""
    at = chance.randrange(len(text))
    return text[:at] + chance.choice("AZaz09+/=-_.,~") + text[at + 1 :]


def hostile(chance: random.Random, number: int, recorded: Mapping[str, str]) -> tuple[str, str, Any, Any, set[int]]:
    """Return method, path, headers, body, and the statuses that there may be."""
    fresh, path = f"msg_{number}", "/v1/releases"
    noise = chance.randbytes(chance.randrange(1, 2000))
    at = chance.randrange(len(BODY))
    other = BODY[:at] + bytes([BODY[at] ^ 1 << chance.randrange(7)]) + BODY[at + 1 :]
    part = chance.choice(["webhook-id", "webhook-timestamp", "webhook-signature", "Authorization"])
    bent = {**recorded, part: mutated(chance, recorded[part])}
    large = json.dumps({"ids": ["4Njp3P0STMz2c02Q"], "x": "x" * chance.randrange(66_000, 500_000)}).encode()
    twice = b'{"ids": ["4Njp3P0STMz2c02Q"], "ids": ["evilevil"]}'
    kinds: list[tuple[str, str, Any, Any, set[int]]] = [
        # The gateway hands on what is not UTF-8 changed, so that its signature is wrong.
        ("POST", path, headers(noise, fresh), noise, {400, 401}),
        ("POST", path, headers(twice, fresh), twice, {400}),
        ("POST", path, headers(b"[" * 60_000, fresh), b"[" * 60_000, {400}),
        ("POST", path, {"Authorization": f"Bearer {TOKEN}"}, BODY, {401}),
        ("POST", path, headers(BODY, fresh, key=noise), BODY, {401}),
        (
            "POST",
            path,
            headers(BODY, fresh, at=int(time.time()) + chance.choice([-301, -9999, 400, 10**9])),
            BODY,
            {401},
        ),
        ("POST", path, recorded, BODY, {200}),
        ("POST", path, recorded, other, {401}),
        ("POST", path, recorded, BODY + noise, {401}),
        ("POST", path, {**recorded, "Idempotency-Key": fresh}, BODY, {400}),
        ("POST", path, bent, BODY, {200 if bent == recorded else 401}),
        ("POST", path, headers(large, fresh), large, {413}),
        ("POST", path, {"Authorization": "Bearer nobody"}, large, {401, 413}),
        ("POST", f"{path}?token={TOKEN}", headers(BODY, fresh), BODY, {401}),
        ("POST", path, headers(BODY, fresh) | {"Content-Encoding": "gzip"}, BODY, {415}),
        ("POST", path, headers(BODY, fresh) | {"Content-Type": "multipart/form-data; boundary=x"}, BODY, {415}),
        (chance.choice(["PUT", "DELETE", "PATCH"]), path, headers(BODY, fresh), BODY, {405}),
        ("POST", f"/v1/{noise[:8].hex()}/%00%2e%2e", headers(BODY, fresh), BODY, {404}),
        ("GET", "/v1/messages/..%2f..%2faccounts", headers(b"", fresh), None, {400, 404}),
        ("POST", "/v1/releases/rq_aaaaaaaaaaaaaaaaaaaaaaaaaa/cancel", recorded, BODY, {404}),
    ]
    return kinds[number % len(kinds)]


def test_a_thousand_hostile_requests_cause_no_5xx_and_change_nothing(stack: Stack) -> None:
    recorded = headers(BODY, "msg_recorded")
    url = stack.base_url
    assert requests.post(f"{url}/v1/releases", data=BODY, headers=recorded, timeout=30).status_code == 200
    before = state(stack)

    def send(number: int) -> tuple[int, int, set[int]]:
        chance = random.Random(number)  # noqa: S311  the same every time
        method, path, fields, body, expected = hostile(chance, number, recorded)
        answer = requests.request(method, f"{url}{path}", data=body, headers=fields, timeout=60)
        assert leaked(answer.text, SECRET) == []
        return number, answer.status_code, expected

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(send, range(HOSTILE)))
    assert [(number % 20, status) for number, status, expected in seen if status not in expected] == []
    assert Counter(status for _, status, _ in seen).keys() == {200, 400, 401, 404, 405, 413, 415}
    assert state(stack) == before
    assert leaked(stack.log_path.read_text("utf-8"), SECRET) == []
