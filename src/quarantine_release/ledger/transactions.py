"""Which writes of the ledger pass together. The package's docstring describes the table."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from quarantine_release.domain.ids import PostfixPart, RequestId, message_key
from quarantine_release.domain.ledger_errors import LedgerContended
from quarantine_release.domain.operation_rows import OperationRow
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestRow, RequestState
from quarantine_release.domain.states import UNSETTLED, State
from quarantine_release.ledger.codecs import Item
from quarantine_release.ledger.items import request_row
from quarantine_release.ledger.keys import attempt_key, request_key
from quarantine_release.ledger.notes import LedgerNotes
from quarantine_release.ledger.table import FEW_TRIES, TRANSACTION_LIMIT
from quarantine_release.ledger.update_expression import Write
from quarantine_release.ledger.writes import (
    Switch,
    cancel_request,
    check_open,
    end_attempt,
    end_request,
    move_message,
    put_attempt,
    put_off,
    put_operation,
    put_request,
    reopen_attempt,
    set_switch,
)
from quarantine_release.releasing.ports import Conflict, Move

# No requests that were accepted before, and how many notes each had.
NOBODY: Final[Mapping[RequestId, int]] = {}


class DynamoLedger(LedgerNotes):
    """The ledger in one DynamoDB table: which writes pass together, and what it means if one is refused."""

    def claim(
        self,
        attempt: AttemptRow,
        moves: Sequence[Move],
        asks: Sequence[Move] = (),
        *,
        opened: RequestRow | None = None,
        accepted: Mapping[RequestId, int] = NOBODY,
    ) -> Conflict | None:
        """Write attempt, claims and asks in one transaction, or nothing and tell why. One round trip.

        `opened` is accepted by it. Those `accepted` before must still be open, with as many notes as they had when they
        were read: nothing leaves on behalf of one that was refused or has ended. A claim whose answer was lost is
        recognised by its own attempt, and is a success. Raises LedgerContended if others contend for the rows.
        """
        if opened is not None:
            requests = {request_key(opened.request_id): put_request(opened)}
        else:
            requests = {request_key(name): check_open(name, notes) for name, notes in accepted.items()}
        changes = _changes([*moves, *asks])
        own_key = attempt_key(attempt.account_id, attempt.attempt)
        refused = self._table.transact({**_writes(changes), **requests, own_key: put_attempt(attempt)})
        if refused is None:
            self._reopen(asks)
            return None
        conflict = Conflict(self._requests(refused, opened, accepted), self._messages(refused, changes))
        return None if own_key in refused else conflict

    def accept(self, request: RequestRow, asks: Sequence[Move] = ()) -> Conflict | None:
        """Write a request without a claim, and the asks for it, in one transaction, or nothing and tell why.

        A request whose answer was lost is recognised by its nonce, and is a success. Raises LedgerContended if others
        contend for the rows; soon if they are messages, because asks can be written elsewhere.
        """
        own_key, changes = request_key(request.request_id), _changes(asks)
        writes = {**_writes(changes), own_key: put_request(request)}
        refused = self._table.transact(writes, FEW_TRIES) if asks else self._table.transact(writes)
        if refused is None:
            self._reopen(asks)
            return None
        conflict = Conflict(self._requests(refused, request), self._messages(refused, changes))
        earlier = conflict.requests.get(request.request_id)
        return None if earlier is not None and earlier.nonce == request.nonce else conflict

    def add_requesters(self, asks: Sequence[Move]) -> Conflict | None:
        """Add to those who want messages, in one transaction, or nothing and tell why.

        Raises LedgerContended if others contend for the rows; soon, because asks can be written elsewhere.
        """
        changes = _changes(asks)
        refused = self._table.transact(_writes(changes), FEW_TRIES) if changes else None
        if refused is None:
            self._reopen(asks)
            return None
        return Conflict({}, self._messages(refused, changes))

    def _requests(
        self, refused: Mapping[str, Item], opened: RequestRow | None, accepted: Mapping[RequestId, int] = NOBODY
    ) -> dict[RequestId, RequestRow | None]:
        """Read the requests that refused a claim. One that cannot be read is gone for others, but not for its POST."""
        if opened is not None:
            item = refused.get(request_key(opened.request_id))
            return {opened.request_id: self._reported(item, request_row) if item else None} if item is not None else {}
        items = {name: refused[request_key(name)] for name in accepted if request_key(name) in refused}
        return {name: next(self._readable([item] if item else [], request_row), None) for name, item in items.items()}

    def _messages(
        self, refused: Mapping[str, Item], changes: Mapping[str, Move]
    ) -> dict[PostfixPart, MessageRow | None]:
        items = {move.after.part: refused[key] for key, move in changes.items() if key in refused}
        return {part: self._message(item) if item else None for part, item in items.items()}

    def record(
        self, attempt: AttemptRow, was: AttemptState, moves: Sequence[Move], request: RequestRow | None
    ) -> dict[PostfixPart, MessageRow]:
        """Write a call's outcome; return the messages that are no longer as its writer saw them, as they are.

        In one transaction, one round trip, where nothing has moved meanwhile and nobody contends. Else first and
        durably on the attempt, then on each message that is still as it was seen, and on the request if they all were;
        but a refusal first on the request, since nothing may leave after its caller was told no.
        """
        closing = [end_request(request)] if request is not None else []
        writes = [end_attempt(attempt, was), *map(move_message, moves), *closing]
        with suppress(LedgerContended):
            if self._table.transact(dict(enumerate(writes))) is None:
                return {}
        is_refusal = request is not None and request.state is RequestState.REFUSED
        for write in closing if is_refusal else ():
            self._table.write(write)
        others = self._record_singly(attempt, was, moves)
        for write in closing if not others and not is_refusal else ():
            self._table.write(write)
        return others

    def _record_singly(
        self, attempt: AttemptRow, was: AttemptState, moves: Sequence[Move]
    ) -> dict[PostfixPart, MessageRow]:
        """Write a call's outcome row by row.

        The attempt is due again at once: whoever finds the outcome there brings it to the messages that it has not
        reached. With a message that is still to be settled it stays open, whatever its writer took it for.
        """
        self._table.write(end_attempt(attempt, was, stays_open=True))
        others = self._write_each(moves)
        if not attempt.is_open and not any(_is_unsettled(row, attempt) for row in others.values()):
            self._table.write(end_attempt(attempt, attempt.state))
        return others

    def project(self, moves: Sequence[Move]) -> dict[PostfixPart, MessageRow]:
        """Move messages on, 100 in a transaction; return those that were not as they were seen, as they are."""
        others: dict[PostfixPart, MessageRow] = {}
        for start in range(0, len(moves), TRANSACTION_LIMIT):
            batch = moves[start : start + TRANSACTION_LIMIT]
            if self._table.transact(dict(enumerate(map(move_message, batch)))) is not None:
                others |= self._write_each(batch)
        return others

    def operate(self, operation: OperationRow, change: Move | RequestRow | Switch) -> bool:
        """Write what a person changes together with the operation, or nothing, and return False, if it has moved.

        The change passes on the same conditions as everybody's: a message must be as it was seen, a request new.
        """
        if isinstance(change, Move):
            action = move_message(change)
        elif isinstance(change, RequestRow):
            action = put_request(change)
        else:
            action = set_switch(change)
        refused = self._table.transact({"change": action, "operation": put_operation(operation)})
        # The operation's own row was there already: written by this very call, whose answer was lost.
        return refused is None or "operation" in refused

    def close(self, requests: Sequence[RequestRow]) -> None:
        """Close open requests; without effect on those that somebody else closed."""
        self._table.write_all([end_request(request) for request in requests])

    def cancel(self, request: RequestRow) -> RequestRow | None:
        """Have nothing more claimed for an open request; return it as it is if it is open no more."""
        item = self._table.write(cancel_request(request))
        return self._reported(item, request_row) if item else None

    def postpone(self, rows: Sequence[AttemptRow | RequestRow], at: datetime) -> None:
        """Put open rows off until then; without effect on those that are open no more."""
        self._table.write_all([put_off(row, at) for row in rows])

    def reopen(self, rows: Sequence[MessageRow], at: datetime) -> None:
        """Open the attempts of messages under review again, due at `at`. Attempts that are open stay as they are."""
        attempts = {row.attempt: row.account_id for row in rows}
        for account_id in sorted(set(attempts.values())):
            names = [name for name in attempts if attempts[name] == account_id]
            rows_of_account = self.attempts(account_id, names)
            self._table.write_all([reopen_attempt(attempt, at, is_closed=True) for attempt in rows_of_account])

    def _reopen(self, asks: Sequence[Move]) -> None:
        """Have a message under review looked at again when another id has been given for it."""
        for ask in asks:
            is_named = ask.before is not None and ask.before.candidates != ask.after.candidates
            if ask.after.state is State.NEEDS_REVIEW and is_named:
                for attempt in self.attempts(ask.after.account_id, [ask.after.attempt]):
                    self._table.write(reopen_attempt(attempt, ask.after.updated_at))

    def _write_each(self, moves: Sequence[Move]) -> dict[PostfixPart, MessageRow]:
        others = {}
        for move in moves:
            item = self._table.write(move_message(move))
            row = self._message(item) if item else None
            if row is not None and (row.state, row.attempt) != (move.after.state, move.after.attempt):
                others[move.after.part] = row
        return others


def _changes(moves: Sequence[Move]) -> dict[str, Move]:
    """Return the moves that change anything, by the key of their message."""
    return {message_key(move.after.account_id, move.after.part): move for move in moves if move.before != move.after}


def _writes(changes: Mapping[str, Move]) -> dict[str, Write]:
    return {key: move_message(move) for key, move in changes.items()}


def _is_unsettled(row: MessageRow, attempt: AttemptRow) -> bool:
    """Say whether a message may still need what its attempt tells."""
    return not row.is_readable or (row.attempt == attempt.attempt and row.state in UNSETTLED)
