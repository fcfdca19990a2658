"""What a process knows of an account's calls: all that were bought, and its own that are not made yet. Pure."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from quarantine_release.domain.call_limit import AccountRow, find_slot

_LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Block:
    """What tells the block that a call belongs to: when it was bought, and the pause that was known then."""

    bought_at: datetime
    paused_until: datetime | None


@dataclass(slots=True)
class AccountView:
    """What this process knows of an account: the row without the calls it has bought and not made, and these."""

    row: AccountRow = field(default_factory=AccountRow)
    seen_at: datetime = _LONG_AGO
    bought_at: datetime = _LONG_AGO
    block: int = 1
    left: int = 0

    @property
    def block_at_hand(self) -> Block:
        return Block(self.bought_at, self.row.paused_until)

    def move(self, calls: int) -> None:
        """Count so many of the calls that were bought as made."""
        slot = find_slot(self.bought_at)
        counted = {**self.row.calls, slot: self.row.calls.get(slot, 0) + calls}
        self.row = replace(self.row, calls=counted, resumed=self.row.resumed + calls)
        self.left -= calls

    def is_of_block(self, block: Block) -> bool:
        """Whether a call of `block` is counted in the same slot, and after the same pause, as the block at hand.

        If it is not, putting it into that block would hide a call that was made.
        """
        is_same_slot = find_slot(block.bought_at) == find_slot(self.bought_at)
        return is_same_slot and block.paused_until == self.row.paused_until

    def see(self, row: AccountRow, now: datetime) -> None:
        """Take over the row as it is, less what is bought and not made. What was bought before a pause is gone."""
        mine, theirs = self.row.paused_until, row.paused_until
        if mine is not None and (theirs is None or theirs < mine):  # a pause that could not be told to all
            row = replace(row, paused_until=mine)
        if row.paused_until != mine:
            self.left = 0
        self.row, self.seen_at = row, now
        bought = self.left
        if bought:
            self.move(-bought)
            self.left = bought

    def pause(self, until: datetime) -> None:
        """Know of a pause until then, or of the longer one that is known already."""
        self.row = replace(self.row, paused_until=max(until, self.row.paused_until or until))
