"""Releasing: what POST /v1/releases answers, replays and fails on, and what Cloudflare receives for it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.deployment import (
    ACCOUNT,
    API_TOKEN,
    CLOUDFLARE_SECRET,
    INVESTIGATE_ID,
    MESSAGE,
    OTHER_ACCOUNT,
    Deployment,
    path_of,
)
from tests.small_cloudflare import NO_REPLY, RECIPIENT, Reply, Sent, delivered

SECOND = "4WtWkr6nlBz9sNH"
KEY = [("Idempotency-Key", "key-1")]
BASE_URL = "https://abc123.execute-api.us-east-1.amazonaws.com"
FORCED = {"ids": MESSAGE, "force": True, "reason": "delivered to the wrong folder"}


def only(*recipients: str) -> Callable[[Sent], Reply]:
    """Let Cloudflare tell that these could not be delivered to."""
    return lambda sent: delivered(sent, delivered=[], undelivered=list(recipients), failed=[])


def partly(sent: Sent) -> Reply:
    return delivered(sent, delivered=[RECIPIENT], undelivered=["bob@example.com"], failed=["eve@example.com"])


def test_a_release_is_answered_with_the_recipients(deployment: Deployment) -> None:
    answer = deployment.post([MESSAGE])
    assert answer.status == 200
    assert "Location" not in answer.headers
    result = answer.result
    assert result.pop("updated_at").endswith("Z")
    assert result == {
        "id": MESSAGE,
        "outcome": "released",
        "delivered": [RECIPIENT],
        "undelivered": [],
        "failed": [],
        "code": None,
        "retryable": False,
        "released_by": None,
        "attempts": 1,
    }
    assert answer.body["request_id"].startswith("rq_")
    assert {name: answer.body[name] for name in ("status", "outcome", "ok", "released_ids", "not_released_ids")} == {
        "status": "completed",
        "outcome": "released",
        "ok": True,
        "released_ids": [MESSAGE],
        "not_released_ids": [],
    }
    assert (answer.body["replayed"], answer.body["warnings"]) == (False, [])


def test_cloudflare_receives_the_documented_request(deployment: Deployment) -> None:
    deployment.post([MESSAGE])
    deployment.post({"ids": [SECOND + "-2024-01-05T10:00:00-1"]})
    first, second = deployment.upstream.requests
    for sent in (first, second):
        assert sent.path == f"/client/v4/accounts/{ACCOUNT}/email-security/investigate/release"
        assert sent.headers["authorization"] == f"Bearer {API_TOKEN}"
        assert sent.headers["content-type"] == "application/json"
    assert json.loads(first.body) == [MESSAGE]
    assert json.loads(second.body) == {"ids": [f"{SECOND}-2024-01-05T10:00:00-1"]}


def test_a_message_is_released_once_whoever_asks_under_whatever_shape_of_its_id(deployment: Deployment) -> None:
    first = deployment.post([MESSAGE])
    again = deployment.post([INVESTIGATE_ID], client="other")
    assert (again.status, again.body["ok"], again.result["outcome"]) == (200, True, "already_released")
    assert again.result["released_by"]["request_id"] == first.body["request_id"]
    assert again.result["released_by"]["at"] == first.result["updated_at"]
    assert len(deployment.upstream.requests) == 1


def test_both_shapes_in_one_request_are_two_calls_and_one_answer_in_the_order_given(deployment: Deployment) -> None:
    full = f"{SECOND}-2024-01-05T10:00:00-1"
    answer = deployment.post({"ids": f"{full},{MESSAGE},{SECOND}"})
    assert [result["id"] for result in answer.body["results"]] == [full, MESSAGE, SECOND]
    assert {result["outcome"] for result in answer.body["results"]} == {"released"}
    assert sorted(sent.ids for sent in deployment.upstream.requests) == [[MESSAGE], [full]]


def test_unknown_members_are_warned_of(deployment: Deployment) -> None:
    assert deployment.post({"ids": MESSAGE, "severity": "high"}).body["warnings"] == [
        "Unknown member ignored: severity"
    ]


def test_partial_delivery_is_told_per_recipient(deployment: Deployment) -> None:
    deployment.upstream.answers.append(partly)
    answer = deployment.post()
    assert (answer.status, answer.body["outcome"], answer.body["ok"]) == (200, "partial", False)
    assert answer.result["outcome"] == "partially_released"
    assert (answer.result["delivered"], answer.result["undelivered"], answer.result["failed"]) == (
        [RECIPIENT],
        ["bob@example.com"],
        ["eve@example.com"],
    )


def test_a_rejection_is_an_end_and_says_its_code(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(404, error_code=1002))
    answer = deployment.post()
    assert (answer.status, answer.body["outcome"], answer.body["ok"]) == (200, "none", False)
    assert (answer.result["outcome"], answer.result["code"]) == ("failed", "cloudflare_rejected")
    assert deployment.post().result["outcome"] == "released"


def test_an_id_that_contradicts_what_is_known_is_not_sent(deployment: Deployment) -> None:
    deployment.post([INVESTIGATE_ID])
    answer = deployment.post([INVESTIGATE_ID.replace("12345678", "87654321")])
    assert (answer.result["outcome"], answer.result["code"]) == ("needs_review", "id_conflict")
    assert len(deployment.upstream.requests) == 1


def test_what_is_not_known_is_202_with_the_place_where_it_will_be_told(deployment: Deployment) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    answer = deployment.post()
    assert (answer.status, answer.body["status"], answer.body["outcome"]) == (202, "in_progress", "pending")
    assert answer.body["ok"] is None
    assert (answer.result["outcome"], answer.result["code"]) == ("unconfirmed", "no_answer")
    assert answer.headers["Location"] == BASE_URL + path_of(answer)
    assert answer.headers["Retry-After"] == "5"
    looked_up = deployment.get(path_of(answer))
    assert looked_up == answer
    again = deployment.post()
    assert (again.status, again.result["outcome"]) == (202, "unconfirmed")
    assert len(deployment.upstream.requests) == 1


def test_a_refused_credential_is_503_and_leaves_nothing_that_could_be_released_later(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(403))
    answer = deployment.post(headers=KEY)
    assert (answer.status, answer.code) == (503, "cloudflare_credentials_refused")
    assert (answer.body["retryable"], answer.headers["Retry-After"]) == (True, "60")
    assert [row["state"]["S"] for row in deployment.rows("R")] == ["REFUSED"]
    request_id = deployment.rows("R")[0]["pk"]["S"].removeprefix("R#")
    assert deployment.get(f"/v1/releases/{request_id}").status == 404
    again = deployment.post(headers=KEY)
    assert (again.status, again.body["request_id"], again.result["outcome"]) == (200, request_id, "released")


def test_a_new_credential_is_taken_up_when_cloudflare_refuses_the_old_one(deployment: Deployment) -> None:
    deployment.post([SECOND])
    deployment.put_secret("cloudflare", CLOUDFLARE_SECRET | {"api_token": "cloudflare-token-canary-2"})
    deployment.upstream.answers.append(Reply(401))
    assert deployment.post([MESSAGE]).result["outcome"] == "released"
    tokens = [sent.headers["authorization"].split()[1] for sent in deployment.upstream.requests]
    assert tokens == [API_TOKEN, API_TOKEN, "cloudflare-token-canary-2"]


def test_a_rate_limit_leaves_the_request_open(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "77"}))
    answer = deployment.post()
    assert (answer.status, answer.result["outcome"]) == (202, "in_progress")


def test_a_rate_limit_is_told_to_who_forces_as_nobody_comes_back_for_it(deployment: Deployment) -> None:
    deployment.post()
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "77"}))
    answer = deployment.post(FORCED, client="admin", headers=KEY)
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "cloudflare_rate_limited", "77")


def test_too_little_time_leaves_the_request_open_and_is_told_to_who_forces(deployment: Deployment) -> None:
    forced = deployment.post(FORCED, client="admin", headers=KEY, seconds_left=10)
    assert (forced.status, forced.code, forced.headers["Retry-After"]) == (503, "not_enough_time", "5")
    assert deployment.is_untouched
    answer = deployment.post(seconds_left=10)
    assert (answer.status, answer.result["outcome"]) == (202, "in_progress")
    assert not deployment.upstream.requests


def test_force_releases_again_what_had_been_released(deployment: Deployment) -> None:
    deployment.post()
    answer = deployment.post(FORCED, client="admin", headers=KEY)
    assert (answer.status, answer.result["outcome"], answer.result["attempts"]) == (200, "released", 2)
    assert len(deployment.upstream.requests) == 2
    assert deployment.post(FORCED, client="admin", headers=KEY).body["replayed"] is True
    assert len(deployment.upstream.requests) == 2


def test_a_release_takes_two_round_trips_to_the_ledger_and_a_replay_one(deployment: Deployment) -> None:
    deployment.post([SECOND])  # the secrets are cached from here on
    for body, headers, calls in (
        ([MESSAGE], KEY, 2),
        ([MESSAGE], KEY, 1),
        ([MESSAGE], [], 2),
        ([INVESTIGATE_ID], [], 2),
    ):
        deployment.aws_calls.clear()
        assert deployment.post(body, headers=headers).status == 200
        assert deployment.aws_calls == ["TransactWriteItems"] * calls


@pytest.mark.parametrize("second_key", ['"key-1"', "key-1"])
def test_the_same_key_again_is_the_same_answer(deployment: Deployment, second_key: str) -> None:
    first = deployment.post(headers=KEY)
    again = deployment.post({"postfix_id": MESSAGE}, headers=[("idempotency-key", second_key)])
    assert again.status == 200
    assert again.body == first.body | {"replayed": True}
    assert len(deployment.upstream.requests) == 1


def test_the_same_key_again_while_open_is_202_again(deployment: Deployment) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    first = deployment.post(headers=KEY)
    again = deployment.post(headers=KEY)
    assert (again.status, again.headers["Location"]) == (202, first.headers["Location"])
    assert again.body["replayed"] is True


def test_the_same_key_of_another_client_is_another_request(deployment: Deployment) -> None:
    first = deployment.post(headers=KEY)
    other = deployment.post(headers=KEY, client="other")
    assert other.body["request_id"] != first.body["request_id"]
    assert (other.body["replayed"], other.result["outcome"]) == (False, "already_released")


def test_a_webhook_id_is_a_key_too(deployment: Deployment) -> None:
    first = deployment.post(headers=[("webhook-id", "msg-1")])
    assert deployment.post(headers=[("webhook-id", "msg-1")]).body == first.body | {"replayed": True}


@pytest.mark.parametrize(
    ("fail_on", "reply", "status"),
    [
        ("never", only("bob@example.com"), 200),
        ("none", only("bob@example.com"), 400),
        ("none", partly, 200),
        ("partial", partly, 400),
        ("partial", delivered, 200),
        ("none", NO_REPLY, 202),
    ],
)
def test_fail_on_decides_the_status_also_when_looked_up_and_replayed(
    deployment: Deployment, fail_on: str, reply: Any, status: int
) -> None:
    deployment.upstream.answers.append(reply)
    body = {"ids": MESSAGE, "fail_on": fail_on}
    first = deployment.post(body, headers=KEY)
    looked_up = deployment.get(path_of(first))
    replayed = deployment.post(body, headers=KEY)
    listed = deployment.get("/v1/releases", query=[("ids", first.body["request_id"])]).body["releases"]
    assert [first.status, looked_up.status, replayed.status] == [status] * 3
    assert looked_up.body == first.body
    assert listed == [first.body]
    assert replayed.body == first.body | {"replayed": True}
    if status == 400:
        assert (first.code, first.body["ok"], first.body["retryable"]) == ("release_incomplete", False, False)
        assert first.body["detail"] == first.body["message"]
        assert first.result["id"] == MESSAGE


def test_a_named_account_is_the_one_that_is_called(deployment: Deployment) -> None:
    second = {"account_id": OTHER_ACCOUNT, "api_email": "ops@example.com", "api_key": "cloudflare-token-canary-key"}
    deployment.put_secret("cloudflare", {"accounts": [CLOUDFLARE_SECRET, second]})
    assert deployment.post({"ids": MESSAGE, "account_id": OTHER_ACCOUNT}).status == 200
    assert deployment.post([MESSAGE], client="guest").status == 403
    assert deployment.post({"ids": [MESSAGE], "account_id": OTHER_ACCOUNT}, client="guest").status == 200
    (sent,) = deployment.upstream.requests
    assert f"/accounts/{OTHER_ACCOUNT}/" in sent.path
    assert (sent.headers["x-auth-email"], sent.headers["x-auth-key"]) == ("ops@example.com", second["api_key"])
    assert "authorization" not in sent.headers


def test_an_account_that_is_newer_than_the_copy_of_the_secret_is_known_at_once(deployment: Deployment) -> None:
    assert deployment.post().status == 200
    both = {"accounts": [CLOUDFLARE_SECRET, {"account_id": OTHER_ACCOUNT, "api_token": "another-cloudflare-token"}]}
    deployment.put_secret("cloudflare", both)
    answer = deployment.post({"ids": MESSAGE, "account_id": OTHER_ACCOUNT})
    assert (answer.status, answer.result["outcome"]) == (200, "released")
    assert OTHER_ACCOUNT in deployment.upstream.releases[1].path
