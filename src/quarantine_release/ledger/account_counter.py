"""The writes to an account's row that count its calls, each one addition or one condition, and what the row is then.

Calls are bought by one atomic addition, whose answer tells what all others have bought: no two processes are told that
the same call is theirs.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime

from quarantine_release.domain.call_limit import AccountRow, find_slot, is_past
from quarantine_release.domain.ids import AccountId
from quarantine_release.domain.ledger_errors import LedgerUnavailable, RowUnreadable
from quarantine_release.ledger.account_row import account_row, calls_name
from quarantine_release.ledger.codecs import Item
from quarantine_release.ledger.keys import account_key
from quarantine_release.ledger.table import FEW_TRIES, Table
from quarantine_release.ledger.update_expression import UpdateExpression


class AccountCounter:
    """The rows of all accounts. Every method raises LedgerUnavailable, but `give_back`, which is best effort.

    `report` is called for a row that cannot be read, which raises RowUnreadable.
    """

    def __init__(self, table: Table, report: Callable[[RowUnreadable], None]) -> None:
        self._table = table
        self._report = report

    def read(self, account_id: AccountId) -> AccountRow:
        item = next(self._table.read([account_key(account_id)]), None)
        return self._decoded(item) if item else AccountRow()

    def buy(self, account_id: AccountId, calls: int, known: AccountRow, now: datetime) -> AccountRow:
        """Count calls that are to be made, and drop the slots of the `known` row that are past."""
        update = _update(account_id)
        update.add(calls_name(find_slot(now)), {"N": str(calls)})
        update.add("resumed", {"N": str(calls)})
        for slot in known.calls:
            if is_past(slot, now):
                update.remove(calls_name(slot))
        return self._changed(update)

    def give_back(self, account_id: AccountId, calls: int, slot: int, paused_until: datetime | None) -> None:
        """Give back calls that were bought in a slot and not made, unless calls have paused since.

        In a transaction, which has its effect once however often it is sent: a call given back twice is one too many.
        What cannot be given back stays counted.
        """
        update = _update(account_id)
        update.add(calls_name(slot), {"N": str(-calls)})
        update.add("resumed", {"N": str(-calls)})
        if paused_until is None:
            update.require_absent("paused_until")
        else:
            update.require("paused_until", {"N": _milliseconds(paused_until)})
        with suppress(LedgerUnavailable):
            self._table.transact({"given back": {"Update": update.build()}}, FEW_TRIES)

    def pause(self, account_id: AccountId, until: datetime) -> None:
        """Tell all that no call may be made until then, unless they pause for longer already."""
        update = _update(account_id)
        update.set("paused_until", {"N": _milliseconds(until)})
        update.set("resumed", {"N": "0"})
        update.require_absent_or_below("paused_until", {"N": _milliseconds(until)})
        self._table.write({"Update": update.build()})

    def count(self, account_id: AccountId, calls: int, now: datetime) -> AccountRow:
        """Count calls that were made without being bought before."""
        update = _update(account_id)
        update.add(calls_name(find_slot(now)), {"N": str(calls)})
        return self._changed(update)

    def count_trouble(self, account_id: AccountId) -> AccountRow:
        """Count a call that came to nothing."""
        update = _update(account_id)
        update.add("troubles", {"N": "1"})
        return self._changed(update)

    def forget_troubles(self, account_id: AccountId) -> AccountRow:
        update = _update(account_id)
        update.remove("troubles")
        return self._changed(update)

    def _changed(self, update: UpdateExpression) -> AccountRow:
        return self._decoded(self._table.change(update.build()))

    def _decoded(self, item: Item) -> AccountRow:
        try:
            return account_row(item)
        except RowUnreadable as error:
            self._report(error)
            raise


def _update(account_id: AccountId) -> UpdateExpression:
    return UpdateExpression({"S": account_key(account_id)})


def _milliseconds(at: datetime) -> str:
    return str(int(at.timestamp() * 1000))
