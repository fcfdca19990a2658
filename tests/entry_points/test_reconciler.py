"""The reconciler's entry point, beside the webhook on the same table."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from quarantine_release import wiring
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.reconciler import lambda_handler
from quarantine_release.telemetry import Unhandled
from tests.support.deployment import INVESTIGATE_ID, MESSAGE, Context, Deployment, client_entry, path_of
from tests.support.small_cloudflare import NO_REPLY, Reply


def later(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, **ahead: float) -> None:
    """Let time pass, and go on in a process of its own, as the reconciler is."""
    now = wiring.clock
    monkeypatch.setattr(wiring, "clock", lambda: now() + timedelta(**ahead))
    deployment.start_afresh()


def run() -> dict[str, int]:
    event: dict[str, Any] = {"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}
    summary: dict[str, int] = lambda_handler(event, Context(55))
    assert summary.keys() == {"attempts", "settled", "requests", "hints"}
    return summary


def came_to(attempts: int = 0, settled: int = 0, requests: int = 0, hints: int = 0) -> dict[str, int]:
    return {"attempts": attempts, "settled": settled, "requests": requests, "hints": hints}


def details(**members: Any) -> Reply:
    return Reply(result={"id": INVESTIGATE_ID, "is_quarantined": False, **members})


def test_a_lost_answer_is_settled_and_logged_as_an_outcome_of_its_request(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    asked = deployment.post({"ids": MESSAGE, "ticket": "INC-7"})
    assert (asked.status, asked.result["outcome"]) == (202, "unconfirmed")
    assert deployment.events("release_outcome") == []
    later(deployment, monkeypatch, seconds=60)
    deployment.upstream.answers.append(details(post_delivery_operations=["QUARANTINE_RELEASE"]))
    assert run() == came_to(attempts=1, settled=1)
    told = deployment.get(path_of(asked))
    assert (told.status, told.result["outcome"]) == (200, "released")
    (event,) = deployment.events("release_outcome")
    assert (event["outcome"], event["client"], event["ticket"]) == ("RELEASED", "soar", "INC-7")
    assert len(deployment.upstream.releases) == 1
    trace = deployment.get(f"/v1/messages/{MESSAGE}").body
    assert (trace["id"], trace["evidence"]["seen"]) == (INVESTIGATE_ID, "released")
    assert trace["attempts"][0]["state"] == "settled"
    assert trace["attempts"][0]["evidence"]["failure"]
    assert run() == came_to()


def test_what_is_still_quarantined_is_released_once_more_after_the_wait(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    asked = deployment.post()
    later(deployment, monkeypatch, seconds=215)
    deployment.upstream.answers += [details(is_quarantined=True), Reply(result=[])]
    assert run() == came_to(attempts=1, requests=1, hints=1)
    assert len(deployment.upstream.releases) == 1, "it reads, and leaves the rest to the worker"
    deployment.work()
    assert deployment.get(path_of(asked)).result["outcome"] == "released"
    assert len(deployment.upstream.releases) == 2


def test_who_else_wants_what_is_found_still_quarantined_has_it_released_too(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    deployment.post(headers=[("Idempotency-Key", "key-1")])
    other = deployment.post(client="other")
    assert (other.status, other.result["outcome"]) == (202, "unconfirmed")
    later(deployment, monkeypatch, seconds=215)
    deployment.upstream.answers += [details(is_quarantined=True), Reply(result=[])]
    deployment.hints.clear()
    run()
    assert other.body["request_id"] in {hint["request_id"] for hint in deployment.hints}
    deployment.work()
    assert deployment.get(path_of(other), client="other").status == 200
    assert len(deployment.upstream.releases) == 2


def test_a_hint_that_was_lost_is_sent_again_when_its_request_has_been_quiet_for_two_minutes(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "7"}))
    asked = deployment.post()
    assert (asked.status, asked.result["outcome"]) == (202, "in_progress")
    deployment.delete_queue()
    deployment.create_queue()
    later(deployment, monkeypatch, seconds=60)
    assert run() == came_to()
    later(deployment, monkeypatch, seconds=61)
    assert run() == came_to(requests=1, hints=1)
    deployment.work()
    assert deployment.get(path_of(asked)).result["outcome"] == "released"


def test_during_a_pause_no_hints_are_sent_as_nothing_could_come_of_them(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "600"}))
    deployment.post()
    deployment.hints.clear()
    later(deployment, monkeypatch, seconds=121)
    assert run() == came_to(requests=1)
    later(deployment, monkeypatch, seconds=600)
    assert run() == came_to(requests=1, hints=1)
    assert [hint["delay"] for hint in deployment.hints] == [0]


def test_what_has_waited_for_a_day_ends_as_expired_and_is_never_sent(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = deployment.post(headers=[("Prefer", "respond-async")])
    later(deployment, monkeypatch, hours=24, minutes=2)
    assert run() == came_to(requests=1)
    told = deployment.get(path_of(asked))
    assert (told.status, told.result["outcome"], told.result["retryable"]) == (200, "expired", True)
    deployment.work()
    assert not deployment.upstream.requests


def test_while_no_call_is_left_nothing_is_read_and_nothing_is_guessed(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUDGET_CALLS", "1")
    deployment.upstream.answers.append(NO_REPLY)
    asked = deployment.post()
    later(deployment, monkeypatch, seconds=215)
    assert run() == came_to(attempts=1, requests=1)
    assert len(deployment.upstream.requests) == 1
    assert deployment.get(path_of(asked)).result["outcome"] == "unconfirmed"


def test_a_call_that_was_rejected_as_a_whole_is_read_and_then_made_in_smaller_ones(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = "4WtWkr6nlBz9sNH-2024-01-05T10:00:00-1"
    deployment.upstream.answers.append(Reply(400, error_code=7003))
    asked = deployment.post([INVESTIGATE_ID, other])
    assert {result["code"] for result in asked.body["results"]} == {"call_rejected"}
    later(deployment, monkeypatch, seconds=215)
    held = [Reply(result={"id": each, "is_quarantined": True}) for each in (INVESTIGATE_ID, other)]
    deployment.upstream.answers += [held[0], Reply(result=[]), held[1], Reply(result=[])]
    run()
    deployment.upstream.answers.append(Reply(404, error_code=7003))
    deployment.work()
    assert [len(sent.ids) for sent in deployment.upstream.releases] == [2, 1, 1]
    told = deployment.get(path_of(asked))
    assert sorted(result["outcome"] for result in told.body["results"]) == ["failed", "released"]


def test_how_long_the_oldest_has_waited_is_a_metric(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    deployment.post()
    capsys.readouterr()
    later(deployment, monkeypatch, seconds=400)
    deployment.upstream.answers.append(Reply(500))
    run()
    written = capsys.readouterr().out
    assert '"OldestOpenAttemptAge"' in written
    assert '"OldestOpenRequestAge"' in written


def test_a_message_whose_owner_is_gone_is_logged_all_the_same(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    deployment.post()
    later(deployment, monkeypatch, seconds=60)
    monkeypatch.setattr(wiring.ledger(), "requests", lambda _: {})
    deployment.upstream.answers.append(details(post_delivery_operations=["QUARANTINE_RELEASE"]))
    assert run()["settled"] == 1
    (event,) = deployment.events("release_outcome")
    assert event.get("client") is None


def test_a_ledger_that_cannot_be_reached_fails_the_run_by_name_alone(deployment: Deployment) -> None:
    deployment.delete_table()
    with pytest.raises(Unhandled, match=r"\ALedgerUnavailable\Z"):
        run()
    assert deployment.events("ledger_unavailable")
    assert deployment.events("unhandled")[0]["error_type"] == "LedgerUnavailable"


def test_whatever_else_goes_wrong_is_told_by_its_class_alone(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> datetime:
        raise ValueError("with a secret in it")

    monkeypatch.setattr(wiring.ledger(), "open_attempts", fail)
    with pytest.raises(Unhandled, match=r"\AValueError\Z"):
        run()
    assert "with a secret" not in deployment.log


def test_what_a_run_has_settled_is_told_though_it_ends_badly(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    deployment.post()
    later(deployment, monkeypatch, seconds=60)
    deployment.upstream.answers.append(details(post_delivery_operations=["QUARANTINE_RELEASE"]))

    def fail(*_: object) -> list[Any]:
        raise LedgerUnavailable("broken")

    monkeypatch.setattr(wiring.ledger(), "open_requests", fail)
    with pytest.raises(Unhandled, match=r"\ALedgerUnavailable\Z"):
        run()
    assert len(deployment.events("release_outcome")) == 1


def test_a_run_that_had_to_leave_something_out_fails_at_its_end(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    deployment.post()
    later(deployment, monkeypatch, seconds=60)

    def fail(*_: object) -> None:
        raise LedgerUnavailable("broken")

    monkeypatch.setattr(wiring.ledger(), "postpone", fail)
    deployment.upstream.answers.append(Reply(500))
    with pytest.raises(Unhandled, match=r"\ALedgerUnavailable\Z"):
        run()
    assert deployment.events("ledger_unavailable")[0]["code"] == "1 left out"


def test_work_of_a_client_that_is_disabled_gets_no_hints_until_it_is_enabled(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = deployment.post(headers=[("Prefer", "respond-async")])
    entry = client_entry("soar")
    deployment.put_secret("clients", {"clients": [{**entry, "disabled": True}]})
    later(deployment, monkeypatch, seconds=125)
    assert run() == came_to(requests=1)
    (event,) = deployment.events("work_withheld")
    assert (event["client"], event["reason"], event["number"]) == ("soar", "client_disabled", 1)
    deployment.put_secret("clients", {"clients": [entry]})
    later(deployment, monkeypatch, seconds=125)
    assert run() == came_to(requests=1, hints=1)
    deployment.work()
    assert deployment.get(path_of(asked)).result["outcome"] == "released"
