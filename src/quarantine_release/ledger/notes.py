"""What lookup and guard found out, kept: on requests, next to messages, and as the answers to questions."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Final

from quarantine_release.domain.facts import NO_FACTS, Facts, combined, is_news
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, RequestId, message_key
from quarantine_release.domain.ledger_errors import LedgerContended
from quarantine_release.domain.rows import RequestRow
from quarantine_release.ledger.codecs import Item
from quarantine_release.ledger.items import facts_and_asks, request_row
from quarantine_release.ledger.keys import request_key
from quarantine_release.ledger.note_writes import (
    UNCLAIMED_KEPT,
    Apart,
    check_not_owner,
    keep_alias,
    note_apart,
    note_findings,
)
from quarantine_release.ledger.reads import LedgerReads
from quarantine_release.ledger.request_checks import checks_item, ended_parts
from quarantine_release.ledger.table import TRANSACTION_LIMIT

# Notes of one request in one update, since an expression may have 4 KB (DynamoDB developer guide, "Quotas").
_NOTES_AT_ONCE: Final = 40

# Rounds in which a note that others overtake is written again, with theirs; the second half one by one.
_NOTE_ROUNDS: Final = 8


class LedgerNotes(LedgerReads):
    """The ledger to those who look up and judge."""

    def note(self, before: RequestRow, after: RequestRow) -> RequestRow | None:
        """Write what lookup and guard made of an open request's ids; return the request if others were quicker.

        An id is ended only while its message is not claimed for this request; and a claim that has not seen what is
        written here does not pass, since it counts the notes.
        """
        seen, wanted = checks_item(before), checks_item(after)
        new = [(name, value) for name, value in wanted.items() if name not in seen]
        for start in range(0, len(new), _NOTES_AT_ONCE):
            batch = dict(new[start : start + _NOTES_AT_ONCE])
            own_key = request_key(after.request_id)
            unclaimed = {
                message_key(after.account_id, part): check_not_owner(after, part) for part in ended_parts(after, batch)
            }
            note = note_findings(after, batch, wanted, is_first=start == 0)
            refused = self._table.transact({own_key: note, **unclaimed})
            if refused is None:
                continue
            item = refused.get(own_key, {})
            is_same = item.get("nonce") == {"S": after.nonce}
            is_written = is_same and all(item.get(name) == value for name, value in batch.items())
            if not is_written:  # else it was, by this call, whose answer was lost
                items = [item] if item else self._table.read([own_key])
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
        self._note_apart(account_id, [Apart(part, None, read) for part, read in facts.items()], until)

    def _note_apart(self, account_id: AccountId, notes: Sequence[Apart], until: datetime) -> None:
        """Write notes, each combined with what others have written: what is worse must not be lost to an older reading.

        Raises LedgerContended if others were quicker in every round.
        """
        for round_ in range(_NOTE_ROUNDS):
            at_once = TRANSACTION_LIMIT if round_ < _NOTE_ROUNDS // 2 else 1  # one that moves holds up the others
            packs = [notes[start : start + at_once] for start in range(0, len(notes), at_once)]
            notes = [note for pack in packs for note in self._left_of(account_id, pack, until)]
            if not notes:
                return
        raise LedgerContended("the notes moved in every round")

    def _left_of(self, account_id: AccountId, notes: Sequence[Apart], until: datetime) -> list[Apart]:
        """Write notes in one round trip if they all may be; return what is left to be written."""
        updates = dict(enumerate(note_apart(account_id, note, until) for note in notes))
        with suppress(LedgerContended):
            if len(updates) > 1:
                refused = self._table.transact(updates)
                return self._with_refusals(notes, refused) if refused is not None else []
        items = {number: self._table.write(update) for number, update in updates.items()}
        others = [self._with_others(notes[number], item) for number, item in items.items() if item is not None]
        return [note for note in others if note is not None]

    def _with_refusals(self, notes: Sequence[Apart], refused: Mapping[int, Item]) -> list[Apart]:
        """Return what is still to be written after a transaction that these items have refused."""
        left = [
            self._with_others(note, refused[number]) if number in refused else note for number, note in enumerate(notes)
        ]
        return [note for note in left if note is not None]

    def _with_others(self, note: Apart, item: Item) -> Apart | None:
        """Return what is still to be written, given the item that refused a note; None if nothing is.

        Where many have asked no more are named. What cannot be read counts as not clear, whatever is written.
        """
        written = next(self._readable([item], facts_and_asks), None) if item else (None, 0)
        if written is None:
            return None
        earlier, asks = written
        facts, seen = combined((earlier, note.facts)), item.get("facts")
        is_new = note.facts is not None and is_news(facts, earlier)
        name = note.request_id if asks < UNCLAIMED_KEPT else None
        return Apart(note.part, name, facts if is_new else None, seen) if is_new or name is not None else None

    def keep_aliases(
        self, account_id: AccountId, answers: Mapping[str, MessageId], at: datetime, until: datetime
    ) -> None:
        """Keep what questions were answered, so that a repeat needs no search."""
        self._table.write_all([keep_alias(account_id, *answer, at, until) for answer in answers.items()])
