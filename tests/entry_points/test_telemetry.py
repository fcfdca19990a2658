"""What is logged and counted: facts under stable names, of errors their class and place, and never a text."""

import json
from dataclasses import replace

import pytest

from quarantine_release import telemetry
from quarantine_release.config.settings import SettingsInvalid
from quarantine_release.domain.ids import AttemptId, RequestId, postfix_part
from quarantine_release.domain.rows import MessageRow, WireForm
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import Evidence
from tests.support.deployment import Deployment
from tests.support.metrics import counted
from tests.support.stand_ins import ACCOUNT, BARE, NOON, request_row

ROW = MessageRow(
    account_id=ACCOUNT,
    part=postfix_part(BARE),
    state=State.NEEDS_REVIEW,
    attempt=AttemptId("a1"),
    message_id=BARE,
    updated_at=NOON,
    owner=RequestId("rq_one"),
    code=Code.UNSETTLED,
)


def test_a_release_outcome_tells_message_outcome_and_who(deployment: Deployment) -> None:
    telemetry.release_outcome(ROW, request_row(BARE, ticket="INC-1"))
    (logged,) = deployment.events("release_outcome")
    expected = {
        "message_key": f"M#{ACCOUNT}#{BARE}",
        "outcome": "NEEDS_REVIEW",
        "code": "unsettled",
        "client": "soar",
        "ticket": "INC-1",
        "request": "rq_one",
        "attempt": "a1",
    }
    assert expected.items() <= logged.items()
    assert counted() == {"NeedsReview": [1.0]}


@pytest.mark.parametrize(("state", "name"), [(State.RELEASED, "Released"), (State.NEEDS_REVIEW, "NeedsReview")])
def test_an_outcome_is_counted_under_the_name_of_its_state(state: State, name: str) -> None:
    telemetry.release_outcome(replace(ROW, state=state), request_row(BARE))
    assert counted() == {name: [1.0]}


def test_an_outcome_whose_request_is_gone_is_told_all_the_same(deployment: Deployment) -> None:
    telemetry.release_outcome(ROW, None)
    (logged,) = deployment.events("release_outcome")
    assert (logged["outcome"], logged.get("client")) == ("NEEDS_REVIEW", None)


def test_a_call_is_told_with_its_evidence(deployment: Deployment) -> None:
    telemetry.cloudflare_read(ACCOUNT, Evidence(500, (10000,), "ray-2"), 7)
    (read,) = deployment.events("cloudflare_read")
    assert (read["status"], read["error_codes"], read["cf_ray"], read["milliseconds"]) == (500, [10000], "ray-2", 7)
    telemetry.cloudflare_call(ACCOUNT, WireForm.ARRAY, 3, Evidence(429, (971,), "ray-1", "deadline"), 12)
    (logged,) = deployment.events("cloudflare_call")
    expected = {
        "account_id": ACCOUNT,
        "wire_form": "array",
        "ids": 3,
        "status": 429,
        "error_codes": [971],
        "cf_ray": "ray-1",
        "failure": "deadline",
        "milliseconds": 12,
    }
    assert expected.items() <= logged.items()
    assert counted() == {"CloudflareCalls": [1.0]}


def test_the_age_of_what_waits_longest_is_measured_in_seconds() -> None:
    telemetry.oldest_open("Attempt", 90.5)
    assert counted() == {"OldestOpenAttemptAge": [90.5]}


def test_hints_that_the_queue_did_not_take_are_told_and_counted(deployment: Deployment) -> None:
    telemetry.hints_lost(7)
    (logged,) = deployment.events("hints_lost")
    assert (logged["level"], logged["hints"]) == ("ERROR", 7)
    assert counted() == {"HintsLost": [7.0]}


def test_an_error_nobody_foresaw_is_told_by_class_and_place(deployment: Deployment) -> None:
    try:
        raise ValueError("canary")
    except ValueError as error:
        raised = telemetry.unhandled(error)
    assert str(raised) == "ValueError"
    (logged,) = deployment.events("unhandled")
    assert logged["error_type"] == "ValueError"
    assert logged["at"][0].startswith("test_telemetry.py:")
    assert "canary" not in deployment.log
    assert counted() == {"Unhandled": [1.0]}


def test_of_settings_that_are_wrong_the_text_is_told_as_it_names_no_value(deployment: Deployment) -> None:
    telemetry.unhandled(SettingsInvalid("TABLE_NAME is not set"))
    (logged,) = deployment.events("unhandled")
    assert logged["settings"] == "TABLE_NAME is not set"


def test_a_line_end_in_a_field_does_not_end_the_line(deployment: Deployment) -> None:
    telemetry.release_outcome(ROW, request_row(BARE, ticket='INC"\r\n{"message": "forged"}'))
    (line,) = deployment.log.splitlines()
    assert json.loads(line)["message"] == "release_outcome"
