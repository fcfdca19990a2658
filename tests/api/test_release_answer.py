"""The public shapes: one for every answer, consistent in itself, and a trace that shows each client what is its own."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from quarantine_release.api.release_answer import answer_body, is_failure, result_body
from quarantine_release.api.trace_answer import trace_body
from quarantine_release.domain.guard import Guarded
from quarantine_release.domain.ids import AttemptId, MessageId, OperationId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.operation_rows import OperationKind, OperationRow
from quarantine_release.domain.request_options import FailOn
from quarantine_release.domain.results import Result, derive_results
from quarantine_release.domain.rows import (
    AttemptRow,
    AttemptState,
    MessageRow,
    RequestRow,
    RequestState,
    Target,
    WireForm,
)
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.verdicts import Evidence, Recipients, Seen, Verdict
from quarantine_release.releasing.progress import Answer
from tests.support.shapes import message_rows, moments, requests, tables
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OK, OTHER, TERMS, request_row

PART = postfix_part(BARE)
OWN, FOREIGN = RequestId("rq_own"), RequestId("rq_foreign")
RELEASED = MessageRow(
    account_id=ACCOUNT,
    part=PART,
    state=State.RELEASED,
    attempt=AttemptId("a1"),
    message_id=FULL,
    updated_at=NOON,
    owner=OWN,
    expires_at=NOON + TERMS.retention,
    recipients=Recipients.of(["a@example.com"]),
    evidence=OK,
    attempts=frozenset({AttemptId("a1")}),
    asks=frozenset({OWN, FOREIGN}),
)
OUTCOMES_WITHOUT_COUNT = dict.fromkeys(map(str, Outcome), 0)


def answer(*outcomes: Outcome, fail_on: FailOn = FailOn.NEVER) -> Answer:
    """Return an answer in which each id has come to one of these."""
    ids = [MessageId(f"4Njp3P0STMz{number:05}") for number in range(len(outcomes))]
    results = tuple(Result(each, outcome, None, None) for each, outcome in zip(ids, outcomes, strict=True))
    return Answer(request_row(*ids, fail_on=fail_on), results)


def test_the_answer_has_one_shape() -> None:
    request = request_row(BARE, name="own")
    body = answer_body(Answer(request, (Result(BARE, Outcome.RELEASED, None, RELEASED),)), ["a warning"])
    assert body == {
        "request_id": OWN,
        "status": "completed",
        "outcome": "released",
        "ok": True,
        "counts": {"requested": 1, **OUTCOMES_WITHOUT_COUNT, "released": 1},
        "released_ids": [BARE],
        "not_released_ids": [],
        "results": [
            {
                "id": BARE,
                "outcome": "released",
                "delivered": ["a@example.com"],
                "undelivered": [],
                "failed": [],
                "code": None,
                "retryable": False,
                "released_by": None,
                "attempts": 1,
                "updated_at": "2026-11-22T12:00:00.000Z",
            }
        ],
        "message": "1 message: 1 released.",
        "replayed": False,
        "warnings": ["a warning"],
    }


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("guard", [Guarded.NOT_CHECKED, Guarded.PASSED_BY_RECORD])
def test_of_what_was_sent_unread_only_who_had_it_sent_is_warned(outcome: Outcome, guard: Guarded) -> None:
    unread = replace(RELEASED, guard=guard)
    warnings = answer_body(Answer(request_row(BARE, name="own"), (Result(BARE, outcome, None, unread),)))["warnings"]
    was_sent = outcome in (Outcome.RELEASED, Outcome.PARTIALLY_RELEASED, Outcome.UNCONFIRMED, Outcome.WOULD_RELEASE)
    assert bool(warnings) is was_sent


def test_an_id_without_a_row_has_the_same_members_as_one_with() -> None:
    with_row = result_body(Result(BARE, Outcome.RELEASED, None, RELEASED))
    without = result_body(Result(BARE, Outcome.IN_PROGRESS, None, None))
    assert without.keys() == with_row.keys()
    assert (without["attempts"], without["updated_at"]) == (0, None)


def test_who_released_it_is_told_to_whoever_came_later() -> None:
    body = result_body(Result(BARE, Outcome.ALREADY_RELEASED, None, RELEASED))
    assert body["released_by"] == {"request_id": OWN, "at": "2026-11-22T12:00:00.000Z"}
    assert result_body(Result(BARE, Outcome.ALREADY_RELEASED, None, None))["released_by"] is None


@pytest.mark.parametrize("state", [State.RELEASING, State.RETRYABLE])
@pytest.mark.parametrize("outcome", [Outcome.IN_PROGRESS, Outcome.UNCONFIRMED])
def test_recipients_of_an_earlier_call_are_not_told_for_one_under_way(state: State, outcome: Outcome) -> None:
    body = result_body(Result(BARE, outcome, None, replace(RELEASED, state=state)))
    assert (body["delivered"], body["undelivered"], body["failed"]) == ([], [], [])


def test_that_there_are_more_recipients_than_are_named_is_told() -> None:
    many = replace(RELEASED, recipients=Recipients.of([f"{n}@example.com" for n in range(500)]))
    body = result_body(Result(BARE, Outcome.RELEASED, None, many))
    assert len(body["delivered"]) == 20
    assert body["recipients_truncated"] is True
    assert body["recipient_counts"] == {"delivered": 500, "undelivered": 0, "failed": 0}


R, A, P, F = Outcome.RELEASED, Outcome.ALREADY_RELEASED, Outcome.PARTIALLY_RELEASED, Outcome.FAILED
OPEN, WOULD = Outcome.UNCONFIRMED, Outcome.WOULD_RELEASE


@pytest.mark.parametrize(
    ("outcomes", "overall", "ok", "message"),
    [
        ((R,), "released", True, "1 message: 1 released."),
        ((R, A), "released", True, "2 messages: 1 released, 1 already released."),
        ((R, F), "partial", False, "2 messages: 1 released, 1 failed."),
        ((P,), "partial", False, "1 message: 1 partially released."),
        ((P, F), "partial", False, "2 messages: 1 partially released, 1 failed."),
        ((F, Outcome.NEEDS_REVIEW), "none", False, "2 messages: 1 failed, 1 needs review."),
        ((R, OPEN), "pending", None, "2 messages: 1 released, 1 unconfirmed."),
        ((F, Outcome.IN_PROGRESS), "pending", None, "2 messages: 1 failed, 1 in progress."),
    ],
)
def test_the_whole_is_told_from_its_parts(
    outcomes: tuple[Outcome, ...], overall: str, ok: bool | None, message: str
) -> None:
    body = answer_body(answer(*outcomes))
    assert (body["outcome"], body["ok"], body["message"]) == (overall, ok, message)
    assert body["status"] == ("in_progress" if overall == "pending" else "completed")


@pytest.mark.parametrize(
    ("outcomes", "failures"),
    [
        ((R,), set()),
        ((R, A), set()),
        ((R, F), {FailOn.PARTIAL}),
        ((P,), {FailOn.PARTIAL}),
        ((F,), {FailOn.PARTIAL, FailOn.NONE}),
        ((F, OPEN), set()),
        ((R, OPEN), set()),
        ((WOULD,), set()),
        ((WOULD, A), set()),
        ((WOULD, F), {FailOn.PARTIAL}),
    ],
)
def test_a_request_fails_as_its_caller_asked_and_never_while_it_is_open(
    outcomes: tuple[Outcome, ...], failures: set[FailOn]
) -> None:
    assert {fail_on for fail_on in FailOn if is_failure(answer(*outcomes, fail_on=fail_on))} == failures


@given(requests, tables, moments)
def test_every_answer_is_consistent_in_itself(
    request: RequestRow, rows: dict[PostfixPart, MessageRow], now: Any
) -> None:
    results = derive_results(request, rows, now)
    body = answer_body(Answer(request, results))
    outcomes = [result["outcome"] for result in body["results"]]
    assert [result["id"] for result in body["results"]] == list(request.ids)
    assert body["counts"].pop("requested") == len(request.ids) == sum(body["counts"].values())
    assert all(outcomes.count(outcome) == count for outcome, count in body["counts"].items())
    ended = [result.id for result in results if result.is_end]
    assert sorted(body["released_ids"] + body["not_released_ids"]) == sorted(ended)
    assert (body["ok"] is None) == (body["outcome"] == "pending") == (body["status"] == "in_progress")
    assert (body["ok"] is True) == (body["outcome"] == "released") == (len(body["released_ids"]) == len(request.ids))
    assert is_failure(Answer(request, results)) <= (body["ok"] is False)


OWN_REQUEST = request_row(
    FULL, name="own", reason="false positive", ticket="INC-1", requested_by="Ann", trace_id="trace-1", force=True
)
FOREIGN_REQUEST = request_row(
    BARE, name="foreign", client="other", created_at=NOON + timedelta(seconds=1), reason="canary", ticket="canary"
)
ATTEMPT = AttemptRow(
    account_id=ACCOUNT,
    attempt=AttemptId("a1"),
    wire_form=WireForm.OBJECT,
    targets=(Target(PART, FULL),),
    owners={PART: OWN},
    sent_at=NOON,
    deadline=NOON + TERMS.lease,
    state=AttemptState.ANSWERED,
    ended_at=NOON,
    evidence=OK,
    verdicts={PART: Verdict(State.RELEASED)},
)


def trace(
    row: MessageRow = RELEASED,
    requests: tuple[RequestRow, ...] = (FOREIGN_REQUEST, OWN_REQUEST),
    attempts: tuple[AttemptRow, ...] = (ATTEMPT,),
    visible_to: str | None = "soar",
) -> dict[str, Any]:
    by_id = {request.request_id: request for request in requests}
    return trace_body(row, by_id, attempts, account_id=ACCOUNT, part=row.part, visible_to=visible_to, now=NOON)


def test_the_trace_tells_who_why_when_and_how_it_is_known() -> None:
    known = {"status": 200, "error_codes": [], "cf_ray": "ray-1", "failure": None, "seen": None}
    assert trace() == {
        "id": FULL,
        "postfix_id": PART,
        "account_id": ACCOUNT,
        "state": "RELEASED",
        "code": None,
        "delivered": ["a@example.com"],
        "undelivered": [],
        "failed": [],
        "evidence": known,
        "released_by": {"request_id": OWN, "at": "2026-11-22T12:00:00.000Z"},
        "guard": None,
        "disposition": None,
        "confirmed_at": None,
        "updated_at": "2026-11-22T12:00:00.000Z",
        "expires_at": "2027-12-27T12:00:00.000Z",
        "requests": [
            {
                "request_id": OWN,
                "at": "2026-11-22T12:00:00.000Z",
                "outcome": "released",
                "state": "open",
                "client": "soar",
                "requested_by": "Ann",
                "reason": "false positive",
                "ticket": "INC-1",
                "force": True,
                "override": False,
                "dry_run": False,
                "code": None,
                "trace_id": "trace-1",
                "cancelled_at": None,
            },
            {"at": "2026-11-22T12:00:01.000Z", "outcome": "already_released"},
        ],
        "requests_not_shown": 0,
        "attempts": [
            {
                "attempt_id": "a1",
                "request_id": OWN,
                "state": "answered",
                "wire_form": "object",
                "ids_in_call": 1,
                "sent_at": "2026-11-22T12:00:00.000Z",
                "ended_at": "2026-11-22T12:00:00.000Z",
                "verdict": {"state": "RELEASED", "code": None},
                "evidence": known,
            }
        ],
        "attempts_not_shown": 0,
        "refusals": 0,
        "operations": [],
        "operations_not_shown": 0,
    }


def test_of_the_requests_of_others_time_and_outcome_show_and_nothing_else() -> None:
    body = trace(visible_to="other")
    assert body["requests"][0].keys() == {"at", "outcome"}
    assert body["requests"][1]["reason"] == "canary"
    assert body["released_by"]["request_id"] is None
    assert body["attempts"][0].keys() == {"state", "sent_at", "ended_at", "verdict"}
    assert "canary" not in str(trace(visible_to="soar"))


def test_who_may_read_all_sees_all() -> None:
    body = trace(visible_to=None)
    assert [request["client"] for request in body["requests"]] == ["soar", "other"]
    assert body["released_by"]["request_id"] == OWN


def test_a_message_that_nobody_has_released_yet_is_released_by_nobody() -> None:
    body = trace(replace(RELEASED, state=State.RETRYABLE, owner=None, evidence=None, expires_at=None), attempts=())
    assert (body["released_by"], body["evidence"], body["expires_at"]) == (None, None, None)
    assert body["delivered"] == []


def test_an_attempt_under_way_shows_that_nothing_is_known_yet() -> None:
    under_way = replace(ATTEMPT, state=AttemptState.OPEN, ended_at=None, evidence=None, verdicts=None)
    (attempt,) = trace(attempts=(under_way,))["attempts"]
    assert (attempt["state"], attempt["ended_at"], attempt["evidence"], attempt["verdict"]) == (
        "open",
        None,
        None,
        None,
    )


def test_requests_that_are_counted_or_gone_are_told_as_a_number() -> None:
    assert trace(replace(RELEASED, asks_uncounted=7), (OWN_REQUEST,))["requests_not_shown"] == 8


def test_a_request_whose_key_was_used_anew_for_other_messages_shows_no_outcome() -> None:
    (request,) = trace(requests=(request_row(OTHER, name="own"),))["requests"]
    assert request["outcome"] is None


def test_a_request_whose_caller_was_told_no_shows_no_outcome_of_others() -> None:
    refused = replace(FOREIGN_REQUEST, state=RequestState.REFUSED, closed_at=NOON)
    assert [request["outcome"] for request in trace(requests=(refused,))["requests"]] == [None]


def test_a_cancelled_request_tells_when_it_was_cancelled_and_what_it_came_to() -> None:
    cancelled = replace(OWN_REQUEST, force=False, cancelled_at=NOON + timedelta(seconds=5))
    free = replace(RELEASED, state=State.RETRYABLE, owner=None, evidence=None, expires_at=None)
    (request,) = trace(free, requests=(cancelled,))["requests"]
    assert (request["cancelled_at"], request["outcome"]) == ("2026-11-22T12:00:05.000Z", "cancelled")
    (request,) = trace(free, requests=(cancelled,), visible_to="other")["requests"]
    assert request == {"at": "2026-11-22T12:00:00.000Z", "outcome": "cancelled"}


def test_what_ended_without_a_call_is_told_as_an_end_and_worth_another_request() -> None:
    body = answer_body(answer(Outcome.RELEASED, Outcome.CANCELLED, Outcome.EXPIRED))
    assert (body["status"], body["outcome"], body["ok"]) == ("completed", "partial", False)
    assert [result["retryable"] for result in body["results"]] == [False, True, True]
    assert body["message"] == "3 messages: 1 released, 1 cancelled, 1 expired."


def test_evidence_tells_how_a_call_failed() -> None:
    row = replace(RELEASED, state=State.UNKNOWN, code=Code.NO_ANSWER, evidence=Evidence(failure="deadline"))
    assert trace(row)["evidence"]["failure"] == "deadline"


@given(message_rows())
def test_a_trace_shows_of_foreign_requests_nothing_that_is_theirs(row: MessageRow) -> None:
    body = trace(replace(row, asks=frozenset({FOREIGN})), (FOREIGN_REQUEST,), ())
    assert "canary" not in str(body)
    assert FOREIGN not in str(body)


def test_what_people_have_changed_is_told_to_those_who_may_see_all_and_else_when_and_what() -> None:
    operation = OperationRow(
        account_id=ACCOUNT,
        operation=OperationId("01OPERATION"),
        kind=OperationKind.SETTLE,
        at=NOON,
        by="ann",
        reason="seen in the dashboard",
        part=PART,
        settled_as=State.RELEASED,
    )
    row = replace(RELEASED, evidence=Evidence(seen=Seen.RELEASED, operation=operation.operation))
    body = trace_body(row, {}, [], [operation], account_id=ACCOUNT, part=PART, visible_to=None, now=NOON)
    assert body["evidence"]["operation"] == "01OPERATION"
    assert body["operations"] == [
        {
            "operation_id": "01OPERATION",
            "at": "2026-11-22T12:00:00.000Z",
            "kind": "settle",
            "by": "ann",
            "reason": "seen in the dashboard",
            "client": None,
            "settled_as": "RELEASED",
            "redriven": None,
            "request_id": None,
        }
    ]
    seen_by_others = trace_body(row, {}, [], [operation], account_id=ACCOUNT, part=PART, visible_to="soar", now=NOON)
    assert seen_by_others["operations"] == [{"at": "2026-11-22T12:00:00.000Z", "kind": "settle"}]


def test_an_id_that_nothing_was_sent_for_says_what_to_do() -> None:
    body = result_body(Result(BARE, Outcome.FAILED, Code.NOT_ATTEMPTED, None))
    assert (body["detail"], body["retryable"]) == (
        "Nothing was sent for this id. Send it again as a new request.",
        True,
    )
