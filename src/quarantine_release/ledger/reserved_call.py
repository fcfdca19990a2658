"""A call that is taken some time before it is made, and goes back if it is not made after all. Pure."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from quarantine_release.domain.call_limit import SLOT_SECONDS, Mark
from quarantine_release.ledger.account_view import AccountView, Block

# A call counts in the slot in which it was bought, for five minutes and one slot more. So it must be made within 30 s,
# and a reserved call that is older than this is bought again, because a worker reads before it releases.
_LATEST_CALL: Final = timedelta(seconds=SLOT_SECONDS / 2)


@dataclass(slots=True)
class ReservedCall:
    """At most one call of an account. `take_one` takes one up to a mark, and returns the seconds to wait if it may not.

    `view` is what this process knows of the account.
    """

    take_one: Callable[[Mark], float]
    view: AccountView
    mark: Mark
    clock: Callable[[], datetime]
    block: Block | None = None
    is_used: bool = False

    @property
    def is_taken(self) -> bool:
        return self.block is not None

    def take(self) -> float:
        """Take the call and return 0, or return for how many seconds none may be made. Raises LedgerUnavailable.

        A call that is taken already is not taken twice.
        """
        return 0.0 if self.is_taken else self._take(self.mark)

    def use(self) -> float:
        """Return 0 if the call may be made at once, or for how many seconds it may not. Raises LedgerUnavailable.

        A call that was taken 15 s ago is bought again, because it counts where it was bought.
        """
        is_old = self.block is None or self.clock() - self.block.bought_at >= _LATEST_CALL
        wait = self._take(Mark.ALL) if is_old else 0.0
        self.is_used = not wait
        return wait

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Put the call back unless it was used.

        It stays counted if it was bought in another slot than the block at hand, or if calls have paused since.
        """
        if not self.is_used and self.block is not None and self.view.is_of_block(self.block):
            self.view.move(-1)
        self.block = None

    def _take(self, mark: Mark) -> float:
        wait = self.take_one(mark)
        if not wait:
            self.block = self.view.block_at_hand
        return wait
