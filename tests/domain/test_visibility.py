"""What a client sees of others' releases: times, states and numbers, but no names, no evidence, no request ids."""

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.api.release_answer import answer_body
from quarantine_release.api.trace_answer import trace_body
from quarantine_release.domain.guard import Ended, Guarded
from quarantine_release.domain.ids import (
    AccountId,
    AttemptId,
    MessageId,
    OperationId,
    PostfixPart,
    RequestId,
    postfix_part,
)
from quarantine_release.domain.operation_rows import OperationKind, OperationRow
from quarantine_release.domain.results import derive_results
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestRow, Target, WireForm
from quarantine_release.domain.states import Code, Outcome, State
from quarantine_release.domain.transitions import claimed, given_back, recorded
from quarantine_release.domain.verdicts import Evidence, Recipients, Verdict
from quarantine_release.domain.visibility import Viewer
from quarantine_release.releasing.progress import Answer
from tests.support.shapes import message_rows, moments, requests
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OK, TERMS, request_row

PART = postfix_part(BARE)
SECRETS: dict[str, Any] = {
    "owner": RequestId("rq_canary"),
    "recipients": Recipients.of(["canary@example.com"]),
    "evidence": Evidence(failure="canary"),
    "guard": Guarded.OVERRIDDEN,
    "disposition": "CANARY",
}
FOREIGN = request_row(FULL, name="canary", client="other", reason="canary")
ATTEMPT = AttemptRow(
    account_id=ACCOUNT,
    attempt=AttemptId("canary-attempt"),
    wire_form=WireForm.OBJECT,
    targets=(Target(PART, FULL),),
    owners={PART: FOREIGN.request_id},
    sent_at=NOON,
    deadline=NOON + TERMS.lease,
    state=AttemptState.ANSWERED,
    ended_at=NOON,
    evidence=Evidence(failure="canary"),
    verdicts={PART: Verdict(State.RELEASED)},
)


def trace(row: MessageRow | None, *asked: RequestRow, visible_to: str | None = "soar", **more: Any) -> dict[str, Any]:
    by_id = {request.request_id: request for request in asked}
    attempts, operations = more.get("attempts", ()), more.get("operations", ())
    return trace_body(row, by_id, attempts, operations, account_id=ACCOUNT, part=PART, visible_to=visible_to, now=NOON)


@given(message_rows(), st.none() | st.just("other"), requests, moments)
def test_nothing_of_anothers_release_is_in_an_answer(
    row: MessageRow, owner_client: str | None, request: RequestRow, now: Any
) -> None:
    request = replace(request, client="soar")
    shown = {row.part: replace(row, owner_client=owner_client, **SECRETS)}
    answer = Answer(request, derive_results(request, shown, now))
    assert "canary" not in str(answer_body(answer)).lower()
    own = {part: replace(each, owner_client="soar") for part, each in shown.items()}
    assert answer_body(Answer(request, derive_results(request, own, now))) == answer_body(
        Answer(request, derive_results(request, own, now)), sees_all=True
    )


@given(message_rows(st.just(FULL)), st.none() | st.just("other"))
def test_nothing_of_anothers_release_is_in_the_trace(row: MessageRow, owner_client: str | None) -> None:
    hidden = replace(row, owner_client=owner_client, **SECRETS)
    body = trace(hidden, FOREIGN, request_row(FULL), attempts=[ATTEMPT])
    assert "canary" not in str(body).lower()
    assert body["requests"][0].keys() == {"at", "outcome"}
    seen = trace(replace(hidden, state=State.PARTIAL), FOREIGN, attempts=[ATTEMPT], visible_to="other")
    assert seen == trace(replace(hidden, state=State.PARTIAL), FOREIGN, attempts=[ATTEMPT], visible_to=None)
    assert seen["delivered"] == ["canary@example.com"]


def test_numbers_and_times_of_anothers_release_are_told() -> None:
    row = replace(released(), recipients=Recipients.of(["a@example.com"], ["b@example.com"]))
    body = trace(row, FOREIGN)
    assert (body["recipients_truncated"], body["recipient_counts"]) == (
        True,
        {"delivered": 1, "undelivered": 1, "failed": 0},
    )
    assert body["released_by"] == {"request_id": None, "at": "2026-11-22T12:00:00.000Z"}


def claim(row: MessageRow | None = None, client: str = "other", name: str = "canary") -> MessageRow:
    attempt = replace(ATTEMPT, attempt=AttemptId(f"a-{name}"), owners={PART: RequestId(f"rq_{name}")})
    return claimed(row, Target(PART, FULL), request_row(FULL, name=name, client=client), attempt)


def released() -> MessageRow:
    return recorded(claim(), Verdict(State.RELEASED), OK, NOON, TERMS)


def test_an_owner_that_is_only_counted_among_those_who_asked_still_sees_its_own_release() -> None:
    body = trace(released(), attempts=[ATTEMPT], visible_to="other")
    assert body["released_by"]["request_id"] == FOREIGN.request_id
    assert body["attempts"][0]["request_id"] == FOREIGN.request_id


def test_a_claim_names_its_client_and_giving_back_names_the_one_before() -> None:
    first = claim()
    assert first.owner_client == "other"
    assert given_back(None, first, NOON).owner_client is None
    rejected = recorded(first, Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED), OK, NOON, TERMS)
    second = claim(rejected, "soar", "two")
    assert second.owner_client == "soar"
    assert given_back(rejected, second, NOON).owner_client == "other"
    assert Viewer("soar").shown(given_back(rejected, second, NOON), ()).evidence is None
    forced = claim(released(), "soar", "three")
    assert given_back(released(), forced, NOON).owner_client == "other"


def test_a_request_of_another_account_under_the_same_id_is_not_in_the_trace() -> None:
    moved = replace(FOREIGN, account_id=AccountId("b" * 32))
    body = trace(released(), moved, visible_to=None)
    assert (body["requests"], body["requests_not_shown"]) == ([], 1)


def test_what_a_message_was_read_to_be_is_told_to_those_it_was_read_for() -> None:
    ended = Ended(Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED, "no", disposition="MALICIOUS")
    denied = replace(FOREIGN, ended={MessageId(FULL): ended})
    assert trace(None, denied)["disposition"] is None
    assert trace(None, denied, visible_to="other")["disposition"] == "MALICIOUS"
    assert trace(None, denied, visible_to=None)["disposition"] == "MALICIOUS"


def test_pauses_of_other_clients_are_not_in_the_trace() -> None:
    def pause(client: str | None, part: PostfixPart | None = None) -> OperationRow:
        kind = OperationKind.PAUSE if part is None else OperationKind.SETTLE
        name = OperationId(f"o-{client}-{part}")
        return OperationRow(
            account_id=ACCOUNT, operation=name, kind=kind, at=NOON, by="ann", reason="why", client=client, part=part
        )

    operations = [pause(None), pause("soar"), pause("other"), pause(None, PART)]
    kinds = [each["kind"] for each in trace(released(), operations=operations)["operations"]]
    assert kinds == ["pause", "pause", "settle"]
    assert len(trace(released(), operations=operations, visible_to=None)["operations"]) == 4
