"""The ledger against moto and against the model: claims, fencing, lost answers, round trips."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from quarantine_release.domain.facts import Facts, combined, several, unclear
from quarantine_release.domain.guard import Candidate, Ended
from quarantine_release.domain.ids import (
    AccountId,
    AttemptId,
    MessageId,
    PostfixPart,
    RequestId,
    message_key,
    postfix_part,
)
from quarantine_release.domain.ledger_errors import LedgerContended, LedgerUnavailable
from quarantine_release.domain.lookup import Kept
from quarantine_release.domain.policy import Policy
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.results import derive_results
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
from quarantine_release.domain.transitions import (
    answered,
    asked,
    claimed,
    closed,
    given_back,
    not_made,
    recorded,
    refused,
)
from quarantine_release.domain.verdicts import Evidence, Recipients, Verdict
from quarantine_release.ledger.keys import alias_key, attempt_key, request_key, unclaimed_key
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.ports import Conflict, LedgerSnapshot, Move
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.stand_ins import ACCOUNT, BARE, DELIVERED, FULL, NOON, OK, OTHER, TERMS, request_row

PART = postfix_part(BARE)


@pytest.fixture
def ledger(dynamodb: Any) -> DynamoLedger:
    return DynamoLedger(Table(dynamodb, "ledger", lambda _: None))


def attempt(name: str, request: RequestRow, *ids: MessageId) -> AttemptRow:
    targets = tuple(Target(postfix_part(id_), id_) for id_ in ids or (BARE,))
    return AttemptRow(
        account_id=ACCOUNT,
        attempt=AttemptId(name),
        wire_form=WireForm.ARRAY,
        targets=targets,
        owners={target.part: request.request_id for target in targets},
        sent_at=NOON,
        deadline=NOON + TERMS.lease,
        state=AttemptState.OPEN,
    )


def claims(
    request: RequestRow, attempt: AttemptRow, seen: dict[PostfixPart, MessageRow] | None = None
) -> tuple[Move, ...]:
    rows = seen or {}
    return tuple(Move(rows.get(t.part), claimed(rows.get(t.part), t, request, attempt)) for t in attempt.targets)


def outcomes(moves: Sequence[Move], verdict: Verdict, evidence: Evidence = OK) -> list[Move]:
    return [Move(move.after, recorded(move.after, verdict, evidence, NOON, TERMS)) for move in moves]


def ended(attempt: AttemptRow, verdict: Verdict = DELIVERED) -> AttemptRow:
    return answered(attempt, {target.part: verdict for target in attempt.targets}, OK, NOON, TERMS)


def message(ledger: DynamoLedger, part: PostfixPart = PART) -> MessageRow:
    return ledger.messages(ACCOUNT, [part])[part]


def release_once(ledger: DynamoLedger, name: str = "one", verdict: Verdict = DELIVERED) -> MessageRow:
    request = request_row(BARE, name=name)
    own = attempt(f"attempt-{name}", request)
    moves = claims(request, own)
    assert ledger.claim(own, moves, opened=request) is None
    assert ledger.record(ended(own, verdict), AttemptState.OPEN, outcomes(moves, verdict), None) == {}
    return message(ledger)


def test_a_claim_writes_request_attempt_and_messages_at_once(ledger: DynamoLedger) -> None:
    request = request_row(BARE, OTHER, reason="false positive", ticket="INC-1", requested_by="Ann", force=True)
    own = attempt("a1", request, BARE, OTHER)
    moves = claims(request, own)
    assert ledger.claim(own, moves, opened=request) is None
    assert ledger.requests([request.request_id]) == {request.request_id: request}
    assert ledger.attempts(ACCOUNT, [own.attempt]) == [own]
    assert ledger.messages(ACCOUNT, [PART, postfix_part(OTHER)]) == {move.after.part: move.after for move in moves}


def test_a_claim_refused_for_one_message_writes_nothing_and_tells_the_rows_as_they_are(ledger: DynamoLedger) -> None:
    row = release_once(ledger)
    request = request_row(BARE, OTHER, name="two")
    own = attempt("a2", request, BARE, OTHER)
    conflict = ledger.claim(own, claims(request, own), opened=request)
    assert conflict == Conflict({}, {PART: row})
    assert ledger.requests([request.request_id]) == {}
    assert ledger.attempts(ACCOUNT, [own.attempt]) == []
    assert ledger.messages(ACCOUNT, [postfix_part(OTHER)]) == {}


def test_a_claim_of_a_message_that_has_moved_since_it_was_seen_is_refused(ledger: DynamoLedger) -> None:
    seen = release_once(ledger, verdict=Verdict(State.FAILED, Code.CLOUDFLARE_REJECTED))
    first, second = request_row(BARE, name="two"), request_row(BARE, name="three")
    own, late = attempt("a2", first), attempt("a3", second)
    assert ledger.claim(own, claims(first, own, {PART: seen}), opened=first) is None
    conflict = ledger.claim(late, claims(second, late, {PART: seen}), opened=second)
    assert conflict is not None
    assert conflict.messages == {PART: message(ledger)}
    assert message(ledger).attempt == own.attempt


def test_a_message_that_is_gone_since_it_was_seen_is_told_as_gone(ledger: DynamoLedger) -> None:
    request = request_row(BARE, name="two")
    own = attempt("a2", request)
    ghost = claimed(None, own.targets[0], request_row(name="old"), attempt("old", request))
    conflict = ledger.claim(own, claims(request, own, {PART: ghost}), opened=request)
    assert conflict == Conflict({}, {PART: None})


def test_no_more_than_three_candidates_are_kept_whoever_asks_at_the_same_time(ledger: DynamoLedger) -> None:
    row = release_once(ledger)
    made_up = [MessageId(f"{BARE}-2024-01-05T10:00:00-{number}") for number in range(4)]
    stale = [
        Move(row, asked(row, Target(PART, each), request_row(each, name=str(number))))
        for number, each in enumerate(made_up)
    ]
    for ask in stale[:3]:
        assert ledger.add_requesters([ask]) is None
    assert message(ledger).candidates == set(made_up[:3])
    conflict = ledger.add_requesters([stale[3]])
    assert conflict == Conflict({}, {PART: message(ledger)})
    late = Move(message(ledger), asked(message(ledger), Target(PART, made_up[3]), request_row(name="late")))
    assert ledger.add_requesters([late]) is None
    assert message(ledger).candidates == set(made_up[:3])


def test_who_asks_for_a_message_of_another_is_remembered_with_it(ledger: DynamoLedger) -> None:
    row = release_once(ledger)
    request = request_row(FULL, name="two", state=RequestState.CLOSED, letters="A")
    ask = Move(row, asked(row, Target(PART, FULL), request))
    assert ledger.accept(request, [ask]) is None
    assert message(ledger).asks == {RequestId("rq_one"), RequestId("rq_two")}
    assert (message(ledger).message_id, message(ledger).candidates) == (BARE, frozenset({FULL}))
    again = Move(message(ledger), asked(message(ledger), Target(PART, FULL), request))
    assert ledger.add_requesters([again]) is None


def test_the_hundred_and_first_request_for_a_message_is_counted(ledger: DynamoLedger) -> None:
    row = release_once(ledger)
    for number in range(101):
        seen = message(ledger)
        request = request_row(BARE, name=f"more-{number}")
        assert ledger.accept(request, [Move(seen, asked(seen, Target(PART, BARE), request))]) is None
    row = message(ledger)
    assert (len(row.asks), row.asks_uncounted) == (100, 2)


def test_an_earlier_request_under_the_same_key_refuses_the_claim_and_is_told(ledger: DynamoLedger) -> None:
    release_once(ledger)
    again = request_row(BARE, nonce="another")
    own = attempt("a2", again)
    conflict = ledger.claim(own, claims(again, own), opened=again)
    assert conflict is not None
    assert conflict.requests == {again.request_id: request_row(BARE)}
    assert conflict.messages == {PART: message(ledger)}


@pytest.mark.parametrize(
    ("fingerprint", "fingerprint_v1", "passes"),
    [
        ("payload of one", None, True),
        ("another payload", None, False),
        ("another payload", "a third", False),
        ("2:of a later version", "payload of one", True),
    ],
)
def test_a_refused_request_starts_again_only_with_its_own_payload(
    ledger: DynamoLedger, fingerprint: str, fingerprint_v1: str | None, passes: bool
) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    ledger.claim(own, moves, opened=request)
    backs = [Move(move.after, given_back(move.before, move.after, NOON)) for move in moves]
    assert ledger.record(not_made(own, OK, NOON, TERMS), AttemptState.OPEN, backs, refused(request, NOON, TERMS)) == {}
    assert ledger.requests([request.request_id])[request.request_id].state is RequestState.REFUSED
    again = request_row(BARE, nonce="another", fingerprint=fingerprint, fingerprint_v1=fingerprint_v1)
    assert (ledger.accept(again) is None) is passes


def test_a_request_past_its_time_counts_as_absent(ledger: DynamoLedger) -> None:
    request = request_row(BARE, state=RequestState.CLOSED, letters="A", expires_at=NOON + TERMS.retention)
    ledger.accept(request)
    before = request_row(BARE, nonce="2", created_at=NOON + TERMS.retention - TERMS.lease)
    assert ledger.accept(before) is not None
    after = request_row(BARE, nonce="3", created_at=NOON + TERMS.retention)
    assert ledger.accept(after) is None


def test_given_back_a_new_message_is_free_and_its_attempt_does_not_count(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    ledger.claim(own, moves, opened=request)
    backs = [Move(move.after, given_back(None, move.after, NOON)) for move in moves]
    ledger.record(not_made(own, OK, NOON, TERMS), AttemptState.OPEN, backs, None)
    row = message(ledger)
    assert (row.state, row.owner, row.attempts, row.refusals) == (State.RETRYABLE, None, frozenset(), 1)
    assert (row.last_refused, row.expires_at) == (own.attempt, None)
    assert ledger.attempts(ACCOUNT, [own.attempt])[0].state is AttemptState.REFUSED


def test_given_back_a_forced_message_is_as_released_as_before(ledger: DynamoLedger) -> None:
    before = release_once(ledger)
    request = request_row(BARE, name="two", force=True)
    own = attempt("a2", request)
    moves = claims(request, own, {PART: before})
    assert ledger.claim(own, moves, opened=request) is None
    assert (message(ledger).state, message(ledger).expires_at) == (State.RELEASING, None)
    backs = [Move(move.after, given_back(move.before, move.after, NOON)) for move in moves]
    ledger.record(not_made(own, OK, NOON, TERMS), AttemptState.OPEN, backs, None)
    after = message(ledger)
    assert after == replace(
        before, asks=before.asks | {request.request_id}, refusals=1, last_refused=own.attempt, updated_at=NOON
    )


def test_the_outcome_closes_attempt_message_and_request_in_one_round_trip(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    ledger.claim(own, moves, opened=request)
    rows = {move.after.part: move.after for move in outcomes(moves, DELIVERED)}
    closing = closed(request, derive_results(request, rows, NOON), NOON, TERMS)
    assert ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), closing) == {}
    assert message(ledger) == rows[PART]
    assert ledger.attempts(ACCOUNT, [own.attempt]) == [ended(own)]
    assert ledger.requests([request.request_id]) == {request.request_id: closing}


def test_only_what_is_open_is_in_the_open_index(ledger: DynamoLedger, dynamodb: Any) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    ledger.claim(own, moves, opened=request)
    keys = [attempt_key(ACCOUNT, own.attempt), request_key(request.request_id)]
    assert [is_indexed(dynamodb, key) for key in (*keys, message_key(ACCOUNT, PART))] == [True, True, False]
    unknown = Verdict(State.UNKNOWN, Code.NO_ANSWER)
    ledger.record(ended(own, unknown), AttemptState.OPEN, outcomes(moves, unknown), None)
    assert [is_indexed(dynamodb, key) for key in keys] == [True, True]
    ledger.close([closed_row(request)])
    assert [is_indexed(dynamodb, key) for key in keys] == [True, False]


def closed_row(request: RequestRow) -> RequestRow:
    letters = "R" * len(request.ids)
    return replace(
        request, state=RequestState.CLOSED, letters=letters, closed_at=NOON, expires_at=NOON + TERMS.retention
    )


def is_indexed(dynamodb: Any, key: str) -> bool:
    return {"open_kind", "open_at"} <= set(item_of(dynamodb, key))


def item_of(dynamodb: Any, key: str) -> dict[str, Any]:
    wanted = {"ledger": {"Keys": [{"pk": {"S": key}}]}}
    (item,) = dynamodb.batch_get_item(RequestItems=wanted)["Responses"]["ledger"]
    return dict(item)


def test_a_request_is_closed_once(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    ledger.accept(request)
    ledger.close([closed_row(request)])
    ledger.close([replace(closed_row(request), letters="F")])
    assert ledger.requests([request.request_id])[request.request_id].letters == "R"


def test_a_stale_attempt_changes_no_message_but_its_outcome_is_durable(ledger: DynamoLedger) -> None:
    request, second = request_row(BARE), request_row(BARE, name="two")
    own, later = attempt("a1", request), attempt("a2", second)
    moves = claims(request, own)
    ledger.claim(own, moves, opened=request)
    backs = [Move(move.after, given_back(None, move.after, NOON)) for move in moves]
    ledger.record(not_made(attempt("settled-by-another", request), OK, NOON, TERMS), AttemptState.OPEN, backs, None)
    ledger.claim(later, claims(second, later, {PART: message(ledger)}), opened=second)
    row = message(ledger)
    assert ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), closed_row(request)) == {PART: row}
    assert message(ledger) == row
    assert ledger.attempts(ACCOUNT, [own.attempt]) == [ended(own)]
    assert ledger.requests([request.request_id])[request.request_id].state is RequestState.OPEN


def test_an_outcome_is_never_written_to_a_message_that_is_gone(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    ledger.record(ended(own), AttemptState.OPEN, outcomes(claims(request, own), DELIVERED), None)
    assert ledger.messages(ACCOUNT, [PART]) == {}
    assert ledger.attempts(ACCOUNT, [own.attempt]) == []


def test_an_outcome_recorded_twice_is_recorded_once(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    ledger.claim(own, moves, opened=request)
    for _ in range(2):
        assert ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), closed_row(request)) == {}
    assert message(ledger).state is State.RELEASED
    assert message(ledger).attempts == {own.attempt}


def test_reads_of_more_than_a_hundred_rows_are_split(ledger: DynamoLedger) -> None:
    ids = [MessageId(f"4Njp3P0STMz2c{number:03d}") for number in range(180)]
    for start in (0, 90):
        request = request_row(*ids[start : start + 90], name=str(start))
        own = attempt(f"a{start}", request, *ids[start : start + 90])
        assert ledger.claim(own, claims(request, own), opened=request) is None
    assert len(ledger.messages(ACCOUNT, [postfix_part(id_) for id_ in ids])) == 180


def test_whatever_cloudflare_sends_the_outcome_is_written(ledger: DynamoLedger) -> None:
    digits = random.Random(1)  # noqa: S311  names that do not compress
    ids = [MessageId(f"4Njp3P0STMz2c{number:03d}") for number in range(99)]
    verdicts = {}
    for given in ids:
        names = [[f"{digits.getrandbits(1200):x}@example.com" for _ in range(60)] for _ in range(3)]
        verdicts[postfix_part(given)] = Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, Recipients.of(*names))
    request = request_row(*ids)
    own = attempt("a1", request, *ids)
    moves = claims(request, own)
    assert ledger.claim(own, moves) is None
    after = [Move(m.after, recorded(m.after, verdicts[m.after.part], OK, NOON, TERMS)) for m in moves]
    assert ledger.record(answered(own, verdicts, OK, NOON, TERMS), AttemptState.OPEN, after, None) == {}
    row = message(ledger, postfix_part(ids[7]))
    assert (len(row.recipients.failed), row.recipients.counts, row.recipients.truncated) == (20, (60, 60, 60), True)
    (kept,) = ledger.attempts(ACCOUNT, [own.attempt])
    assert kept.verdicts is not None
    assert kept.verdicts[postfix_part(ids[7])].recipients == Recipients(counts=(60, 60, 60))


# What only the model can do: lose answers, throttle, conflict.


@pytest.fixture
def faults() -> list[Fault]:
    return []


@pytest.fixture
def faulty(faults: list[Fault]) -> ModelDynamoDB:
    return ModelDynamoDB(lambda _: faults.pop(0) if faults else None)


def ledger_of(client: Any, pause: Callable[[int], None] = lambda _: None) -> DynamoLedger:
    return DynamoLedger(Table(client, "ledger", pause))


@pytest.fixture
def faulty_ledger(faulty: ModelDynamoDB) -> DynamoLedger:
    return ledger_of(faulty)


def test_a_claim_that_landed_though_its_answer_was_lost_is_a_success(faulty_ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    for _ in range(2):
        assert faulty_ledger.claim(own, claims(request, own), opened=request) is None
        assert faulty_ledger.claim(own, claims(request, own)) is None
    again = request_row(OTHER, name="two")
    for _ in range(2):
        assert faulty_ledger.accept(again) is None


def test_a_write_that_landed_though_its_answer_was_lost_is_not_taken_for_anothers(
    faults: list[Fault], faulty_ledger: DynamoLedger
) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    faulty_ledger.claim(own, moves, opened=request)
    faults += [Fault.TIMEOUT_AFTER]
    with pytest.raises(LedgerUnavailable):
        faulty_ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), closed_row(request))
    faults += [Fault.REPEATED] * 4
    assert faulty_ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), closed_row(request)) == {}


def test_conflicts_and_throttling_are_waited_out(faults: list[Fault], faulty: ModelDynamoDB) -> None:
    waits: list[int] = []
    ledger = ledger_of(faulty, waits.append)
    request = request_row(BARE)
    own = attempt("a1", request)
    faults += [Fault.CONFLICT] * 3
    assert ledger.claim(own, claims(request, own), opened=request) is None
    assert waits == [0, 1, 2]
    faults += [Fault.CONFLICT]
    ledger.close([closed_row(request)])
    assert ledger.requests([request.request_id])[request.request_id].state is RequestState.CLOSED


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER, Fault.THROTTLED])
@pytest.mark.parametrize("operation", ["claim", "close", "messages"])
def test_what_cannot_be_known_is_unavailable(
    faults: list[Fault], faulty_ledger: DynamoLedger, fault: Fault, operation: str
) -> None:
    request = request_row(BARE)
    act: dict[str, Callable[[], object]] = {
        "claim": lambda: faulty_ledger.accept(request),
        "close": lambda: faulty_ledger.close([closed_row(request)]),
        "messages": lambda: faulty_ledger.messages(ACCOUNT, [PART]),
    }
    faults += [fault] * 20
    with pytest.raises(LedgerUnavailable):
        act[operation]()


@pytest.mark.parametrize("operation", ["claim", "close"])
def test_contention_without_end_is_unavailable(
    faults: list[Fault], faulty_ledger: DynamoLedger, operation: str
) -> None:
    request = request_row(BARE)
    faults += [Fault.CONFLICT] * 8
    with pytest.raises(LedgerUnavailable):
        faulty_ledger.accept(request) if operation == "claim" else faulty_ledger.close([closed_row(request)])


class _Sparing(ModelDynamoDB):
    """Hands out one key at a time and leaves the rest unprocessed, as DynamoDB may under load."""

    is_starving = False

    def batch_get_item(self, **parameters: Any) -> dict[str, Any]:
        ((table, wanted),) = parameters["RequestItems"].items()
        taken, left = ([], wanted["Keys"]) if self.is_starving else (wanted["Keys"][:1], wanted["Keys"][1:])
        answer = super().batch_get_item(RequestItems={table: {"Keys": taken}}) if taken else {"Responses": {}}
        return answer | ({"UnprocessedKeys": {table: {"Keys": left}}} if left else {})


def test_keys_left_unprocessed_are_asked_for_again_but_not_for_ever() -> None:
    dynamodb = _Sparing()
    ledger = ledger_of(dynamodb)
    request = request_row(BARE, OTHER)
    own = attempt("a1", request, BARE, OTHER)
    ledger.claim(own, claims(request, own), opened=request)
    assert len(ledger.messages(ACCOUNT, [PART, postfix_part(OTHER)])) == 2
    dynamodb.is_starving = True
    with pytest.raises(LedgerUnavailable):
        ledger.messages(ACCOUNT, [PART])


@pytest.mark.parametrize(
    "error", [ClientError({"Error": {"Code": "AccessDenied"}}, "x"), EndpointConnectionError(endpoint_url="x")]
)
def test_an_error_of_the_service_is_told_by_its_code_alone(error: Exception) -> None:
    class Broken:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def fail(**_: Any) -> Any:
                raise error

            return fail

    ledger = ledger_of(Broken())
    for act in (
        lambda: ledger.accept(request_row()),
        lambda: ledger.close([closed_row(request_row())]),
        lambda: ledger.messages(ACCOUNT, [PART]),
        lambda: ledger.open_attempts(NOON, 9),
    ):
        with pytest.raises(LedgerUnavailable, match=r"\A(AccessDenied|EndpointConnectionError|ClientError)\Z"):
            act()


def test_a_refusal_whose_transaction_is_cancelled_is_written_first_of_all(
    faults: list[Fault], faulty: ModelDynamoDB, faulty_ledger: DynamoLedger
) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    faulty_ledger.claim(own, moves, opened=request)
    backs = [Move(move.after, given_back(None, move.after, NOON)) for move in moves]
    faults += [Fault.CANCELLED, Fault.TIMEOUT_BEFORE]
    refusal = refused(request, NOON, TERMS)
    with pytest.raises(LedgerUnavailable):
        faulty_ledger.record(not_made(own, OK, NOON, TERMS), AttemptState.OPEN, backs, refusal)
    assert message(faulty_ledger).state is State.RELEASING
    faults += [Fault.CANCELLED]
    faulty.calls.clear()
    assert faulty_ledger.record(not_made(own, OK, NOON, TERMS), AttemptState.OPEN, backs, refusal) == {}
    assert faulty.calls == ["TransactWriteItems"] + ["UpdateItem"] * 4
    assert faulty_ledger.requests([request.request_id])[request.request_id].state is RequestState.REFUSED
    assert message(faulty_ledger).state is State.RETRYABLE
    assert not is_indexed(faulty, attempt_key(ACCOUNT, own.attempt))


def test_an_outcome_whose_transaction_is_cancelled_stays_due_until_every_message_has_it(
    faults: list[Fault], faulty: ModelDynamoDB, faulty_ledger: DynamoLedger
) -> None:
    request = request_row(BARE, OTHER)
    own = attempt("a1", request, BARE, OTHER)
    moves = claims(request, own)
    faulty_ledger.claim(own, moves, opened=request)
    faults += [Fault.CANCELLED, *[None] * 2, Fault.TIMEOUT_BEFORE]  # type: ignore[list-item]
    with pytest.raises(LedgerUnavailable):
        faulty_ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), None)
    assert [message(faulty_ledger, move.after.part).state for move in moves] == [State.RELEASED, State.RELEASING]
    assert is_indexed(faulty, attempt_key(ACCOUNT, own.attempt))
    assert faulty_ledger.attempts(ACCOUNT, [own.attempt])[0].verdicts == ended(own).verdicts


def test_messages_moved_on_together_are_moved_on_singly_where_one_has_moved_meanwhile(
    faults: list[Fault], faulty_ledger: DynamoLedger
) -> None:
    request = request_row(BARE, OTHER)
    own = attempt("a1", request, BARE, OTHER)
    moves = claims(request, own)
    faulty_ledger.claim(own, moves, opened=request)
    faults += [Fault.CANCELLED]
    assert faulty_ledger.project(outcomes(moves, DELIVERED)) == {}
    stale = outcomes(moves, Verdict(State.FAILED, Code.NOT_DELIVERED))
    assert set(faulty_ledger.project(stale)) == {move.after.part for move in moves}
    assert {message(faulty_ledger, move.after.part).state for move in moves} == {State.RELEASED}


def test_messages_are_moved_on_a_hundred_in_a_round_trip(faulty: ModelDynamoDB, faulty_ledger: DynamoLedger) -> None:
    ids = [MessageId(f"4Njp3P0STMz2c{number:03d}") for number in range(150)]
    moves: list[Move] = []
    for some in (ids[:75], ids[75:]):
        request = request_row(*some, name=some[0])
        own = attempt(f"a-{some[0]}", request, *some)
        moves += claims(request, own)
        faulty_ledger.claim(own, claims(request, own), opened=request)
    faulty.calls.clear()
    assert faulty_ledger.project(outcomes(moves, DELIVERED)) == {}
    assert faulty.calls == ["TransactWriteItems"] * 2
    rows = faulty_ledger.messages(ACCOUNT, [postfix_part(each) for each in ids])
    assert [row.state for row in rows.values()] == [State.RELEASED] * 150


def test_an_outcome_is_written_though_the_transaction_is_contended_without_end(
    faults: list[Fault], faulty_ledger: DynamoLedger
) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    faulty_ledger.claim(own, moves, opened=request)
    faults += [Fault.CONFLICT] * 8
    assert faulty_ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), closed_row(request)) == {}
    assert message(faulty_ledger).state is State.RELEASED
    assert faulty_ledger.attempts(ACCOUNT, [own.attempt]) == [ended(own)]
    assert faulty_ledger.requests([request.request_id])[request.request_id].state is RequestState.CLOSED


def test_a_late_end_of_one_acceptance_does_not_end_the_next_under_the_same_key(ledger: DynamoLedger) -> None:
    first = request_row(BARE)
    ledger.accept(first)
    ledger.close([refused(first, NOON, TERMS)])
    again = request_row(BARE, nonce="another")
    assert ledger.accept(again) is None
    ledger.close([refused(first, NOON, TERMS)])
    assert ledger.requests([first.request_id])[first.request_id].state is RequestState.OPEN


def test_a_fuller_id_of_a_message_under_review_has_its_attempt_looked_at_again(
    ledger: DynamoLedger, dynamodb: Any
) -> None:
    release_once(ledger, verdict=Verdict(State.NEEDS_REVIEW, Code.UNSETTLED))
    row, key = message(ledger), attempt_key(ACCOUNT, AttemptId("attempt-one"))
    for given, is_looked_at in ((BARE, False), (FULL, True)):
        request = request_row(given, name=given)
        assert ledger.add_requesters([Move(row, asked(row, Target(PART, given), request))]) is None
        assert is_indexed(dynamodb, key) is is_looked_at


def test_an_attempt_whose_outcome_leaves_something_unknown_stays_due_though_its_transaction_is_cancelled(
    faults: list[Fault], faulty_ledger: DynamoLedger
) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    unknown = Verdict(State.UNKNOWN, Code.NO_ANSWER)
    faulty_ledger.claim(own, moves, opened=request)
    faults += [Fault.CANCELLED]
    assert faulty_ledger.record(ended(own, unknown), AttemptState.OPEN, outcomes(moves, unknown), None) == {}
    assert [due.attempt for due in faulty_ledger.open_attempts(NOON, 9)] == [own.attempt]


# Requests that were accepted before.


def cancelled(request: RequestRow) -> RequestRow:
    return replace(request, cancelled_at=NOON)


@pytest.mark.parametrize("end", ["cancelled", "closed", "refused"])
def test_nothing_is_claimed_for_a_request_that_is_cancelled_or_has_ended(ledger: DynamoLedger, end: str) -> None:
    first, second = request_row(BARE), request_row(OTHER, name="two")
    for request in (first, second):
        ledger.accept(request)
    if end == "cancelled":
        assert ledger.cancel(cancelled(first)) is None
    else:
        ledger.close([closed_row(first) if end == "closed" else refused(first, NOON, TERMS)])
    own = attempt("a1", first, BARE, OTHER)
    moves = (
        *claims(first, replace(own, targets=own.targets[:1])),
        *claims(second, replace(own, targets=own.targets[1:])),
    )
    conflict = ledger.claim(own, moves, accepted={first.request_id: 0, second.request_id: 0})
    kept = ledger.requests([first.request_id])[first.request_id]
    assert conflict == Conflict({first.request_id: kept}, {})
    assert not kept.may_claim
    assert ledger.messages(ACCOUNT, [PART, postfix_part(OTHER)]) == {}
    assert ledger.attempts(ACCOUNT, [own.attempt]) == []


def test_nothing_is_claimed_for_a_request_that_is_gone(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    conflict = ledger.claim(own, claims(request, own), accepted={request.request_id: 0})
    assert conflict == Conflict({request.request_id: None}, {})


@pytest.mark.parametrize(("messages", "owners"), [(98, 1), (49, 49)])
def test_the_largest_claims_are_one_transaction(faulty_ledger: DynamoLedger, messages: int, owners: int) -> None:
    ids = [MessageId(f"4Njp3P0STMz2c{number:03d}") for number in range(messages)]
    requests = [request_row(*ids, name=str(number)) for number in range(owners)]
    for request in requests:
        faulty_ledger.accept(request)
    own, notes = attempt("a1", requests[0], *ids), {request.request_id: 0 for request in requests}
    assert faulty_ledger.claim(own, claims(requests[0], own), accepted=notes) is None
    assert len(faulty_ledger.messages(ACCOUNT, [postfix_part(each) for each in ids])) == messages


def test_a_request_is_cancelled_while_it_is_open_and_stays_open(ledger: DynamoLedger, dynamodb: Any) -> None:
    request = request_row(BARE)
    ledger.accept(request)
    assert ledger.cancel(cancelled(request)) is None
    assert ledger.requests([request.request_id]) == {request.request_id: cancelled(request)}
    assert is_indexed(dynamodb, request_key(request.request_id))


def test_cancelling_what_has_ended_or_is_another_acceptance_changes_nothing(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    ledger.accept(request)
    other = replace(cancelled(request), nonce="another")
    assert ledger.cancel(other) == request
    ledger.close([closed_row(request)])
    kept = ledger.requests([request.request_id])[request.request_id]
    assert ledger.cancel(cancelled(request)) == kept
    assert ledger.requests([request.request_id]) == {request.request_id: kept}
    assert ledger.cancel(cancelled(request_row(BARE, name="never there"))) is None
    assert ledger.requests([RequestId("rq_never there")]) == {}


def test_a_cancelled_request_is_closed_like_any_other_and_keeps_when_it_was_cancelled(ledger: DynamoLedger) -> None:
    request = request_row(BARE)
    ledger.accept(request)
    ledger.cancel(cancelled(request))
    ledger.close([replace(closed_row(request), letters="C")])
    kept = ledger.requests([request.request_id])[request.request_id]
    assert (kept.state, kept.letters, kept.cancelled_at) == (RequestState.CLOSED, "C", NOON)


def test_many_requests_are_closed_though_some_were_by_another(ledger: DynamoLedger) -> None:
    requests = [request_row(BARE, name=str(number)) for number in range(3)]
    for request in requests:
        ledger.accept(request)
    ledger.close([replace(closed_row(requests[1]), letters="F")])
    ledger.close([closed_row(request) for request in requests])
    kept = ledger.requests([request.request_id for request in requests])
    assert [kept[request.request_id].letters for request in requests] == ["R", "F", "R"]


def test_more_than_a_hundred_requests_are_closed_in_few_round_trips(
    faulty: ModelDynamoDB, faulty_ledger: DynamoLedger
) -> None:
    requests = [request_row(BARE, name=str(number)) for number in range(201)]
    for request in requests:
        faulty_ledger.accept(request)
    faulty.calls.clear()
    faulty_ledger.close([closed_row(request) for request in requests])
    assert faulty.calls == ["TransactWriteItems", "TransactWriteItems", "UpdateItem"]
    kept = faulty_ledger.requests([request.request_id for request in requests])
    assert {request.state for request in kept.values()} == {RequestState.CLOSED}
    assert len(kept) == 201


def test_closings_that_are_contended_without_end_are_made_one_by_one(
    faults: list[Fault], faulty_ledger: DynamoLedger
) -> None:
    requests = [request_row(BARE, name=str(number)) for number in range(2)]
    for request in requests:
        faulty_ledger.accept(request)
    faults += [Fault.CONFLICT] * 8
    faulty_ledger.close([closed_row(request) for request in requests])
    kept = faulty_ledger.requests([request.request_id for request in requests])
    assert {request.state for request in kept.values()} == {RequestState.CLOSED}


def test_what_is_put_off_is_due_behind_all_others_and_what_has_ended_is_not_due_again(ledger: DynamoLedger) -> None:
    requests = [request_row(BARE, name=str(n), created_at=NOON + timedelta(seconds=n)) for n in range(3)]
    own = attempt("a1", requests[0])
    ledger.claim(own, claims(requests[0], own), opened=requests[0])
    for request in requests[1:]:
        ledger.accept(request)
    ledger.close([closed_row(requests[1])])
    later = NOON + timedelta(minutes=10)
    ledger.postpone([*requests[:2], own], later)
    soon = later - timedelta(milliseconds=1)
    assert [ledger.open_requests(soon, 9), ledger.open_attempts(soon, 9)] == [requests[2:], []]
    assert ledger.open_requests(later, 9) == [requests[0], requests[2]]
    assert ledger.open_attempts(later, 9) == [own]
    ledger.postpone([], later)


def test_an_attempt_that_is_not_open_any_more_is_not_put_off(ledger: DynamoLedger, dynamodb: Any) -> None:
    request = request_row(BARE)
    own = attempt("a1", request)
    moves = claims(request, own)
    ledger.claim(own, moves, opened=request)
    ledger.record(ended(own), AttemptState.OPEN, outcomes(moves, DELIVERED), None)
    for seen in (own, ended(own)):
        ledger.postpone([seen], NOON)
    assert "open_at" not in item_of(dynamodb, attempt_key(ACCOUNT, own.attempt))


def test_of_each_shard_so_many_are_due_at_most_the_oldest_first(ledger: DynamoLedger) -> None:
    ages = {f"{number}": NOON + timedelta(seconds=(number * 7) % 24) for number in range(24)}
    for name, at in ages.items():
        ledger.accept(request_row(BARE, name=name, created_at=at))
    due = [request.created_at for request in ledger.open_requests(NOON + timedelta(seconds=19), 99)]
    assert due == sorted(at for at in ages.values() if at <= NOON + timedelta(seconds=19))
    few = ledger.open_requests(NOON + timedelta(seconds=19), 2)
    assert len(few) <= 8
    assert few[0].created_at == NOON


# What lookup and guard found out of a request's ids.


DENIED = Ended(Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED, "Rule dispositions: ...", disposition="MALICIOUS")
AMBIGUOUS = Ended(
    Outcome.AMBIGUOUS,
    Code.SEVERAL_MATCHES,
    "2 messages ...",
    (Candidate(FULL, NOON, "SPAM", is_quarantined=True), Candidate(OTHER, None, None, is_quarantined=False)),
)
HEADER = MessageId("<a#b@news.example>")


def many_ids(number: int) -> list[MessageId]:
    return [MessageId(f"4Njp3P0STMz2c{each:04d}-2026-11-13T12:00:00-12345678") for each in range(number)]


def opened(ledger: DynamoLedger, *ids: MessageId, **members: Any) -> RequestRow:
    request = request_row(*ids, **members)
    assert ledger.accept(request) is None
    return request


def kept(ledger: DynamoLedger, request: RequestRow) -> RequestRow:
    """Return a request as it is kept, but for how often something was noted of it."""
    return replace(ledger.requests([request.request_id])[request.request_id], notes=0)


def told(row: RequestRow | None) -> RequestRow:
    assert row is not None
    return replace(row, notes=0)


def test_what_was_found_out_of_ids_is_kept_with_their_request(ledger: DynamoLedger, dynamodb: Any) -> None:
    request = opened(ledger, BARE, HEADER, OTHER)
    after = replace(request, resolved={HEADER: FULL}, ended={HEADER: DENIED, OTHER: AMBIGUOUS})
    assert ledger.note(request, after) is None
    assert kept(ledger, request) == after
    assert is_indexed(dynamodb, request_key(request.request_id))


def test_what_was_found_out_later_is_added(ledger: DynamoLedger) -> None:
    request = opened(ledger, BARE, HEADER)
    first = replace(request, resolved={HEADER: FULL})
    second = replace(first, ended={HEADER: DENIED})
    third = replace(second, ended={HEADER: DENIED, BARE: AMBIGUOUS})
    for before, after in ((request, first), (first, second), (second, third), (third, third)):
        assert ledger.note(before, after) is None
        assert kept(ledger, request) == after


def test_a_request_is_opened_and_closed_with_what_was_found_out(ledger: DynamoLedger) -> None:
    request = opened(ledger, BARE, HEADER, resolved={HEADER: FULL}, ended={BARE: AMBIGUOUS})
    assert kept(ledger, request) == request
    ledger.close([closed_row(request)])
    assert kept(ledger, request) == closed_row(request)


def test_everything_a_request_may_say_is_read_as_it_was_written(ledger: DynamoLedger) -> None:
    since = datetime(2026, 11, 1, 10, 0, 0, 250, tzinfo=timezone(timedelta(hours=2)))
    policy = Policy(frozenset({"SPAM", "BULK"}), timedelta(days=7), frozenset({"example.com"}), is_strict=True)
    said: list[dict[str, Any]] = [
        {"narrowing": Narrowing("ann@example.com", "news.example", since, 3), "policy": policy},
        {"narrowing": Narrowing(sender="news.example"), "policy": Policy()},
        {"override": True, "dry_run": True, "confirm": True},
    ]
    for number, members in enumerate(said):
        request = opened(ledger, BARE, name=str(number), **members)
        assert kept(ledger, request) == request


@pytest.mark.parametrize(
    ("other", "own"),
    [
        ({"ended": {BARE: AMBIGUOUS}}, {"ended": {BARE: DENIED}}),
        ({"resolved": {HEADER: FULL}}, {"resolved": {HEADER: OTHER}}),
        ({"resolved": {HEADER: FULL}}, {"ended": {HEADER: DENIED}}),
        ({"ended": {HEADER: AMBIGUOUS}}, {"resolved": {HEADER: FULL}}),
        ({"resolved": {HEADER: FULL}}, {"resolved": {HEADER: FULL}, "ended": {HEADER: DENIED}}),
    ],
)
def test_of_two_who_find_out_about_one_id_the_first_counts_and_the_second_is_told(
    ledger: DynamoLedger, other: dict[str, Any], own: dict[str, Any]
) -> None:
    request = opened(ledger, BARE, HEADER)
    first = replace(request, **other)
    assert ledger.note(request, first) is None
    assert told(ledger.note(request, replace(request, **own))) == first
    assert kept(ledger, request) == first


def test_two_who_find_out_about_different_ids_lose_nothing(ledger: DynamoLedger) -> None:
    request = opened(ledger, BARE, HEADER)
    assert ledger.note(request, replace(request, ended={BARE: DENIED})) is None
    assert ledger.note(request, replace(request, resolved={HEADER: FULL})) is None
    assert kept(ledger, request) == replace(request, ended={BARE: DENIED}, resolved={HEADER: FULL})


@pytest.mark.parametrize("end", ["closed", "refused", "another acceptance", "gone"])
def test_nothing_is_noted_of_a_request_that_has_ended_or_is_another(ledger: DynamoLedger, end: str) -> None:
    before = request_row(BARE)
    if end != "gone":
        opened(ledger, BARE, **({"nonce": "another"} if end == "another acceptance" else {}))
    if end in ("closed", "refused"):
        ledger.close([closed_row(before) if end == "closed" else refused(before, NOON, TERMS)])
    found = ledger.note(before, replace(before, ended={BARE: DENIED}))
    assert found == (before if end == "gone" else kept(ledger, before))
    assert found is not None
    assert found.ended == {}


def test_another_acceptance_with_the_same_findings_is_told_all_the_same(ledger: DynamoLedger) -> None:
    found = opened(ledger, BARE, nonce="another", ended={BARE: DENIED})
    before = request_row(BARE)
    assert ledger.note(before, replace(before, ended={BARE: DENIED})) == found


def test_what_was_told_as_cancelled_is_not_denied_later(ledger: DynamoLedger) -> None:
    request = opened(ledger, BARE)
    assert ledger.cancel(cancelled(request)) is None
    assert ledger.note(request, replace(request, ended={BARE: DENIED})) == cancelled(request)
    assert kept(ledger, request) == cancelled(request)


def test_what_has_ended_meanwhile_is_not_claimed(ledger: DynamoLedger) -> None:
    """Who claims has counted the notes: one more, and it is told what the request has come to."""
    request = opened(ledger, BARE, HEADER)
    own = attempt("one", request, BARE)
    moves = [Move(None, claimed(None, own.targets[0], request, own))]
    assert ledger.note(request, replace(request, ended={BARE: DENIED})) is None
    conflict = ledger.claim(own, moves, accepted={request.request_id: 0})
    assert conflict is not None
    (actual,) = conflict.requests.values()
    assert actual is not None
    assert (dict(actual.ended), actual.notes) == ({BARE: DENIED}, 1)
    assert actual.ended_parts == {postfix_part(BARE)}
    assert ledger.claim(own, moves, accepted={request.request_id: 1}) is None


@pytest.mark.parametrize("owner", ["one", "two"])
def test_what_is_claimed_for_a_request_does_not_end_for_it_but_for_others(ledger: DynamoLedger, owner: str) -> None:
    request = opened(ledger, BARE)
    claiming = request if owner == "one" else opened(ledger, BARE, name="two")
    own = attempt("one", claiming, BARE)
    moves = [Move(None, claimed(None, own.targets[0], claiming, own))]
    assert ledger.claim(own, moves, accepted={claiming.request_id: 0}) is None
    found = ledger.note(request, replace(request, ended={BARE: DENIED}))
    assert found == (request if owner == "one" else None)


@pytest.mark.parametrize("number", [40, 41, 1000])
def test_findings_whose_writing_lost_its_answer_are_not_taken_for_anothers(
    faults: list[Fault], faulty: ModelDynamoDB, faulty_ledger: DynamoLedger, number: int
) -> None:
    ids = many_ids(number)
    request = opened(faulty_ledger, *ids)
    after = replace(request, ended=dict.fromkeys(ids, DENIED))
    faults += [Fault.TIMEOUT_AFTER]
    with pytest.raises(LedgerUnavailable):
        faulty_ledger.note(request, after)
    faults += [Fault.REPEATED] * 25
    faulty.calls.clear()
    assert faulty_ledger.note(request, after) is None
    assert faulty.calls == ["TransactWriteItems"] * -(-number // 40)
    assert kept(faulty_ledger, request) == after


def test_findings_of_which_only_some_were_written_are_completed(
    faults: list[Fault], faulty_ledger: DynamoLedger
) -> None:
    ids = many_ids(90)
    request = opened(faulty_ledger, *ids)
    after = replace(request, resolved={each: each for each in ids}, ended=dict.fromkeys(ids, DENIED))
    faults += [None, Fault.TIMEOUT_BEFORE]  # type: ignore[list-item]
    with pytest.raises(LedgerUnavailable):
        faulty_ledger.note(request, after)
    before = kept(faulty_ledger, request)
    assert 0 < len(before.ended) < 90
    assert faulty_ledger.note(before, after) is None
    assert kept(faulty_ledger, request) == after


def test_a_second_writer_is_told_though_only_a_later_part_of_its_findings_is_anothers(ledger: DynamoLedger) -> None:
    ids = many_ids(90)
    request = opened(ledger, *ids)
    assert ledger.note(request, replace(request, ended={ids[70]: AMBIGUOUS})) is None
    actual = ledger.note(request, replace(request, ended=dict.fromkeys(ids, DENIED)))
    assert actual is not None
    assert told(actual) == kept(ledger, request)
    assert actual.ended[ids[70]] == AMBIGUOUS


class _Measured(ModelDynamoDB):
    """Knows the longest expression (DynamoDB developer guide, "Quotas": 4 KB)."""

    longest = 0

    def update_item(self, **parameters: Any) -> dict[str, Any]:
        expressions = (parameters["UpdateExpression"], parameters["ConditionExpression"])
        self.longest = max(self.longest, *map(len, expressions))
        return super().update_item(**parameters)


@pytest.mark.parametrize(
    ("ended", "resolved"),
    [
        (replace(DENIED, detail="d" * 180), True),
        (replace(AMBIGUOUS, detail="d" * 80, candidates=AMBIGUOUS.candidates[:1] * 10), False),
    ],
)
def test_whatever_is_found_out_of_1000_ids_can_be_written(ended: Ended, resolved: bool) -> None:
    dynamodb = _Measured()
    ledger = ledger_of(dynamodb)
    ids = [MessageId(f"<{number:04}@{'n' * 50}.example>") for number in range(1000)]
    request = opened(ledger, *ids)
    named = dict(zip(ids, many_ids(1000), strict=True)) if resolved else {}
    after = replace(request, resolved=named, ended=dict.fromkeys(ids, ended))
    assert ledger.note(request, after) is None
    found = kept(ledger, request)
    assert found.ended.keys() == set(ids)
    assert found.resolved == named
    assert {(each.outcome, each.detail) for each in found.ended.values()} == {(ended.outcome, ended.detail)}
    assert ledger.note(request, after) is None  # what was left out makes no other finding of it
    assert dynamodb.longest <= 4096


def test_a_note_that_others_overtake_in_every_round_is_given_up_and_told(
    ledger: DynamoLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger._table, "write", lambda _: {"pk": {"S": f"N#{ACCOUNT}#{PART}"}})
    with pytest.raises(LedgerContended):
        ledger.note_unclaimed(ACCOUNT, [PART], RequestId("rq_one"), NOON)


def test_who_asked_for_messages_without_a_claim_is_known(ledger: DynamoLedger) -> None:
    first, second = RequestId("rq_one"), RequestId("rq_two")
    until = NOON + TERMS.retention
    ledger.note_unclaimed(ACCOUNT, [PART, postfix_part(OTHER), PART], first, until)
    ledger.note_unclaimed(ACCOUNT, [PART], second, until)
    ledger.note_unclaimed(ACCOUNT, [PART], second, until)
    ledger.note_unclaimed(ACCOUNT, [], second, until)
    assert ledger.unclaimed(ACCOUNT, PART) == {first, second}
    assert ledger.unclaimed(ACCOUNT, postfix_part(OTHER)) == {first}
    assert ledger.unclaimed(AccountId("b" * 32), PART) == frozenset()
    assert ledger.messages(ACCOUNT, [PART]) == {}


def test_of_those_who_asked_for_a_message_without_a_claim_a_hundred_are_kept(
    ledger: DynamoLedger, dynamodb: Any
) -> None:
    names = [RequestId(f"rq_{number:03}") for number in range(102)]
    for name in names:
        ledger.note_unclaimed(ACCOUNT, [PART], name, NOON)
    ledger.note_unclaimed(ACCOUNT, [PART, postfix_part(OTHER)], names[101], NOON)
    assert ledger.unclaimed(ACCOUNT, PART) == set(names[:100])
    assert ledger.unclaimed(ACCOUNT, postfix_part(OTHER)) == {names[101]}
    assert item_of(dynamodb, unclaimed_key(ACCOUNT, PART))["expires_at"] == {"N": str(int(NOON.timestamp()))}


def test_1000_denied_messages_and_100_answers_are_written_in_few_round_trips(
    faults: list[Fault], faulty: ModelDynamoDB, faulty_ledger: DynamoLedger
) -> None:
    parts = [postfix_part(each) for each in many_ids(1000)]
    faulty_ledger.note_unclaimed(ACCOUNT, parts, RequestId("rq_one"), NOON)
    assert faulty.calls == ["TransactWriteItems"] * 10
    faulty.calls.clear()
    faulty_ledger.keep_aliases(ACCOUNT, {f"question {number}": FULL for number in range(100)}, NOON, NOON)
    assert faulty.calls == ["TransactWriteItems"]
    faults += [Fault.CONFLICT] * 8
    faulty_ledger.note_unclaimed(ACCOUNT, parts[:3], RequestId("rq_two"), NOON)
    assert faulty_ledger.unclaimed(ACCOUNT, parts[2]) == {RequestId("rq_one"), RequestId("rq_two")}


def test_what_is_known_is_read_in_one_round_trip(faulty: ModelDynamoDB, faulty_ledger: DynamoLedger) -> None:
    row = release_once(faulty_ledger)
    faulty_ledger.keep_aliases(ACCOUNT, {"what?": FULL}, NOON, NOON)
    faulty.calls.clear()
    known = faulty_ledger.known(ACCOUNT, RequestId("rq_one"), [PART, postfix_part(OTHER)], ["what?", "which?"])
    expected = faulty_ledger.requests([RequestId("rq_one")])[RequestId("rq_one")]
    assert known == LedgerSnapshot(expected, {PART: row}, {"what?": Kept(FULL, NOON, NOON)})
    assert faulty.calls[:1] == ["BatchGetItem"]
    assert len(faulty.calls) == 2


def test_what_is_not_known_is_left_out(ledger: DynamoLedger) -> None:
    assert ledger.known(ACCOUNT, None, [], []) == LedgerSnapshot(None, {}, {})
    assert ledger.known(ACCOUNT, RequestId("rq_one"), [PART], ["what?"]) == LedgerSnapshot(None, {}, {})


def test_a_question_is_answered_as_last_found_for_its_account_alone_and_not_kept_itself(
    ledger: DynamoLedger, dynamodb: Any
) -> None:
    later = NOON + timedelta(days=1)
    ledger.keep_aliases(ACCOUNT, {"ann.canary@example.com?": OTHER}, NOON, NOON)
    ledger.keep_aliases(ACCOUNT, {"ann.canary@example.com?": FULL, "what?": BARE}, NOON, later)
    ledger.keep_aliases(ACCOUNT, {}, NOON, later)
    known = ledger.known(ACCOUNT, None, [], ["ann.canary@example.com?", "what?"])
    assert known.answers == {"ann.canary@example.com?": Kept(FULL, later, NOON), "what?": Kept(BARE, later, NOON)}
    assert ledger.known(AccountId("b" * 32), None, [], ["what?"]).answers == {}
    assert "canary" not in str(item_of(dynamodb, alias_key(ACCOUNT, "ann.canary@example.com?")))


def test_a_message_id_is_no_message_of_the_ledger(ledger: DynamoLedger) -> None:
    release_once(ledger)
    assert ledger.messages(ACCOUNT, [PART, PostfixPart(HEADER)]).keys() == {PART}


# --- What was read

READ = Facts(FULL, NOON, was_held=True, disposition="SPAM")


def test_what_was_read_is_kept_with_who_asked_without_a_claim(
    faulty: ModelDynamoDB, faulty_ledger: DynamoLedger
) -> None:
    until, other = NOON + timedelta(days=1), postfix_part(OTHER)
    faulty_ledger.note_unclaimed(ACCOUNT, [PART, other], RequestId("rq_one"), until, {PART: READ})
    faulty.calls.clear()
    known = faulty_ledger.known(ACCOUNT, None, [PART, other], [], [PART, other])
    assert (known.messages, known.facts, faulty.calls) == ({}, {PART: READ}, ["BatchGetItem"])
    assert faulty_ledger.known(ACCOUNT, None, [PART], []).facts == {}
    faulty_ledger.note_unclaimed(ACCOUNT, [PART], RequestId("rq_two"), until)
    assert faulty_ledger.known(ACCOUNT, None, [], [], [PART]).facts == {PART: READ}
    assert faulty_ledger.unclaimed(ACCOUNT, PART) == {"rq_one", "rq_two"}


def test_what_was_read_last_is_kept_though_no_more_are_named(ledger: DynamoLedger) -> None:
    for number in range(101):
        ledger.note_unclaimed(ACCOUNT, [PART], RequestId(f"rq_{number}"), NOON)
    later = replace(READ, disposition="MALICIOUS")
    ledger.note_unclaimed(ACCOUNT, [PART, postfix_part(OTHER)], RequestId("rq_last"), NOON, {PART: later})
    assert ledger.known(ACCOUNT, None, [], [], [PART]).facts == {PART: later}
    assert len(ledger.unclaimed(ACCOUNT, PART)) == 100
    assert ledger.unclaimed(ACCOUNT, postfix_part(OTHER)) == {"rq_last"}


EVIL = replace(READ, disposition="MALICIOUS")


def after(seconds: int, facts: Facts = READ) -> Facts:
    return replace(facts, read_at=NOON + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    ("facts", "kept"),
    [
        (after(-1), EVIL),
        (READ, EVIL),
        (after(1), after(1)),
        (after(-1, unclear(BARE, NOON)), several(PART, NOON)),
    ],
    ids=["older", "at the same time", "newer", "of another id, and not clear"],
)
@pytest.mark.parametrize("by_request", [True, False])
@pytest.mark.parametrize("others", [0, 99])
def test_a_reading_is_kept_together_with_what_others_have_kept(
    ledger: DynamoLedger, facts: Facts, kept: Facts, by_request: bool, others: int
) -> None:
    for number in range(others):
        ledger.note_unclaimed(ACCOUNT, [PART], RequestId(f"rq_{number}"), NOON)
    ledger.note_unclaimed(ACCOUNT, [PART], RequestId("rq_evil"), NOON, {PART: EVIL})
    new = {PART: facts, postfix_part(OTHER): READ}
    if by_request:
        ledger.note_unclaimed(ACCOUNT, list(new), RequestId("rq_last"), NOON, new)
    else:
        ledger.keep_facts(ACCOUNT, new, NOON)
    told = ledger.known(ACCOUNT, None, [], [], list(new)).facts
    assert told[postfix_part(OTHER)] == READ
    assert (told[PART].is_clear, told[PART].is_several) == (kept.is_clear, kept.is_several)
    assert told[PART].disposition == kept.disposition or kept.is_several
    names = ledger.unclaimed(ACCOUNT, PART)
    assert len(names) == min(100, others + 1 + by_request)


def test_what_is_read_again_and_is_the_same_is_written_in_two_round_trips(
    faulty: ModelDynamoDB, faulty_ledger: DynamoLedger
) -> None:
    facts = {postfix_part(each): READ for each in many_ids(100)}
    faulty_ledger.note_unclaimed(ACCOUNT, list(facts), RequestId("rq_one"), NOON, facts)
    faulty.calls.clear()
    again = {part: after(1) for part in facts}
    faulty_ledger.note_unclaimed(ACCOUNT, list(facts), RequestId("rq_two"), NOON, again)
    assert faulty.calls == ["TransactWriteItems"] * 2
    assert faulty_ledger.known(ACCOUNT, None, [], [], list(facts)).facts == facts
    assert faulty_ledger.unclaimed(ACCOUNT, list(facts)[99]) == {"rq_one", "rq_two"}


def test_two_who_ask_at_once_do_not_lose_the_worse_reading_of_a_claimed_message(ledger: DynamoLedger) -> None:
    row = release_once(ledger)
    assert ledger.add_requesters([Move(row, replace(row, facts=EVIL))]) is None
    conflict = ledger.add_requesters([Move(row, replace(row, facts=after(-1)))])
    assert conflict is not None
    seen = conflict.messages[PART]
    assert seen is not None
    assert seen.facts == EVIL
    assert ledger.add_requesters([Move(seen, replace(seen, facts=after(1)))]) is None


def test_facts_that_cannot_be_read_are_not_clear(faulty: ModelDynamoDB, faulty_ledger: DynamoLedger) -> None:
    faulty_ledger.note_unclaimed(ACCOUNT, [PART], RequestId("rq_one"), NOON, {PART: READ})
    faulty.items[unclaimed_key(ACCOUNT, PART)]["facts"] = {"S": "{"}
    facts = faulty_ledger.known(ACCOUNT, None, [], [], [PART]).facts[PART]
    assert not facts.is_clear
    assert combined((facts, READ)) is facts
