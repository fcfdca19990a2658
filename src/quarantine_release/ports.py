"""What the use case needs from outside: the ledger, Cloudflare, time. Owned by the core, kept by the edges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from quarantine_release.outcome import AccountId, Answered, AttemptId, MessageId, PostfixPart, Refused
from quarantine_release.trace import AttemptRow, MessageRow, RequestRow, WireForm
from quarantine_release.transitions import Terms


class LedgerUnavailable(Exception):
    """The ledger could not be read or written. Whether a write landed is not known."""


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
    """What the use case needs of the ledger. Every method raises LedgerUnavailable."""

    def claim(
        self, request: RequestRow | None, attempt: AttemptRow | None, moves: Sequence[Move], asks: Sequence[Move]
    ) -> Conflict | None:
        """Write request, attempt, claims and asks in one transaction, or nothing and tell why."""

    def record(
        self, attempt: AttemptRow, moves: Sequence[Move], request: RequestRow | None
    ) -> Mapping[PostfixPart, MessageRow]:
        """Write a call's outcome on attempt, messages and request; return the messages not its own any more."""

    def close(self, request: RequestRow) -> None:
        """Close an open request; without effect if somebody else did."""

    def messages(self, account_id: AccountId, parts: Sequence[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        """Read messages by their postfix parts; absent ones are left out."""


class Cloudflare(Protocol):
    """What the use case needs of Cloudflare."""

    def release(
        self, account_id: AccountId, wire_form: WireForm, ids: Sequence[MessageId], seconds: float
    ) -> Answered | Refused:
        """Make one release call within so many seconds and say what it proves."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The collaborators of one run. `time_left` in seconds, of this invocation."""

    ledger: Ledger
    cloudflare: Cloudflare
    terms: Terms
    clock: Callable[[], datetime]
    time_left: Callable[[], float]
    new_attempt_id: Callable[[datetime], AttemptId]
    wire_form: WireForm | None = None
