"""The account row of the ledger: counts every call of an account across all processes, and tells all of a pause.

========  ==============  =====================================================================================
item      `pk`            holds
========  ==============  =====================================================================================
account   `A#<account>`   `calls_<slot>`: calls taken in 30 s; `paused_until`; `resumed`: calls since then; `troubles`;
                          `switch`: the pauses that a person has ordered, which `transactions.py` writes
========  ==============  =====================================================================================

Calls are taken in blocks by one atomic addition, whose answer tells what all others have taken: no two processes are
told that the same call is theirs.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from quarantine_release.domain.call_limit import (
    SLOT_SECONDS,
    AccountRow,
    Mark,
    allowed,
    is_past,
    pause_after,
    pause_left,
    slot_of,
    stop_of,
    wait_of,
    wait_of_several,
)
from quarantine_release.domain.ids import AccountId
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.verdicts import Answered, RefusalReason, Refused, Stop
from quarantine_release.ledger.account_row import account_row, calls_name
from quarantine_release.ledger.account_view import AccountView
from quarantine_release.ledger.codecs import Item
from quarantine_release.ledger.keys import account_key
from quarantine_release.ledger.reserved_call import ReservedCall
from quarantine_release.ledger.table import FEW_TRIES, Table
from quarantine_release.ledger.update_expression import UpdateExpression

# So long a block holds, and so long what others wrote may be unknown here: within a second a pause reaches everybody.
_HOLDS: Final = timedelta(seconds=0.9)

# A call must be made within 30 s, because it counts in the slot in which it was bought. A process may stall while it
# buys, so a block that arrives later than this is given back.
_LATEST_BLOCK: Final = timedelta(seconds=SLOT_SECONDS / 3)

_PURCHASES: Final = 3

# A block grows while it is used up, so that a lone call costs a lone call.
_LARGEST_BLOCK: Final = 8


class AccountBudget:
    """The budgets of all accounts, as this process knows them. `marks`: calls allowed in five minutes.

    An account whose row cannot be read has no budget: every method but `reserve` and `heard` raises RowUnreadable,
    after a call of `report`.
    """

    def __init__(
        self,
        table: Table,
        marks: Mapping[Mark, int],
        clock: Callable[[], datetime],
        report: Callable[[RowUnreadable], None] = lambda _: None,
    ) -> None:
        self._report = report
        self._table = table
        self._marks = marks
        self._clock = clock
        self._accounts: dict[AccountId, AccountView] = {}

    def take(self, account_id: AccountId, mark: Mark) -> float:
        """Take one call and return 0, or return for how many seconds none may be made. Raises LedgerUnavailable.

        One round trip where calls are allowed, two where some of the last block are left, none while a block lasts.
        """
        now, known = self._clock(), self._of(account_id)
        limit = min(self._marks[mark], self._marks[Mark.ALL])
        if wait_of(known.row, limit, now) and not self._is_fresh(known.seen_at, now):
            self._look(account_id, known)  # costs nothing of the budget
        wait = wait_of(known.row, limit, now)
        if wait:
            return wait
        if not known.left or not self._is_fresh(known.bought_at, now):
            wait = self._buy_in_time(account_id, known, limit)
            if wait:
                return wait
        known.move(1)
        return 0.0

    def reserve(self, account_id: AccountId, mark: Mark) -> ReservedCall:
        """Return a call that can be taken some time before it is made. It goes back unless it is used."""
        return ReservedCall(partial(self.take, account_id), self._of(account_id), mark, self._clock)

    def wait_for(self, account_id: AccountId, calls: int) -> float:
        """Return the seconds until `calls` calls may be made, or until the whole budget is free if it is smaller.

        No round trip within a second of the last. Raises LedgerUnavailable.
        """
        return wait_of_several(self._recent(account_id), self._marks[Mark.ALL], calls, self._clock())

    def pause_left(self, account_id: AccountId) -> float:
        """Return for how many seconds Cloudflare wants no call. Raises LedgerUnavailable.

        No round trip within a second of the last.
        """
        return pause_left(self._recent(account_id), self._clock())

    def stop_of(self, account_id: AccountId, client: str) -> Stop | None:
        """Return why a person has paused a client's releases, if one has. Raises LedgerUnavailable.

        No round trip within a second of the last, that of `take` included.
        """
        return stop_of(self._recent(account_id), client)

    def heard(self, account_id: AccountId, called: Answered | Refused) -> None:
        """Take note of what a call came to: Cloudflare may want none for a while."""
        known = self._of(account_id)
        rest: float | None = called.retry_after if isinstance(called, Refused) else called.rest
        try:
            if called.calls > 1:
                self._count(account_id, known, called.calls - 1)
            if _is_trouble(called):
                rest = max(pause_after(self._count_trouble(account_id, known)), rest or 0.0)
            elif known.row.troubles and isinstance(called, Answered):
                self._forget_troubles(account_id, known)
            if rest:
                self._pause(account_id, known, self._clock() + timedelta(seconds=rest))
        except LedgerUnavailable:
            if rest:  # what cannot be told to all holds here all the same
                until = self._clock() + timedelta(seconds=rest)
                known.row = replace(known.row, paused_until=max(until, known.row.paused_until or until))

    def _of(self, account_id: AccountId) -> AccountView:
        return self._accounts.setdefault(account_id, AccountView())

    def _recent(self, account_id: AccountId) -> AccountRow:
        known = self._of(account_id)
        if not self._is_fresh(known.seen_at, self._clock()):
            self._look(account_id, known)
        return known.row

    def _is_fresh(self, at: datetime, now: datetime) -> bool:
        return now - at < _HOLDS

    def _look(self, account_id: AccountId, known: AccountView) -> None:
        item = next(self._table.read([account_key(account_id)]), None)
        self._see(known, self._read(item) if item else AccountRow())

    def _buy_in_time(self, account_id: AccountId, known: AccountView, limit: int) -> float:
        """Buy a block and return 0, or return for how many seconds no call may be made. Raises LedgerUnavailable."""
        for _ in range(_PURCHASES):
            now = self._clock()
            self._buy(account_id, known, now)
            wait = wait_of(known.row, limit, now)
            if wait:  # others have taken what there was
                self._give_back(account_id, known, now)
                return wait
            if self._clock() - now < _LATEST_BLOCK:
                return 0.0
        self._give_back(account_id, known, self._clock())
        raise LedgerUnavailable

    def _buy(self, account_id: AccountId, known: AccountView, now: datetime) -> None:
        """Buy a block: a larger one if the last was used up in time."""
        is_used_up = not known.left and self._is_fresh(known.bought_at, now)
        known.block = min(known.block * 2, _LARGEST_BLOCK) if is_used_up else 1
        self._give_back(account_id, known, now)
        calls = max(1, min(known.block, allowed(known.row, self._marks[Mark.ALL], now)))
        update = UpdateExpression({"S": account_key(account_id)})
        update.add(calls_name(slot_of(now)), {"N": str(calls)})
        update.add("resumed", {"N": str(calls)})
        for slot in known.row.calls:
            if is_past(slot, now):
                update.remove(calls_name(slot))
        self._see(known, self._read(self._table.change(update.build())))
        known.bought_at = now
        known.move(-calls)

    def _give_back(self, account_id: AccountId, known: AccountView, now: datetime) -> None:
        """Give back what was bought and not made, unless calls have paused since: then it counts for nothing.

        In a transaction, which has its effect once however often it is sent: a call given back twice is one too many.
        What cannot be given back stays counted.
        """
        left, known.left = known.left, 0
        slot = slot_of(known.bought_at)
        if not left or is_past(slot, now):
            return
        update = UpdateExpression({"S": account_key(account_id)})
        update.add(calls_name(slot), {"N": str(-left)})
        update.add("resumed", {"N": str(-left)})
        paused_until = known.row.paused_until
        if paused_until is None:
            update.require_absent("paused_until")
        else:
            update.require("paused_until", {"N": _milliseconds(paused_until)})
        with suppress(LedgerUnavailable):
            self._table.transact({"given back": {"Update": update.build()}}, FEW_TRIES)

    def _pause(self, account_id: AccountId, known: AccountView, until: datetime) -> None:
        known.row = replace(known.row, paused_until=max(until, known.row.paused_until or until))
        update = UpdateExpression({"S": account_key(account_id)})
        update.set("paused_until", {"N": _milliseconds(until)})
        update.set("resumed", {"N": "0"})
        update.require_absent_or_below("paused_until", {"N": _milliseconds(until)})
        self._table.write({"Update": update.build()})
        known.row = replace(known.row, resumed=0)
        known.left = 0

    def _count(self, account_id: AccountId, known: AccountView, calls: int) -> None:
        """Count calls that were made without being taken before."""
        update = UpdateExpression({"S": account_key(account_id)})
        update.add(calls_name(slot_of(self._clock())), {"N": str(calls)})
        self._see(known, self._read(self._table.change(update.build())))

    def _count_trouble(self, account_id: AccountId, known: AccountView) -> int:
        known.row = replace(known.row, troubles=known.row.troubles + 1)
        update = UpdateExpression({"S": account_key(account_id)})
        update.add("troubles", {"N": "1"})
        self._see(known, self._read(self._table.change(update.build())))
        return known.row.troubles

    def _forget_troubles(self, account_id: AccountId, known: AccountView) -> None:
        update = UpdateExpression({"S": account_key(account_id)})
        update.remove("troubles")
        self._see(known, self._read(self._table.change(update.build())))

    def _read(self, item: Item) -> AccountRow:
        try:
            return account_row(item)
        except RowUnreadable as error:
            self._report(error)
            raise

    def _see(self, known: AccountView, row: AccountRow) -> None:
        """Take over the row as it is, less what is bought and not made. What was bought before a pause is gone."""
        mine, theirs = known.row.paused_until, row.paused_until
        if mine is not None and (theirs is None or theirs < mine):  # a pause that could not be told to all
            row = replace(row, paused_until=mine)
        if row.paused_until != mine:
            known.left = 0
        known.row, known.seen_at = row, self._clock()
        bought = known.left
        if bought:
            known.move(-bought)
            known.left = bought


def _milliseconds(at: datetime) -> str:
    return str(int(at.timestamp() * 1000))


def _is_trouble(called: Answered | Refused) -> bool:
    if isinstance(called, Refused):
        return called.reason is RefusalReason.UNREACHABLE
    return called.evidence.status is None or called.evidence.status >= 500
