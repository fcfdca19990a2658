"""How the ledger fails: it cannot be reached, others write the same rows, or a row cannot be read."""

from collections.abc import Sequence

from quarantine_release.domain.ids import MessageId


class LedgerUnavailable(Exception):
    """The ledger could not be read or written. Whether a write landed is not known."""


class LedgerContended(LedgerUnavailable):
    """A transaction did not pass, for what others do or for its size: its writes may pass one by one."""


class RowUnreadable(LedgerUnavailable):
    """A row is there and cannot be read: a newer version wrote it, or it is damaged. It is left as it is.

    `why` is a version or the class of an error, never content. `ids` are those of the caller that the row is about.
    """

    def __init__(self, key: str, why: str, ids: Sequence[MessageId] = ()) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.why = why
        self.ids = tuple(ids)

    @property
    def kind(self) -> str:
        """Return the letter of the row's kind, as in the table of `transactions.py`."""
        return self.key[:1]
