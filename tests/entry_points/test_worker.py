"""The worker's entry point: what stands in the queue is acknowledged, but for what the ledger did not let be done."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from quarantine_release import wiring
from quarantine_release.aws.hint_queue import encode
from quarantine_release.domain.ids import RequestId
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.rows import RequestRow
from quarantine_release.releasing.ports import Hint
from quarantine_release.telemetry import Unhandled
from quarantine_release.worker import lambda_handler
from tests.support.deployment import (
    ACCOUNT,
    CLOUDFLARE_SECRET,
    MESSAGE,
    OTHER_ACCOUNT,
    Context,
    Deployment,
    client_entry,
    set_clock,
    sqs_record,
)
from tests.support.metrics import flushed
from tests.support.small_cloudflare import NO_REPLY, Reply, delivered

SECOND, THIRD = "4WtWkr6nlBz9sNH", "4WtWkr6nlBz9sNK"
ASYNC = [("Prefer", "respond-async")]
NOTHING_FAILED: dict[str, Any] = {"batchItemFailures": []}
FOREIGN = RequestId("rq_" + "z" * 26)
CANARY = "zzcanary"


def records(*bodies: str) -> list[dict[str, Any]]:
    return [sqs_record(body, f"message-{number}") for number, body in enumerate(bodies)]


def hint(request_id: str, chunk: int | None = None) -> str:
    return encode(Hint(RequestId(request_id), chunk))


def accepted(deployment: Deployment, *ids: str, client: str = "soar", **members: Any) -> str:
    """Have a request left to the worker; return its id."""
    asked = deployment.post({"ids": list(ids), **members}, client=client, headers=ASYNC)
    assert asked.status == 202
    return str(asked.body["request_id"])


def test_hints_lead_to_one_call_and_each_outcome_is_told_with_who_asked_for_it(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    first = accepted(deployment, MESSAGE, SECOND, ticket="INC-1")
    second = accepted(deployment, SECOND, THIRD, client="other", ticket="INC-2")
    flushed(capsys)
    assert deployment.work() == NOTHING_FAILED
    assert [sorted(sent.ids) for sent in deployment.upstream.releases] == [sorted([MESSAGE, SECOND, THIRD])]
    told = {event["message_key"]: event for event in deployment.events("release_outcome")}
    assert {key: (event["client"], event["ticket"], event["request"]) for key, event in told.items()} == {
        f"M#{ACCOUNT}#{MESSAGE}": ("soar", "INC-1", first),
        f"M#{ACCOUNT}#{SECOND}": ("soar", "INC-1", first),
        f"M#{ACCOUNT}#{THIRD}": ("other", "INC-2", second),
    }
    assert {event["outcome"] for event in told.values()} == {"RELEASED"}
    assert flushed(capsys) == {"Hints": 2, "CloudflareCalls": 1, "Released": 3}


def test_hints_that_come_twice_late_or_for_nothing_are_acknowledged_and_counted(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = accepted(deployment, MESSAGE)
    flushed(capsys)
    batch = [hint(wanted), hint(wanted), hint(wanted, 0), hint(wanted, 7), hint(FOREIGN), "{}", "hello", "[" * 9999]
    assert deployment.hand_to_worker(records(*batch)) == NOTHING_FAILED
    assert [sent.ids for sent in deployment.upstream.releases] == [[MESSAGE]]
    counts = {"Hints": 5, "CloudflareCalls": 1, "Released": 1, "HintsStale": 2, "HintsMalformed": 3}
    assert flushed(capsys) == counts
    assert deployment.hand_to_worker(records(*batch)) == NOTHING_FAILED
    assert len(deployment.upstream.releases) == 1
    assert flushed(capsys) == {"Hints": 5, "HintsStale": 5, "HintsMalformed": 3}
    assert deployment.events("unhandled") == deployment.events("ledger_unavailable") == []


def test_what_is_in_a_malformed_hint_is_not_logged(deployment: Deployment) -> None:
    deployment.hand_to_worker(records(CANARY, json.dumps({"v": 1, "request_id": CANARY})))
    assert CANARY not in deployment.log


def test_nothing_to_be_done_needs_neither_ledger_nor_secret(deployment: Deployment) -> None:
    assert lambda_handler({"Records": records("hello")}, Context(60)) == NOTHING_FAILED
    assert deployment.aws_calls == []


def test_a_hint_for_a_forced_request_releases_nothing(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a request is open only if its answer was lost, or its process."""
    deployment.upstream.answers.append(NO_REPLY)
    forced = {"ids": MESSAGE, "force": True, "reason": "false positive"}
    asked = deployment.post(forced, client="admin", headers=[("Idempotency-Key", "key-1")])
    assert asked.status == 202
    flushed(capsys)
    assert deployment.hand_to_worker(records(hint(asked.body["request_id"]))) == NOTHING_FAILED
    assert flushed(capsys) == {"Hints": 1, "HintsStale": 1}
    assert len(deployment.upstream.releases) == 1


def test_without_the_ledger_every_hint_is_delivered_again(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = accepted(deployment, MESSAGE)
    deployment.delete_table()
    flushed(capsys)
    answer = deployment.hand_to_worker(records(hint(wanted), "hello", hint(wanted), hint(FOREIGN)))
    again = [failure["itemIdentifier"] for failure in answer["batchItemFailures"]]
    assert again == ["message-0", "message-2", "message-3"]
    assert flushed(capsys) == {"Hints": 3, "HintsMalformed": 1, "HintsFailed": 2, "LedgerUnavailable": 1}
    assert len(deployment.events("ledger_unavailable")) == 1
    assert not deployment.upstream.requests


def test_only_the_hints_of_the_account_that_failed_are_delivered_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = {"account_id": OTHER_ACCOUNT, "api_token": "cloudflare-secret-canary-2"}
    deployment.put_secret("cloudflare", {"accounts": [CLOUDFLARE_SECRET, second]})
    good = accepted(deployment, MESSAGE)
    bad = accepted(deployment, MESSAGE, account_id=OTHER_ACCOUNT)
    read = wiring.ledger().messages

    def fails_for_one(account_id: Any, parts: Any) -> Any:
        if account_id == OTHER_ACCOUNT:
            raise LedgerUnavailable("broken")
        return read(account_id, parts)

    with monkeypatch.context() as patch:
        patch.setattr(wiring.ledger(), "messages", fails_for_one)
        answer = deployment.hand_to_worker(records(hint(bad), hint(good), hint(FOREIGN)))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-0"}]}
    assert deployment.get(f"/v1/releases/{good}").result["outcome"] == "released"
    assert deployment.work() == NOTHING_FAILED
    assert deployment.get(f"/v1/releases/{bad}").result["outcome"] == "released"
    assert len(deployment.upstream.releases) == 2


def test_what_was_done_before_the_ledger_failed_is_told_all_the_same(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two calls, one in each wire form; the claim of the second fails."""
    wanted = accepted(deployment, MESSAGE, f"{SECOND}-2024-01-05T10:00:00-1", ticket="INC-1")
    claim, claims = wiring.ledger().claim, []

    def fails_the_second_time(*arguments: Any, **members: Any) -> Any:
        claims.append(arguments)
        if len(claims) == 2:
            raise LedgerUnavailable("broken")
        return claim(*arguments, **members)

    with monkeypatch.context() as patch:
        patch.setattr(wiring.ledger(), "claim", fails_the_second_time)
        answer = deployment.hand_to_worker(records(hint(wanted)))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-0"}]}
    assert [event["ticket"] for event in deployment.events("release_outcome")] == ["INC-1"]
    assert deployment.hand_to_worker(records(hint(wanted))) == NOTHING_FAILED
    assert len(deployment.events("release_outcome")) == 2
    assert len(deployment.upstream.releases) == 2


def test_an_outcome_whose_owner_is_another_request_is_told_with_that_one(deployment: Deployment) -> None:
    first = accepted(deployment, MESSAGE, ticket="INC-1")
    accepted(deployment, MESSAGE, client="other", ticket="INC-2")
    deployment.work()
    (event,) = deployment.events("release_outcome")
    assert (event["client"], event["ticket"], event["request"]) == ("soar", "INC-1", first)


def test_a_pause_sends_new_hints_for_when_it_is_over_and_acknowledges_the_old(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = set_clock(monkeypatch)
    wanted = accepted(deployment, MESSAGE)
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "42"}))
    assert deployment.work() == NOTHING_FAILED
    assert [(each["request_id"], each["delay"]) for each in deployment.hints] == [(wanted, 0), (wanted, 42)]
    assert deployment.events("release_outcome") == []
    clock.move(seconds=43)
    assert deployment.work() == NOTHING_FAILED
    assert deployment.get(f"/v1/releases/{wanted}").result["outcome"] == "released"
    assert deployment.work() == NOTHING_FAILED
    assert len(deployment.upstream.releases) == 2


def test_too_little_time_makes_no_call_and_new_hints_at_once(deployment: Deployment) -> None:
    wanted = accepted(deployment, MESSAGE)
    assert deployment.work(seconds_left=15) == NOTHING_FAILED
    assert not deployment.upstream.requests
    assert [(each["request_id"], each["delay"]) for each in deployment.hints] == [(wanted, 0), (wanted, 0)]
    deployment.work()
    assert deployment.get(f"/v1/releases/{wanted}").status == 200


def test_a_refused_credential_leaves_what_was_accepted_waiting(deployment: Deployment) -> None:
    wanted = accepted(deployment, MESSAGE)
    deployment.upstream.answers.append(Reply(403))
    assert deployment.work() == NOTHING_FAILED
    assert deployment.get(f"/v1/releases/{wanted}").result["outcome"] == "in_progress"
    assert 30 <= deployment.hints[-1]["delay"] <= 90
    deployment.work()
    assert deployment.get(f"/v1/releases/{wanted}").result["outcome"] == "released"


def test_a_lost_answer_is_left_to_the_reconciler(deployment: Deployment) -> None:
    wanted = accepted(deployment, MESSAGE)
    deployment.upstream.answers.append(NO_REPLY)
    assert deployment.work() == NOTHING_FAILED
    assert deployment.get(f"/v1/releases/{wanted}").result["outcome"] == "unconfirmed"
    assert len(deployment.hints) == 1
    assert deployment.events("release_outcome") == []


def test_what_nobody_foresaw_is_raised_without_its_text(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = accepted(deployment, MESSAGE)

    def fail(_: Sequence[RequestId]) -> Mapping[RequestId, RequestRow]:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(wiring.ledger(), "requests", fail)
    with pytest.raises(Unhandled, match=r"\ARuntimeError\Z") as raised:
        deployment.hand_to_worker(records(hint(wanted)))
    assert raised.value.__suppress_context__
    assert raised.value.__cause__ is None
    (logged,) = deployment.events("unhandled")
    assert logged["error_type"] == "RuntimeError"
    assert logged["at"][0].startswith("worker.py:")
    assert CANARY not in deployment.log


@pytest.mark.parametrize("event", [{}, {"Records": None}, {"Records": [{"body": CANARY}]}])
def test_an_event_that_is_none_of_sqs_is_an_unforeseen_error(deployment: Deployment, event: dict[str, Any]) -> None:
    with pytest.raises(Unhandled):
        lambda_handler(event, Context(60))
    assert CANARY not in deployment.log


def test_an_environment_that_is_not_complete_is_told_by_name_in_the_log(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QUEUE_URL")
    with pytest.raises(Unhandled, match=r"\ASettingsInvalid\Z"):
        deployment.hand_to_worker(records("hello"))
    (logged,) = deployment.events("unhandled")
    assert logged["settings"] == "QUEUE_URL is not set"


def test_the_trace_shows_that_one_call_was_made_for_two_requests(deployment: Deployment) -> None:
    first = accepted(deployment, MESSAGE)
    second = accepted(deployment, MESSAGE, client="other")
    deployment.upstream.answers.append(delivered)
    deployment.work()
    trace = deployment.get(f"/v1/messages/{MESSAGE}", client="auditor").body
    assert [(each["request_id"], each["outcome"]) for each in trace["requests"]] == [
        (first, "released"),
        (second, "already_released"),
    ]
    assert [attempt["request_id"] for attempt in trace["attempts"]] == [first]


def test_work_of_a_client_that_is_gone_is_acknowledged_logged_and_not_done(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted(deployment, MESSAGE)
    deployment.put_secret("clients", {"clients": [client_entry("other")]})
    deployment.start_afresh()
    flushed(capsys)
    assert deployment.work() == NOTHING_FAILED
    assert (deployment.upstream.releases, deployment.rows("M#")) == ([], [])
    (event,) = deployment.events("work_withheld")
    assert (event["client"], event["reason"], event["number"]) == ("soar", "client_gone", 1)
    assert flushed(capsys) == {"Hints": 1, "WorkWithheld": 1}
    assert deployment.work() == NOTHING_FAILED
