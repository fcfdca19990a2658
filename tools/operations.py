"""What a person may change in the ledger, and how: on the same conditions as everybody, and never without a trace.

Pure but for the ledger and the queue that are passed in. Every method of the ledger raises LedgerUnavailable.
"""

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.call_limit import EVERYBODY, AccountRow
from quarantine_release.domain.ids import AccountId, MessageId, OperationId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.operation_rows import OperationKind, OperationRow
from quarantine_release.domain.results import Result, derive_results
from quarantine_release.domain.rows import AttemptRow, MessageRow, RequestRow, RequestState, parse_targets
from quarantine_release.domain.settlement import settled_by_hand
from quarantine_release.domain.states import EXPIRING, Code, Outcome, State, may_claim
from quarantine_release.domain.transitions import Terms
from quarantine_release.domain.unreadable import UnreadableRequest
from quarantine_release.domain.verdicts import Seen, Stop
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.ledger.writes import Switch
from quarantine_release.releasing.hints import plan_hints
from quarantine_release.releasing.ports import Hint, Move, Queue

# Of a switch that is set and lifted again and again the account's row, which every call writes, holds the last few.
_ORDERS_KEPT: Final = 20
_TRIES: Final = 8
# An attempt that nothing is known of is looked at again every ten minutes: by then all of them are due.
ALL_DUE: Final = timedelta(days=1)
_AGAIN: Final = (Outcome.FAILED, Outcome.EXPIRED, Outcome.CANCELLED)


@dataclass(frozen=True, slots=True)
class Person:
    """Who changes something, when, and why."""

    by: str
    reason: str
    at: datetime
    operation: OperationId

    def does(
        self,
        kind: OperationKind,
        account_id: AccountId,
        *,
        client: str | None = None,
        part: PostfixPart | None = None,
        settled_as: State | None = None,
        redriven: RequestId | None = None,
        request_id: RequestId | None = None,
    ) -> OperationRow:
        """Return the row of what is changed."""
        return OperationRow(
            account_id=account_id,
            operation=self.operation,
            kind=kind,
            at=self.at,
            by=self.by,
            reason=self.reason,
            client=client,
            part=part,
            settled_as=settled_as,
            redriven=redriven,
            request_id=request_id,
        )


@dataclass(frozen=True, slots=True)
class Unchanged:
    """Nothing was changed, for this reason."""

    why: str


@dataclass(frozen=True, slots=True)
class Doubt:
    """A message that nobody knows the end of, since when, and what is known."""

    since: datetime
    row: MessageRow


def pause(ledger: DynamoLedger, account_id: AccountId, client: str | None, person: Person) -> OperationRow:
    """Stop all releases of an account, or of one client of it; a pause that stands gets the new reason."""
    stop = Stop(person.reason, person.by, person.at, person.operation)

    def paused(row: AccountRow) -> AccountRow | None:
        return replace(row, stops={**row.stops, client or EVERYBODY: stop})

    operation = person.does(OperationKind.PAUSE, account_id, client=client)
    _switch(ledger, operation, paused)
    return operation


def resume(ledger: DynamoLedger, account_id: AccountId, client: str | None, person: Person) -> OperationRow | Unchanged:
    """Lift the pause of an account, or of one client of it; others that stand there stay."""
    place = client or EVERYBODY

    def resumed(row: AccountRow) -> AccountRow | None:
        left = {name: stop for name, stop in row.stops.items() if name != place}
        return replace(row, stops=left) if place in row.stops else None

    operation = person.does(OperationKind.RESUME, account_id, client=client)
    if not _switch(ledger, operation, resumed):
        return Unchanged(f"{f'client {client}' if client else 'the account'} is not paused")
    return operation


def _switch(ledger: DynamoLedger, operation: OperationRow, change: Callable[[AccountRow], AccountRow | None]) -> bool:
    for _ in range(_TRIES):
        before = ledger.account(operation.account_id)
        changed = change(before)
        if changed is None:
            return False
        orders = (*before.operations, operation.operation)[-_ORDERS_KEPT:]
        if ledger.operate(operation, Switch(operation.account_id, before, replace(changed, operations=orders))):
            return True
    raise LedgerUnavailable("the switch is changed by somebody else all the time")


def settle(
    ledger: DynamoLedger,
    queue: Queue | None,
    account_id: AccountId,
    part: PostfixPart,
    seen: Seen,
    person: Person,
    terms: Terms,
) -> MessageRow | Unchanged:
    """Settle a message as a person has seen it; who still waits for one that is free by it goes on at once."""
    row = ledger.messages(account_id, [part]).get(part)
    if row is None:
        return Unchanged("nobody has asked for this message")
    after = settled_by_hand(row, person.operation, seen, person.at, terms)
    if after is None:
        return Unchanged(_why_not(row, terms))
    operation = person.does(OperationKind.SETTLE, account_id, part=part, settled_as=after.state)
    if not ledger.operate(operation, Move(row, after)):
        return Unchanged("it has changed meanwhile: look at its trace again")
    if after.state is State.RETRYABLE and queue is not None:
        queue.send([Hint(name) for name in sorted(after.asks)])
    return after


def _why_not(row: MessageRow, terms: Terms) -> str:
    if not row.is_readable:
        return "its row cannot be read"
    if row.state is State.RELEASING or (row.state is State.UNKNOWN and row.deadline is not None):
        until = (row.deadline or row.updated_at) + terms.settle
        return f"its call may still have an effect: not before {until:%H:%M:%S} UTC"
    if row.state is State.NEEDS_REVIEW and row.forced_over in EXPIRING:
        return f"it was {row.forced_over} before it was forced, and would be released again without force"
    return f"it is {row.state}: only what is unconfirmed or needs review can be settled"


def redrive(
    ledger: DynamoLedger, queue: Queue | None, request_id: RequestId, person: Person, nonce: str
) -> RequestRow | Unchanged:
    """Ask anew for what a request has failed to get released, on behalf of the same client."""
    request = ledger.find_requests([request_id]).get(request_id)
    if isinstance(request, UnreadableRequest):
        return Unchanged("its row cannot be read")
    if request is None:
        return Unchanged("there is no such request")
    if request.state is not RequestState.CLOSED:
        return Unchanged(f"it is {request.state}: only what has ended can be redriven")
    rows = ledger.messages(request.account_id, [target.part for target in parse_targets(request.ids)])
    ids = redrivable(request, rows, person.at)
    if not ids:
        return Unchanged("nothing of it failed that may be released without force")
    again = _again(request, ids, person, nonce)
    operation = person.does(OperationKind.REDRIVE, request.account_id, redriven=request_id, request_id=again.request_id)
    if not ledger.operate(operation, again):
        return Unchanged(f"it was redriven already: {again.request_id}")
    if queue is not None:
        queue.send(plan_hints(again, {target.part for target in parse_targets(ids)}))
    return again


def redrivable(request: RequestRow, rows: Mapping[PostfixPart, MessageRow], now: datetime) -> tuple[MessageId, ...]:
    """Return what a request did not get released, and whoever asks may claim: nothing that is out, or may be."""
    return tuple(result.id for result in derive_results(request, rows, now) if _is_left(result, rows))


def _is_left(result: Result, rows: Mapping[PostfixPart, MessageRow]) -> bool:
    row = rows.get(postfix_part(result.id))
    was_settled = result.code is Code.UNSETTLED and row is not None and row.state is State.RETRYABLE
    is_free = row is None or may_claim(row.state, row.code, force=False)
    return is_free and (result.outcome in _AGAIN or was_settled)


def _again(request: RequestRow, ids: tuple[MessageId, ...], person: Person, nonce: str) -> RequestRow:
    """Return the new request. The same ids of the same request make the same one, so that it is made once."""
    seed = hashlib.sha256(f"\0redrive\0{request.request_id}\0{','.join(ids)}".encode())
    return replace(
        request,
        request_id=RequestId(f"rq_{base64.b32encode(seed.digest()).decode().lower()[:26]}"),
        fingerprint=seed.hexdigest(),
        nonce=nonce,
        ids=ids,
        created_at=person.at,
        state=RequestState.OPEN,
        reason=person.reason,
        requested_by=person.by[:200],
        force=False,
        override=False,
        resolved={},
        ended={},
        notes=0,
        operation=person.operation,
        cancelled_at=None,
        letters=None,
        closed_at=None,
        expires_at=None,
    )


def in_doubt(ledger: DynamoLedger, now: datetime, limit: int) -> list[Doubt]:
    """Return what is unconfirmed or in review, oldest first, at most so many of each and of each shard of the index."""
    doubts = [Doubt(row.updated_at, row) for row in ledger.under_review(now, limit)]
    by_account: dict[AccountId, list[AttemptRow]] = {}
    for attempt in ledger.open_attempts(now + ALL_DUE, limit):
        by_account.setdefault(attempt.account_id, []).append(attempt)
    for account_id, attempts in by_account.items():
        parts = [target.part for attempt in attempts for target in attempt.targets]
        rows = ledger.messages(account_id, parts)
        doubts += [
            Doubt(attempt.sent_at, row)
            for attempt in attempts
            for target in attempt.targets
            if (row := rows.get(target.part)) and row.attempt == attempt.attempt and _is_unconfirmed(row, now)
        ]
    return sorted(doubts, key=lambda doubt: (doubt.since, doubt.row.part))


def _is_unconfirmed(row: MessageRow, now: datetime) -> bool:
    is_overdue = row.deadline is not None and row.deadline <= now
    return row.state is State.UNKNOWN or (row.state is State.RELEASING and is_overdue)
