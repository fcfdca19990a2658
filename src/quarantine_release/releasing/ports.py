"""What the use case needs from outside: the ledger, Cloudflare, time. Owned by the core, kept by the edges."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, Self

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, Several, Unclear
from quarantine_release.domain.facts import NO_FACTS, Facts
from quarantine_release.domain.guard import Guard
from quarantine_release.domain.ids import AccountId, AttemptId, MessageId, PostfixPart, RequestId
from quarantine_release.domain.lookup import Kept, Question
from quarantine_release.domain.permit import Permit, as_accepted
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestRow, WireForm
from quarantine_release.domain.transitions import Terms
from quarantine_release.domain.verdicts import Answered, NoEffect, ReadBack, ReadBackTarget, Stop


@dataclass(frozen=True, slots=True)
class Move:
    """One message from the row as seen (None: absent) to the row as wanted; refused if it is no longer as seen."""

    before: MessageRow | None
    after: MessageRow


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a claim was refused as a whole: the rows as they are, None for one that is gone. Nothing was written."""

    requests: Mapping[RequestId, RequestRow | None]
    messages: Mapping[PostfixPart, MessageRow | None]


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """What the ledger knows before a claim. `answers`: the message that each question meant.

    `facts`: what was read of messages that were not claimed. Those of the others are in their rows.
    """

    request: RequestRow | None
    messages: Mapping[PostfixPart, MessageRow]
    answers: Mapping[str, Kept]
    facts: Mapping[PostfixPart, Facts] = field(default_factory=dict)


class Ledger(Protocol):
    """What the use cases need of the ledger. Every method raises LedgerUnavailable."""

    def claim(
        self,
        attempt: AttemptRow,
        moves: Sequence[Move],
        asks: Sequence[Move],
        *,
        opened: RequestRow | None,
        accepted: Mapping[RequestId, int],
    ) -> Conflict | None:
        """Write attempt, claims and asks in one transaction, or nothing and tell why.

        `opened` is accepted by it; those `accepted` before must still be open, not cancelled, and have as many notes.
        """

    def accept(self, request: RequestRow, asks: Sequence[Move] = ()) -> Conflict | None:
        """Write a request without a claim, and the asks for it, in one transaction, or nothing and tell why."""

    def add_requesters(self, asks: Sequence[Move]) -> Conflict | None:
        """Add to those who want messages, in one transaction, or nothing and tell why."""

    def record(
        self, attempt: AttemptRow, was: AttemptState, moves: Sequence[Move], request: RequestRow | None
    ) -> Mapping[PostfixPart, MessageRow]:
        """Write a call's outcome on attempt, messages and request; return the messages not its own any more."""

    def project(self, moves: Sequence[Move]) -> Mapping[PostfixPart, MessageRow]:
        """Move messages on; return those that were not as they were seen, as they are."""

    def close(self, requests: Sequence[RequestRow]) -> None:
        """Close open requests; without effect on those that somebody else closed."""

    def cancel(self, request: RequestRow) -> RequestRow | None:
        """Have nothing more claimed for an open request; return it as it is if it is open no more."""

    def note(self, before: RequestRow, after: RequestRow) -> RequestRow | None:
        """Write what lookup and guard made of an open request's ids; return the request if it is not as it was seen."""

    def note_unclaimed(
        self,
        account_id: AccountId,
        parts: Sequence[PostfixPart],
        request_id: RequestId,
        until: datetime,
        facts: Mapping[PostfixPart, Facts] = NO_FACTS,
    ) -> None:
        """Have the trace of messages know who asked for them without a claim, and keep what was read of them."""

    def keep_facts(self, account_id: AccountId, facts: Mapping[PostfixPart, Facts], until: datetime) -> None:
        """Keep what was read of messages that nobody asked for by an id of theirs."""

    def known(
        self,
        account_id: AccountId,
        request_id: RequestId | None,
        parts: Sequence[PostfixPart],
        questions: Sequence[str],
        read_before: Sequence[PostfixPart] = (),
    ) -> LedgerSnapshot:
        """Read what is known of a request, its messages and its questions, in one go.

        `read_before`: messages of which facts may be kept apart from their rows.
        """

    def keep_aliases(
        self, account_id: AccountId, answers: Mapping[str, MessageId], at: datetime, until: datetime
    ) -> None:
        """Keep what questions were answered, so that a repeat needs no search."""

    def postpone(self, rows: Sequence[AttemptRow | RequestRow], at: datetime) -> None:
        """Put open rows off until then; without effect on those that are open no more."""

    def reopen(self, rows: Sequence[MessageRow], at: datetime) -> None:
        """Open the attempts of messages under review again, due at `at`. Attempts that are open stay as they are."""

    def messages(self, account_id: AccountId, parts: Sequence[PostfixPart]) -> dict[PostfixPart, MessageRow]:
        """Read messages by their postfix parts; absent ones are left out."""

    def requests(self, request_ids: Sequence[RequestId]) -> dict[RequestId, RequestRow]:
        """Read requests; absent ones are left out."""

    def open_attempts(self, until: datetime, limit: int) -> list[AttemptRow]:
        """Read the open attempts that are due by then, at most so many of each shard of the index."""

    def open_requests(self, until: datetime, limit: int) -> list[RequestRow]:
        """Read the open requests that are due by then, at most so many of each shard of the index."""


class Cloudflare(Protocol):
    """What the use case needs of Cloudflare."""

    def release(
        self, account_id: AccountId, wire_form: WireForm, ids: Sequence[MessageId], seconds: float
    ) -> Answered | NoEffect:
        """Make one release call within so many seconds and say what it proves."""


class Reader(Protocol):
    """How to look up at Cloudflare what became of a message."""

    def read(
        self, account_id: AccountId, wanted: Sequence[ReadBackTarget], seconds: float, budget: "Budget"
    ) -> Mapping[PostfixPart, ReadBack]:
        """Read messages within so many seconds and the budget; what is left out is UNREAD."""


class Lookup(Protocol):
    """How to find messages at Cloudflare, and what they are, before they are released."""

    def find(
        self, account_id: AccountId, questions: Sequence[Question], seconds: float, budget: "Budget", mark: "Mark"
    ) -> Mapping[Question, Sequence[Details] | NotRead | Unclear]:
        """Search for what may be meant by each question, at most a few of each; what is left out is NOT_NOW."""

    def look(
        self, account_id: AccountId, ids: Sequence[MessageId], seconds: float, budget: "Budget", mark: "Mark"
    ) -> Mapping[MessageId, Details | Several | NotRead]:
        """Read messages; what is left out is NOT_NOW."""


class Reservation(Protocol):
    """A call that can be taken some time before it is made. Its `with` puts it back at the end unless it was used."""

    @property
    def is_taken(self) -> bool: ...

    def take(self) -> float:
        """Take the call unless it is; return 0, or for how many seconds none may be made. Raises LedgerUnavailable."""

    def use(self) -> float:
        """Return 0 if the call may be made at once, or for how many seconds it may not. Raises LedgerUnavailable."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Budget(Protocol):
    """How many calls an account may still make, and when: the same for all processes."""

    def take(self, account_id: AccountId, mark: Mark) -> float:
        """Take one call and return 0, or return for how many seconds none may be made. Raises LedgerUnavailable."""

    def pause_left(self, account_id: AccountId) -> float:
        """Return for how many seconds Cloudflare wants no call. Raises LedgerUnavailable."""

    def active_pause(self, account_id: AccountId, client: str) -> Stop | None:
        """Return why a person has paused a client's releases, if one has. Raises LedgerUnavailable."""

    def reserve(self, account_id: AccountId, mark: Mark) -> Reservation:
        """Return a call of the account that can be taken before it is made, up to this mark."""

    def wait_for(self, account_id: AccountId, calls: int) -> float:
        """Return the seconds until `calls` calls may be made, or until the whole budget is free if it is smaller.

        Raises LedgerUnavailable.
        """

    def heard(self, account_id: AccountId, called: Answered | NoEffect) -> None:
        """Take note of what a call came to: Cloudflare may want none for a while."""


@dataclass(frozen=True, slots=True)
class Hint:
    """That a request, or a chunk of it, may have something to be released. The rows are the truth."""

    request_id: RequestId
    chunk: int | None = None


class Queue(Protocol):
    """Where hints go. What is lost there is found again by the sweep."""

    def send(self, hints: Sequence[Hint], delay: float = 0.0) -> None:
        """Send hints that are to arrive after so many seconds; a failure is told in the log and nowhere else."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The collaborators of one run. `time_left` in seconds, of this invocation; `pause` waits for so many.

    `permit` says what a client may still do of what it asked for; it raises nothing.
    """

    ledger: Ledger
    cloudflare: Cloudflare
    reader: Reader
    budget: Budget
    queue: Queue
    terms: Terms
    clock: Callable[[], datetime]
    time_left: Callable[[], float]
    new_attempt_id: Callable[[datetime], AttemptId]
    lookup: Lookup
    guard: Guard
    pause: Callable[[float], None]
    wire_form: WireForm | None = None
    permit: Callable[[RequestRow], Permit] = as_accepted
