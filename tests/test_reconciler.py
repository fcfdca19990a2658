"""The reconciler's entry point, beside the webhook on the same table."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from quarantine_release import wiring
from quarantine_release.ports import LedgerUnavailable
from quarantine_release.reconciler import lambda_handler
from quarantine_release.telemetry import Unhandled
from tests.deployment import INVESTIGATE_ID, MESSAGE, Context, Deployment, path_of
from tests.small_cloudflare import NO_REPLY, Reply, delivered


def later(monkeypatch: pytest.MonkeyPatch, **ahead: float) -> None:
    now = wiring.clock
    monkeypatch.setattr(wiring, "clock", lambda: now() + timedelta(**ahead))


def run() -> dict[str, int]:
    event: dict[str, Any] = {"detail-type": "Scheduled Event", "source": "aws.events", "detail": {}}
    summary: dict[str, int] = lambda_handler(event, Context(55))
    return summary


def details(**members: Any) -> Reply:
    return Reply(result={"id": INVESTIGATE_ID, "is_quarantined": False, **members})


def test_a_lost_answer_is_settled_and_logged_as_an_outcome_of_its_request(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    asked = deployment.post({"ids": MESSAGE, "ticket": "INC-7"})
    assert (asked.status, asked.result["outcome"]) == (202, "unconfirmed")
    assert deployment.events("release_outcome") == []
    later(monkeypatch, seconds=60)
    deployment.upstream.answers.append(details(post_delivery_operations=["QUARANTINE_RELEASE"]))
    assert run() == {"attempts": 1, "requests": 1, "settled": 1}
    told = deployment.get(path_of(asked))
    assert (told.status, told.result["outcome"]) == (200, "released")
    (event,) = deployment.events("release_outcome")
    assert (event["outcome"], event["client"], event["ticket"]) == ("RELEASED", "soar", "INC-7")
    assert len(deployment.upstream.releases) == 1
    trace = deployment.get(f"/v1/messages/{MESSAGE}").body
    assert (trace["id"], trace["evidence"]["seen"]) == (INVESTIGATE_ID, "released")
    assert trace["attempts"][0]["state"] == "settled"
    assert trace["attempts"][0]["evidence"]["failure"]
    assert run() == {"attempts": 0, "requests": 0, "settled": 0}


def test_what_is_still_quarantined_is_released_once_more_after_the_wait(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    asked = deployment.post()
    later(monkeypatch, seconds=215)
    deployment.upstream.answers += [details(is_quarantined=True), Reply(result=[]), delivered]
    assert run() == {"attempts": 1, "requests": 1, "settled": 1}
    assert deployment.get(path_of(asked)).result["outcome"] == "released"
    assert len(deployment.upstream.releases) == 2


def test_a_rate_limit_is_answered_202_and_made_up_for(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment.upstream.answers.append(Reply(429, headers={"Retry-After": "7"}))
    asked = deployment.post()
    assert (asked.status, asked.result["outcome"]) == (202, "in_progress")
    later(monkeypatch, seconds=60)
    assert run() == {"attempts": 0, "requests": 1, "settled": 1}
    assert deployment.get(path_of(asked)).result["outcome"] == "released"


def test_how_long_the_oldest_has_waited_is_a_metric(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment.upstream.answers.append(NO_REPLY)
    deployment.post()
    capsys.readouterr()
    later(monkeypatch, seconds=400)
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
    monkeypatch.setattr(wiring.ledger(), "requests", lambda _: {})
    later(monkeypatch, seconds=60)
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
    later(monkeypatch, seconds=60)
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
    later(monkeypatch, seconds=60)

    def fail(*_: object) -> None:
        raise LedgerUnavailable("broken")

    monkeypatch.setattr(wiring.ledger(), "look_again", fail)
    deployment.upstream.answers.append(Reply(500))
    with pytest.raises(Unhandled, match=r"\ALedgerUnavailable\Z"):
        run()
    assert deployment.events("ledger_unavailable")[0]["code"] == "2 left out"
