"""The account row of the ledger: counts every call of an account across all processes, and tells all of a pause.

========  ==============  =====================================================================================
item      `pk`            holds
========  ==============  =====================================================================================
account   `A#<account>`   `calls_<slot>`: calls taken in 30 s; `paused_until`; `resumed`: calls since then; `troubles`;
                          `switch`: the pauses that a person has ordered, which `transactions.py` writes
========  ==============  =====================================================================================

Calls are taken in blocks, which `account_counter.py` buys.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Final

from quarantine_release.domain.call_limit import (
    SLOT_SECONDS,
    AccountRow,
    Mark,
    active_pause,
    allowed,
    find_slot,
    is_past,
    pause_after,
    pause_left,
    seconds_to_wait,
    seconds_until_free,
)
from quarantine_release.domain.ids import AccountId
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.domain.verdicts import Answered, NoEffect, RefusalReason, Stop
from quarantine_release.ledger.account_counter import AccountCounter
from quarantine_release.ledger.account_view import AccountView
from quarantine_release.ledger.reserved_call import ReservedCall
from quarantine_release.ledger.table import Table

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
        self._counter = AccountCounter(table, report)
        self._marks = marks
        self._clock = clock
        self._accounts: dict[AccountId, AccountView] = {}

    def take(self, account_id: AccountId, mark: Mark) -> float:
        """Take one call and return 0, or return for how many seconds none may be made. Raises LedgerUnavailable.

        One round trip where calls are allowed, two where some of the last block are left, none while a block lasts.
        """
        now, view = self._clock(), self._of(account_id)
        limit = min(self._marks[mark], self._marks[Mark.ALL])
        if seconds_to_wait(view.row, limit, now) and not self._is_fresh(view.seen_at, now):
            self._look(account_id, view)  # costs nothing of the budget
        wait = seconds_to_wait(view.row, limit, now)
        if wait:
            return wait
        if not view.left or not self._is_fresh(view.bought_at, now):
            wait = self._buy_in_time(account_id, view, limit)
            if wait:
                return wait
        view.move(1)
        return 0.0

    def reserve(self, account_id: AccountId, mark: Mark) -> ReservedCall:
        """Return a call that can be taken some time before it is made. It goes back unless it is used."""
        return ReservedCall(partial(self.take, account_id), self._of(account_id), mark, self._clock)

    def wait_for(self, account_id: AccountId, calls: int) -> float:
        """Return the seconds until `calls` calls may be made, or until the whole budget is free if it is smaller.

        No round trip within a second of the last. Raises LedgerUnavailable.
        """
        return seconds_until_free(self._recent(account_id), self._marks[Mark.ALL], calls, self._clock())

    def pause_left(self, account_id: AccountId) -> float:
        """Return for how many seconds Cloudflare wants no call. Raises LedgerUnavailable.

        No round trip within a second of the last.
        """
        return pause_left(self._recent(account_id), self._clock())

    def active_pause(self, account_id: AccountId, client: str) -> Stop | None:
        """Return why a person has paused a client's releases, if one has. Raises LedgerUnavailable.

        No round trip within a second of the last, that of `take` included.
        """
        return active_pause(self._recent(account_id), client)

    def heard(self, account_id: AccountId, called: Answered | NoEffect) -> None:
        """Take note of what a call came to: Cloudflare may want none for a while."""
        view = self._of(account_id)
        rest: float | None = called.retry_after if isinstance(called, NoEffect) else called.rest
        try:
            if called.calls > 1:
                view.see(self._counter.count(account_id, called.calls - 1, self._clock()), self._clock())
            if _is_trouble(called):
                rest = max(pause_after(self._count_trouble(account_id, view)), rest or 0.0)
            elif view.row.troubles and isinstance(called, Answered):
                view.see(self._counter.forget_troubles(account_id), self._clock())
            if rest:
                self._pause(account_id, view, self._clock() + timedelta(seconds=rest))
        except LedgerUnavailable:
            if rest:  # what cannot be told to all holds here all the same
                view.pause(self._clock() + timedelta(seconds=rest))

    def _of(self, account_id: AccountId) -> AccountView:
        return self._accounts.setdefault(account_id, AccountView())

    def _recent(self, account_id: AccountId) -> AccountRow:
        view = self._of(account_id)
        if not self._is_fresh(view.seen_at, self._clock()):
            self._look(account_id, view)
        return view.row

    def _is_fresh(self, at: datetime, now: datetime) -> bool:
        return now - at < _HOLDS

    def _look(self, account_id: AccountId, view: AccountView) -> None:
        view.see(self._counter.read(account_id), self._clock())

    def _buy_in_time(self, account_id: AccountId, view: AccountView, limit: int) -> float:
        """Buy a block and return 0, or return for how many seconds no call may be made. Raises LedgerUnavailable."""
        for _ in range(_PURCHASES):
            now = self._clock()
            self._buy(account_id, view, now)
            wait = seconds_to_wait(view.row, limit, now)
            if wait:  # others have taken what there was
                self._give_back(account_id, view, now)
                return wait
            if self._clock() - now < _LATEST_BLOCK:
                return 0.0
        self._give_back(account_id, view, self._clock())
        raise LedgerUnavailable

    def _buy(self, account_id: AccountId, view: AccountView, now: datetime) -> None:
        """Buy a block: a larger one if the last was used up in time."""
        is_used_up = not view.left and self._is_fresh(view.bought_at, now)
        view.block = min(view.block * 2, _LARGEST_BLOCK) if is_used_up else 1
        self._give_back(account_id, view, now)
        calls = max(1, min(view.block, allowed(view.row, self._marks[Mark.ALL], now)))
        view.see(self._counter.buy(account_id, calls, view.row, now), self._clock())
        view.bought_at = now
        view.move(-calls)

    def _give_back(self, account_id: AccountId, view: AccountView, now: datetime) -> None:
        """Give back what was bought and not made, unless calls have paused since: then it counts for nothing."""
        left, view.left = view.left, 0
        slot = find_slot(view.bought_at)
        if left and not is_past(slot, now):
            self._counter.give_back(account_id, left, slot, view.row.paused_until)

    def _pause(self, account_id: AccountId, view: AccountView, until: datetime) -> None:
        view.pause(until)
        self._counter.pause(account_id, until)
        view.row = replace(view.row, resumed=0)
        view.left = 0

    def _count_trouble(self, account_id: AccountId, view: AccountView) -> int:
        view.row = replace(view.row, troubles=view.row.troubles + 1)
        view.see(self._counter.count_trouble(account_id), self._clock())
        return view.row.troubles


def _is_trouble(called: Answered | NoEffect) -> bool:
    if isinstance(called, NoEffect):
        return called.reason is RefusalReason.UNREACHABLE
    return called.evidence.status is None or called.evidence.status >= 500
