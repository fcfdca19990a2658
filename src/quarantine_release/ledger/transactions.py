"""Which writes of the ledger pass together. The package's docstring describes the table."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from quarantine_release.domain.facts import NO_FACTS, Facts, combined, is_news
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, RequestId
from quarantine_release.domain.ledger_errors import LedgerContended
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, OperationRow, RequestRow, RequestState
from quarantine_release.domain.states import UNSETTLED, State
from quarantine_release.ledger.codecs import Item
from quarantine_release.ledger.items import checks_item, ended_parts, facts_and_asks, request_row
from quarantine_release.ledger.keys import request_key
from quarantine_release.ledger.reads import LedgerReads
from quarantine_release.ledger.table import CONDITION_FAILED, FEW_TRIES
from quarantine_release.ledger.writes import (
    UNCLAIMED_KEPT,
    Apart,
    Switch,
    Write,
    cancel_request,
    check_not_owner,
    check_open,
    end_attempt,
    end_request,
    keep_alias,
    move_message,
    note_apart,
    note_findings,
    put_attempt,
    put_off,
    put_operation,
    put_request,
    reopen_attempt,
    set_switch,
)
from quarantine_release.releasing.ports import Conflict, Move

# Actions in one transaction.
_TRANSACTION_LIMIT: Final = 100

# Notes of one request in one update, since an expression may have 4 KB (DynamoDB developer guide, "Quotas").
_NOTES_AT_ONCE: Final = 40

# Each round some other writer has passed, and has changed what was read.
_NOTE_ROUNDS: Final = 8

_NO_NOTES: Final[Mapping[RequestId, int]] = {}


class DynamoLedger(LedgerReads):
    """The ledger in one DynamoDB table: which writes pass together, and what it means if one is refused."""

    def claim(
        self,
        opened: RequestRow | None,
        accepted: Sequence[RequestId],
        attempt: AttemptRow | None,
        moves: Sequence[Move],
        asks: Sequence[Move],
        notes: Mapping[RequestId, int] = _NO_NOTES,
    ) -> Conflict | None:
        """Write request, attempt, claims and asks in one transaction, or nothing and tell why.

        `notes`: how many an accepted request had when it was read. One round trip. Requests accepted before must still
        be open: nothing leaves on behalf of one that was refused or has ended. A claim whose answer was lost is
        recognised by its own attempt or nonce and is a success. Raises LedgerContended if others contend for the rows;
        soon if nothing is claimed, because asks can be written elsewhere.
        """
        updates = {move.after.part: move_message(move) for move in (*moves, *asks) if move.before != move.after}
        requests = {request_id: check_open(request_id, notes.get(request_id, 0)) for request_id in accepted}
        if opened is not None:
            requests = {opened.request_id: put_request(opened)}
        actions = [*updates.values(), *requests.values()]
        if attempt is not None:
            actions.append(put_attempt(attempt))
        tries = (FEW_TRIES,) if asks and attempt is None else ()
        reasons = self._table.transact(actions, *tries) if updates or opened is not None else None
        if reasons is None:
            self._reopen(asks)
            return None
        failed = [reason["Code"] == CONDITION_FAILED for reason in reasons]
        found: list[Item | None] = [reason.get("Item") for reason in reasons]
        messages = zip(updates, failed, found, strict=False)
        others = zip(requests, failed[len(updates) :], found[len(updates) :], strict=False)
        conflict = Conflict(
            {name: self._request(item, opened) for name, item_failed, item in others if item_failed},
            {part: self._message(item) if item else None for part, item_failed, item in messages if item_failed},
        )
        if attempt is not None:
            was_lost = failed[-1]
        else:
            earlier = conflict.requests.get(opened.request_id) if opened is not None else None
            was_lost = opened is not None and earlier is not None and earlier.nonce == opened.nonce
        return None if was_lost else conflict

    def _request(self, item: Item | None, opened: RequestRow | None) -> RequestRow | None:
        """Read a request that refused a claim. One that cannot be read is gone for others, but not for its own POST."""
        if item is None or opened is not None:
            return self._reported(item, request_row) if item else None
        return next(self._readable([item], request_row), None)

    def record(
        self, attempt: AttemptRow, was: AttemptState, moves: Sequence[Move], request: RequestRow | None
    ) -> dict[PostfixPart, MessageRow]:
        """Write a call's outcome; return the messages that are no longer as its writer saw them, as they are.

        In one transaction, one round trip, where nothing has moved meanwhile and nobody contends. Else first and
        durably on the attempt, then on each message that is still as it was seen, and on the request if they all were;
        but a refusal first on the request, since nothing may leave after its caller was told no. An attempt with a
        message that is still to be settled stays open, whatever its writer took it for.
        """
        end, closing = end_attempt(attempt, was), [end_request(request)] if request is not None else []
        with suppress(LedgerContended):
            if self._table.transact([end, *map(move_message, moves), *closing]) is None:
                return {}
        is_refusal = request is not None and request.state is RequestState.REFUSED
        for action in closing if is_refusal else ():
            self._table.write(action)
        # Due again at once: whoever finds the outcome here brings it to the messages that it has not reached.
        self._table.write(end_attempt(attempt, was, stays_open=True))
        others = self._write_each(moves)
        is_settled = not any(
            (row.attempt == attempt.attempt and row.state in UNSETTLED) or not row.is_readable
            for row in others.values()
        )
        if not attempt.is_open and is_settled:
            self._table.write(end_attempt(attempt, attempt.state))
        for action in closing if not others and not is_refusal else ():
            self._table.write(action)
        return others

    def project(self, moves: Sequence[Move]) -> dict[PostfixPart, MessageRow]:
        """Move messages on, 100 in a transaction; return those that were not as they were seen, as they are."""
        others: dict[PostfixPart, MessageRow] = {}
        for start in range(0, len(moves), _TRANSACTION_LIMIT):
            some = moves[start : start + _TRANSACTION_LIMIT]
            if self._table.transact(list(map(move_message, some))) is not None:
                others |= self._write_each(some)
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
        reasons = self._table.transact([action, put_operation(operation)])
        # The operation's own row was there already: written by this very call, whose answer was lost.
        return reasons is None or reasons[1]["Code"] == CONDITION_FAILED

    def close(self, requests: Sequence[RequestRow]) -> None:
        """Close open requests; without effect on those that somebody else closed."""
        self._write_all([end_request(request) for request in requests])

    def cancel(self, request: RequestRow) -> RequestRow | None:
        """Have nothing more claimed for an open request; return it as it is if it is open no more."""
        found = self._table.write(cancel_request(request))
        return self._reported(found, request_row) if found else None

    def note(self, before: RequestRow, after: RequestRow) -> RequestRow | None:
        """Write what lookup and guard made of an open request's ids; return the request if others were quicker.

        An id is ended only while its message is not claimed for this request; and a claim that has not seen what is
        written here does not pass, since it counts the notes.
        """
        known, wanted = checks_item(before), checks_item(after)
        new = [(name, value) for name, value in wanted.items() if name not in known]
        for start in range(0, len(new), _NOTES_AT_ONCE):
            some = dict(new[start : start + _NOTES_AT_ONCE])
            note = note_findings(after, some, wanted, is_first=start == 0)
            unclaimed = [check_not_owner(after, part) for part in ended_parts(after, some)]
            reasons = self._table.transact([note, *unclaimed])
            if reasons is None:
                continue
            found: Item = reasons[0].get("Item", {})
            is_same = found.get("nonce") == {"S": after.nonce}
            is_written = is_same and all(found.get(name) == value for name, value in some.items())
            if not is_written:  # else it was, by this call, whose answer was lost
                items = [found] if found else self._table.read([request_key(after.request_id)])
                return next(self._readable(items, request_row), before)
        return None

    def note_unclaimed(
        self,
        account_id: AccountId,
        parts: Sequence[PostfixPart],
        request_id: RequestId,
        until: datetime,
        facts: Mapping[PostfixPart, Facts] = NO_FACTS,
    ) -> None:
        """Have the trace of messages know who asked for them without a claim, and keep what was read of them."""
        self._note_apart(account_id, [Apart(part, request_id, facts.get(part)) for part in dict.fromkeys(parts)], until)

    def keep_facts(self, account_id: AccountId, facts: Mapping[PostfixPart, Facts], until: datetime) -> None:
        """Keep what was read of messages that nobody asked for by an id of theirs."""
        self._note_apart(account_id, [Apart(part, None, each) for part, each in facts.items()], until)

    def _note_apart(self, account_id: AccountId, notes: Sequence[Apart], until: datetime) -> None:
        """Write notes, each combined with what others have written: what is worse must not be lost to an older reading.

        Raises LedgerContended if others were quicker in every round.
        """
        for round_ in range(_NOTE_ROUNDS):
            at_once = _TRANSACTION_LIMIT if round_ < _NOTE_ROUNDS // 2 else 1  # one that moves holds up the others
            packs = [notes[start : start + at_once] for start in range(0, len(notes), at_once)]
            notes = [each for pack in packs for each in self._left_of(account_id, pack, until)]
            if not notes:
                return
        raise LedgerContended("the notes moved in every round")

    def _left_of(self, account_id: AccountId, notes: Sequence[Apart], until: datetime) -> list[Apart]:
        """Write notes in one round trip if they all may be; return what is left to be written."""
        updates = [note_apart(account_id, each, until) for each in notes]
        with suppress(LedgerContended):
            reasons = self._table.transact(updates) if len(updates) > 1 else None
            if len(updates) > 1:
                refused = [each["Code"] == CONDITION_FAILED for each in reasons or ()]
                found: list[Item] = [each.get("Item", {}) for each in reasons or ()]
                left = zip(notes, refused, found, strict=False)
                return _present(self._with_others(note, item) if no else note for note, no, item in left)
        items = [self._table.write(each) for each in updates]
        others = zip(notes, items, strict=True)
        return _present(self._with_others(note, item) for note, item in others if item is not None)

    def _with_others(self, note: Apart, item: Item) -> Apart | None:
        """Return what is still to be written, given the item that refused a note; None if nothing is.

        Where many have asked no more are named. What cannot be read counts as not clear, whatever is written.
        """
        known = next(self._readable([item], facts_and_asks), None) if item else (None, 0)
        if known is None:
            return None
        told, asks = known
        facts, seen = combined((told, note.facts)), item.get("facts")
        is_new = note.facts is not None and is_news(facts, told)
        name = note.request_id if asks < UNCLAIMED_KEPT else None
        return Apart(note.part, name, facts if is_new else None, seen) if is_new or name is not None else None

    def keep_aliases(
        self, account_id: AccountId, answers: Mapping[str, MessageId], at: datetime, until: datetime
    ) -> None:
        """Keep what questions were answered, so that a repeat needs no search."""
        self._write_all([keep_alias(account_id, *answer, at, until) for answer in answers.items()])

    def look_again(self, rows: Sequence[AttemptRow | RequestRow], at: datetime) -> None:
        """Put open rows off until then; without effect on those that are open no more."""
        self._write_all([put_off(row, at) for row in rows])

    def _write_all(self, updates: Sequence[Write]) -> None:
        """Make updates that have nothing to do with one another, each if it may, in as few round trips as possible."""
        for start in range(0, len(updates), _TRANSACTION_LIMIT):
            some = updates[start : start + _TRANSACTION_LIMIT]
            with suppress(LedgerContended):
                if len(some) > 1 and self._table.transact(some) is None:
                    continue
            for each in some:
                self._table.write(each)

    def reopen(self, rows: Sequence[MessageRow], at: datetime) -> None:
        """Open the attempts of messages under review again, due at `at`. Attempts that are open stay as they are."""
        attempts = {row.attempt: row.account_id for row in rows}
        for account_id in sorted(set(attempts.values())):
            own = [name for name in attempts if attempts[name] == account_id]
            self._write_all([reopen_attempt(each, at, is_closed=True) for each in self.attempts(account_id, own)])

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


def _present(notes: Iterable[Apart | None]) -> list[Apart]:
    return [each for each in notes if each is not None]
