"""Cancelling: what nothing was sent for yet ends, what was sent stays as it is, and only who asked may."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from quarantine_release import wiring
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from tests.support.deployment import MESSAGE, Deployment, path_of
from tests.support.small_cloudflare import NO_REPLY, Reply, Sent, delivered

SECOND = "4WtWkr6nlBz9sNH"
ASYNC = [("Prefer", "respond-async")]
KEY = [("Idempotency-Key", "key-1")]
MANY = [f"4Njp3P0STMz{number:05}" for number in range(26)]


def cancel(deployment: Deployment, asked: Any, **given: Any) -> Any:
    return deployment.send("POST", f"{path_of(asked)}/cancel", **given)


def test_what_nothing_was_sent_for_ends_as_cancelled_and_is_never_sent(deployment: Deployment) -> None:
    asked = deployment.post(MANY)
    answer = cancel(deployment, asked)
    assert (answer.status, answer.body["status"], answer.body["outcome"]) == (200, "completed", "none")
    assert (answer.body["ok"], answer.body["counts"]["cancelled"]) == (False, 26)
    assert answer.body["not_released_ids"] == MANY
    assert {result["code"] for result in answer.body["results"]} == {None}
    assert {result["retryable"] for result in answer.body["results"]} == {True}
    assert "Location" not in answer.headers
    assert deployment.get(path_of(asked)).body == answer.body
    assert deployment.work() == {"batchItemFailures": []}
    assert not deployment.upstream.requests
    assert deployment.get(path_of(asked)).body == answer.body


def test_what_was_cancelled_may_be_asked_for_again(deployment: Deployment) -> None:
    asked = deployment.post([MESSAGE], headers=ASYNC)
    cancel(deployment, asked)
    again = deployment.post([MESSAGE])
    assert again.result["outcome"] == "released"
    assert deployment.get(path_of(asked)).result["outcome"] == "cancelled"


def test_what_was_released_before_stays_released(deployment: Deployment) -> None:
    deployment.post(MANY[:2], client="other")
    asked = deployment.post(MANY)
    answer = cancel(deployment, asked)
    assert (answer.status, answer.body["outcome"]) == (200, "partial")
    assert (answer.body["counts"]["already_released"], answer.body["counts"]["cancelled"]) == (2, 24)
    assert deployment.get(path_of(asked)).body == answer.body


def test_a_call_under_way_is_waited_for_and_the_rest_is_cancelled(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two calls, whose answer is lost: one id is released, one unconfirmed."""
    full = f"{SECOND}-2024-01-05T10:00:00-1"
    deployment.upstream.answers += [delivered, NO_REPLY]
    asked = deployment.post([MESSAGE, full])
    assert (asked.status, asked.body["counts"]["released"], asked.body["counts"]["unconfirmed"]) == (202, 1, 1)
    answer = cancel(deployment, asked)
    assert (answer.status, answer.body["ok"]) == (202, None)
    assert answer.headers["Location"].endswith(path_of(asked))
    assert answer.headers["Retry-After"] == "5"
    assert (answer.body["counts"]["released"], answer.body["counts"]["unconfirmed"]) == (1, 1)
    # What is found still quarantined is not sent again on behalf of a cancelled request.
    now = wiring.clock
    monkeypatch.setattr(wiring, "clock", lambda: now() + timedelta(seconds=215))
    deployment.upstream.answers += [Reply(result={"id": full, "is_quarantined": True}), Reply(result=[])]
    deployment.reconcile()
    deployment.work()
    told = deployment.get(path_of(asked))
    assert [result["outcome"] for result in told.body["results"]] == ["released", "cancelled"]
    assert told.status == 200
    assert len(deployment.upstream.releases) == 2


def test_cancelling_while_the_worker_calls_leaves_that_call_alone(deployment: Deployment) -> None:
    asked = deployment.post([MESSAGE], headers=ASYNC)

    def cancelled_meanwhile(sent: Sent) -> Reply:
        (request,) = wiring.ledger().requests([asked.body["request_id"]]).values()
        assert wiring.ledger().cancel(replace(request, cancelled_at=wiring.clock())) is None
        return delivered(sent)

    deployment.upstream.answers.append(cancelled_meanwhile)
    deployment.work()
    told = deployment.get(path_of(asked))
    assert (told.status, told.result["outcome"]) == (200, "released")
    (request,) = deployment.get(f"/v1/messages/{MESSAGE}").body["requests"]
    assert request["cancelled_at"].endswith("Z")


def test_an_ended_request_is_told_as_it_is(deployment: Deployment) -> None:
    asked = deployment.post()
    rows = deployment.rows()
    answer = cancel(deployment, asked)
    assert (answer.status, answer.body) == (200, asked.body)
    assert deployment.rows() == rows


def test_cancelling_twice_is_cancelling_once(deployment: Deployment) -> None:
    asked = deployment.post(MANY)
    first = cancel(deployment, asked)
    assert cancel(deployment, asked) == first


def test_a_cancelled_request_is_replayed_as_cancelled(deployment: Deployment) -> None:
    asked = deployment.post([MESSAGE], headers=[*KEY, *ASYNC])
    answer = cancel(deployment, asked)
    again = deployment.post([MESSAGE], headers=KEY)
    assert (again.status, again.body) == (200, answer.body | {"replayed": True})
    assert not deployment.upstream.requests


@pytest.mark.parametrize(("fail_on", "status"), [("never", 200), ("none", 400), ("partial", 400)])
def test_cancelling_is_answered_as_looking_up_is(deployment: Deployment, fail_on: str, status: int) -> None:
    asked = deployment.post({"ids": MESSAGE, "fail_on": fail_on}, headers=ASYNC)
    answer = cancel(deployment, asked)
    assert (answer.status, answer.result["outcome"]) == (status, "cancelled")
    assert deployment.get(path_of(asked)) == answer


def test_a_cancelled_request_is_told_in_the_trace_of_what_was_asked_for(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "1"}))
    asked = deployment.post()
    cancel(deployment, asked)
    (request,) = deployment.get(f"/v1/messages/{MESSAGE}").body["requests"]
    assert request["outcome"] == "cancelled"
    assert request["cancelled_at"].endswith("Z")


@pytest.mark.parametrize(
    ("client", "status", "code"),
    [
        ("other", 404, "not_found"),
        ("admin", 404, "not_found"),  # who may read all may not end it
        ("reader", 403, "scope_missing"),
        ("auditor", 403, "scope_missing"),
        (None, 401, "unauthenticated"),
    ],
)
def test_only_the_client_that_asked_may_cancel(
    deployment: Deployment, client: str | None, status: int, code: str
) -> None:
    asked = deployment.post(MANY)
    rows = deployment.rows()
    answer = cancel(deployment, asked, client=client)
    assert (answer.status, answer.code) == (status, code)
    assert deployment.rows() == rows
    deployment.work()
    assert deployment.get(path_of(asked)).body["counts"]["released"] == 26


def test_who_may_release_and_not_read_may_cancel_what_is_his(deployment: Deployment) -> None:
    asked = deployment.post(MANY, client="writer")
    assert cancel(deployment, asked, client="writer").body["counts"]["cancelled"] == 26


@pytest.mark.parametrize("given_id", ["rq_aaaaaaaaaaaaaaaaaaaaaaaaaa", "rq_x", "%FF", "..%2F.."])
def test_a_request_that_there_is_not_is_not_found(deployment: Deployment, given_id: str) -> None:
    answer = deployment.send("POST", f"/v1/releases/{given_id}/cancel")
    assert (answer.status, answer.code) == (404, "not_found")
    assert deployment.is_untouched


def test_a_request_whose_caller_was_told_no_is_not_there(deployment: Deployment) -> None:
    deployment.upstream.answers.append(Reply(403))
    deployment.post(headers=KEY)
    request_id = deployment.rows("R")[0]["pk"]["S"].removeprefix("R#")
    assert deployment.send("POST", f"/v1/releases/{request_id}/cancel").code == "not_found"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_cancelling_is_a_post(deployment: Deployment, method: str) -> None:
    answer = deployment.send(method, "/v1/releases/rq_x/cancel")
    assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "method_not_allowed", "POST")


def test_whatever_body_comes_with_it_is_not_read(deployment: Deployment) -> None:
    asked = deployment.post(MANY)
    assert cancel(deployment, asked, body="not JSON").body["counts"]["cancelled"] == 26


def test_a_ledger_out_of_reach_is_told(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = deployment.post(MANY)

    def fail(*_: object) -> None:
        raise LedgerUnavailable("broken")

    monkeypatch.setattr(wiring.ledger(), "cancel", fail)
    answer = cancel(deployment, asked)
    assert (answer.status, answer.code) == (503, "ledger_unavailable")
    assert deployment.get(path_of(asked)).body["counts"]["in_progress"] == 26
