"""What the use case needs from outside: the ledger, Cloudflare, time. Owned by the core, kept by the edges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quarantine_release.outcome import (
    AccountId,
    Answered,
    AttemptId,
    MessageId,
    PostfixPart,
    Reading,
    Refused,
    RequestId,
    Wanted,
)
from quarantine_release.trace import AttemptRow, AttemptState, MessageRow, RequestRow, WireForm
from quarantine_release.transitions import Terms


class LedgerUnavailable(Exception):
    """The ledger could not be read or written. Whether a write landed is not known."""


class LedgerContended(LedgerUnavailable):
    """A transaction did not pass, for what others do or for its size: its writes may pass one by one."""


@dataclass(frozen=True, slots=True)
class Move:
    """One message from the row as seen (None: absent) to the row as wanted; refused if it is no longer as seen."""

    before: MessageRow | None
    after: MessageRow


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a claim was refused as a whole: the rows as they are. Nothing was written."""

    request: RequestRow | None
    messages: Mapping[PostfixPart, MessageRow | None]


class Ledger(Protocol):
    """What the use cases need of the ledger. Every method raises LedgerUnavailable."""

    def claim(
        self,
        opened: RequestRow | None,
        accepted: Sequence[RequestId],
        attempt: AttemptRow | None,
        moves: Sequence[Move],
        asks: Sequence[Move],
    ) -> Conflict | None:
        """Write request, attempt, claims and asks in one transaction, or nothing and tell why.

        `opened` is accepted by it; those accepted before must still be open.
        """

    def record(
        self, attempt: AttemptRow, was: AttemptState, moves: Sequence[Move], request: RequestRow | None
    ) -> Mapping[PostfixPart, MessageRow]:
        """Write a call's outcome on attempt, messages and request; return the messages not its own any more."""

    def project(self, moves: Sequence[Move]) -> Mapping[PostfixPart, MessageRow]:
        """Move messages on; return those that were not as they were seen, as they are."""

    def close(self, request: RequestRow) -> None:
        """Close an open request; without effect if somebody else did."""

    def look_again(self, row: AttemptRow | RequestRow, at: datetime) -> None:
        """Put an open row off until then; without effect if it is open no more."""

    def messages(self, account_id: AccountId, parts: Sequence[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        """Read messages by their postfix parts; absent ones are left out."""

    def open_attempts(self, until: datetime, limit: int) -> list[AttemptRow]:
        """Read the open attempts that are due by then, at most so many of each shard of the index."""

    def open_requests(self, until: datetime, limit: int) -> list[RequestRow]:
        """Read the open requests that are due by then, at most so many of each shard of the index."""


class Cloudflare(Protocol):
    """What the use case needs of Cloudflare."""

    def release(
        self, account_id: AccountId, wire_form: WireForm, ids: Sequence[MessageId], seconds: float
    ) -> Answered | Refused:
        """Make one release call within so many seconds and say what it proves."""


class Reader(Protocol):
    """How to look up at Cloudflare what became of a message."""

    def read(self, account_id: AccountId, wanted: Sequence[Wanted], seconds: float) -> Mapping[PostfixPart, Reading]:
        """Read messages within so many seconds; what is left out is UNREAD."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The collaborators of one run. `time_left` in seconds, of this invocation."""

    ledger: Ledger
    cloudflare: Cloudflare
    reader: Reader
    terms: Terms
    clock: Callable[[], datetime]
    time_left: Callable[[], float]
    new_attempt_id: Callable[[datetime], AttemptId]
    wire_form: WireForm | None = None
