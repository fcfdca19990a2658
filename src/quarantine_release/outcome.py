"""The vocabulary: ids, the states of a message and their legal transitions, verdicts, and the outcomes a caller sees.

Imports nothing of ours, so that every other module can speak these words.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Final, NewType

AccountId = NewType("AccountId", str)
MessageId = NewType("MessageId", str)
PostfixPart = NewType("PostfixPart", str)
RequestId = NewType("RequestId", str)
AttemptId = NewType("AttemptId", str)
OperationId = NewType("OperationId", str)

# Read off Cloudflare's published examples (API reference, email-security/investigate): no pattern is specified.
POSTFIX_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}\Z")
ALERT_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\Z", re.ASCII)
ID_CHARACTERS: Final = re.compile(r"\A[A-Za-z0-9._:-]{8,128}\Z")
# The ledger could know a message by two keys if a Postfix id of another length counted: one key for the bare id, and
# one for each id that has a timestamp. So a leading run of 10 to 24 is the only one that may be alone or before one.
ANY_ID: Final = re.compile(
    r"\A(?!([A-Za-z0-9]{0,9}|[A-Za-z0-9]{25,})(\Z|-[0-9]{4}-[0-9]{2}-[0-9]{2}T))[A-Za-z0-9._:-]{8,128}\Z"
)
# A Message-ID as the sender wrote it, in its angle brackets (RFC 5322, section 3.6.4, and what senders make of it).
HEADER_ID: Final = re.compile(r"\A<[\x21-\x3b\x3d\x3f-\x7e]{1,250}>\Z")
REQUEST_ID: Final = re.compile(r"\Arq_[a-z2-7]{26}\Z")
_LEADING_POSTFIX_ID: Final = re.compile(r"\A[A-Za-z0-9]{10,24}(?![A-Za-z0-9])")


@lru_cache(maxsize=4096)
def postfix_part(message_id: MessageId) -> PostfixPart:
    """Return the part of an id that names the message whatever shape the caller used: the ledger's key.

    It is the key of every shape only for ids that `has_one_key` accepts.
    """
    leading = None if is_header(message_id) else _LEADING_POSTFIX_ID.match(message_id)
    return PostfixPart(leading.group() if leading else message_id)


def has_one_key(message_id: MessageId) -> bool:
    """Version 4c3b95d accepted other ids too, for which one message could have two rows."""
    return is_header(message_id) or ANY_ID.match(message_id) is not None


def is_header(message_id: MessageId) -> bool:
    """Say whether an id is a Message-ID, of which only a search tells what message it means."""
    return message_id.startswith("<") or "@" in message_id


def is_bare(message_id: MessageId) -> bool:
    """Say whether an id is a bare postfix id, without timestamp and digits."""
    return POSTFIX_ID.match(message_id) is not None


def contradict(one: MessageId, other: MessageId) -> bool:
    """Say whether two ids with the same postfix part name different messages: they differ in timestamp or digits."""
    if is_bare(one) or is_bare(other):
        return False
    shorter, longer = sorted((one, other))  # what an id begins with comes before it
    return longer != shorter and not longer.startswith(f"{shorter}-")


def fullest(ids: Iterable[MessageId]) -> MessageId:
    """Return the id that says most of its message: the longest."""
    return max(ids, key=len)


class State(StrEnum):
    """Where a message stands in the ledger."""

    RELEASING = "RELEASING"
    RELEASED = "RELEASED"
    PARTIAL = "PARTIAL"
    FAILED = "FAILED"
    RETRYABLE = "RETRYABLE"
    UNKNOWN = "UNKNOWN"
    NEEDS_REVIEW = "NEEDS_REVIEW"
    # Never stored: the row is there and cannot be read. Nobody may claim, change or close anything by it.
    UNREADABLE = "UNREADABLE"


# A call may yet turn out to have had an effect: only a read may say.
UNSETTLED: Final = frozenset({State.RELEASING, State.UNKNOWN, State.NEEDS_REVIEW})

# The legal transitions; None is a message that the ledger does not know. A state in FINAL changes only by force.
TRANSITIONS: Final[dict[State | None, frozenset[State]]] = {
    None: frozenset({State.RELEASING}),
    State.RELEASING: frozenset(set(State) - {State.RELEASING, State.UNREADABLE}),
    State.UNKNOWN: frozenset({State.RELEASED, State.PARTIAL, State.FAILED, State.RETRYABLE, State.NEEDS_REVIEW}),
    State.RETRYABLE: frozenset({State.RELEASING, State.NEEDS_REVIEW}),
    State.RELEASED: frozenset({State.RELEASING}),
    State.PARTIAL: frozenset({State.RELEASING}),
    State.FAILED: frozenset({State.RELEASING}),
    State.NEEDS_REVIEW: frozenset({State.RELEASING, State.RELEASED, State.PARTIAL, State.FAILED, State.RETRYABLE}),
    State.UNREADABLE: frozenset(),
}
FINAL: Final = frozenset({State.RELEASED, State.PARTIAL, State.FAILED, State.NEEDS_REVIEW})
# Only these may be forgotten: an expired row is a permission to release again.
EXPIRING: Final = frozenset({State.RELEASED, State.PARTIAL, State.FAILED})


class Code(StrEnum):
    """Why a message stands where it stands, in the ledger and in the results; stable, for playbooks to branch on."""

    CLOUDFLARE_REJECTED = "cloudflare_rejected"
    NOT_DELIVERED = "not_delivered"
    PARTLY_DELIVERED = "partly_delivered"
    NOT_ATTEMPTED = "not_attempted"
    ID_CONFLICT = "id_conflict"
    NO_ANSWER = "no_answer"
    UNCLEAR_ANSWER = "unclear_answer"
    MISSING_IN_ANSWER = "missing_in_answer"
    CALL_REJECTED = "call_rejected"
    NO_RECIPIENTS = "no_recipients_in_answer"
    UNSETTLED = "unsettled"
    DISPOSITION_NOT_ALLOWED = "disposition_not_allowed"
    MESSAGE_TOO_OLD = "message_too_old"
    RECIPIENT_NOT_ALLOWED = "recipient_not_allowed"
    GUARD_UNAVAILABLE = "guard_unavailable"
    GUARD_CANNOT_READ = "guard_cannot_read"
    LOOKUP_UNAVAILABLE = "lookup_unavailable"
    ALREADY_DELIVERED = "already_delivered"
    NOTHING_HELD = "nothing_held"
    SEVERAL_MATCHES = "several_matches"
    COUNT_DIFFERS = "count_differs"


def may_claim(state: State | None, code: Code | None, *, force: bool) -> bool:
    """Say whether a request may release a message in this state: never while a call may be under way."""
    if state is None or state is State.RETRYABLE:
        return True
    if state is State.FAILED and code is Code.CLOUDFLARE_REJECTED:
        return True
    return force and state in FINAL


RECIPIENTS_KEPT: Final = 20
_RECIPIENT_LENGTH: Final = 320  # RFC 3696 erratum 1690: 64 + @ + 255


@dataclass(frozen=True, slots=True)
class Recipients:
    """Per-recipient result of one message: at most 20 names a list, and how many there were."""

    delivered: tuple[str, ...] = ()
    undelivered: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    counts: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(
        cls, delivered: Iterable[str] = (), undelivered: Iterable[str] = (), failed: Iterable[str] = ()
    ) -> "Recipients":
        """Keep what a row can hold; the counts stay exact."""
        lists = [list(dict.fromkeys(names)) for names in (delivered, undelivered, failed)]
        kept = [tuple(name[:_RECIPIENT_LENGTH] for name in names[:RECIPIENTS_KEPT]) for names in lists]
        return cls(kept[0], kept[1], kept[2], (len(lists[0]), len(lists[1]), len(lists[2])))

    @property
    def unnamed(self) -> "Recipients":
        """Return the counts alone."""
        return Recipients(counts=self.counts)

    @property
    def truncated(self) -> bool:
        """Say whether there were more recipients than are named."""
        return self.counts != (len(self.delivered), len(self.undelivered), len(self.failed))


NO_RECIPIENTS: Final = Recipients()


@dataclass(frozen=True, slots=True)
class Evidence:
    """How we know: what one call to Cloudflare came to. No body, no header but `cf-ray`, no message text.

    `seen` is what a later read showed of the message, where the call itself told nothing; with `operation` no read
    showed it, but a person said so.
    """

    status: int | None = None
    error_codes: tuple[int, ...] = ()
    cf_ray: str | None = None
    failure: str | None = None
    seen: "Seen | None" = None
    operation: OperationId | None = None


class Seen(StrEnum):
    """What a read of Cloudflare shows of a message. PARTIAL: its action log shows a release that missed a recipient."""

    RELEASED = "released"
    PARTIAL = "partially_released"
    QUARANTINED = "quarantined"
    UNCLEAR = "unclear"
    ABSENT = "absent"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A message to be read. With `since`, only a release that began after it counts: the message was forced.

    Without `may_free`, "still quarantined" would not count yet, so no call is spent on making sure of it. `candidates`
    are other ids that may be the message's.
    """

    part: PostfixPart
    message_id: MessageId
    since: datetime | None = None
    may_free: bool = True
    candidates: tuple[MessageId, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What one message looked like; UNREAD proves nothing, ABSENT only that it cannot be read under this id.

    `recipients` are those that an action log names.
    """

    seen: Seen
    evidence: Evidence
    message_id: MessageId | None = None
    recipients: Recipients = NO_RECIPIENTS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one call proves about one message: RELEASED, PARTIAL, FAILED, or UNKNOWN where it proves nothing."""

    state: State
    code: Code | None = None
    recipients: Recipients = NO_RECIPIENTS
    message_id: MessageId | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """That releases are paused by a person, of an account or of one client of it; callers are shown the reason."""

    reason: str
    by: str
    since: datetime
    operation: OperationId


class RefusalReason(StrEnum):
    """Why a call was provably without effect."""

    CREDENTIALS = "cloudflare_credentials_refused"
    RATE_LIMITED = "cloudflare_rate_limited"
    CALL_REJECTED = "cloudflare_call_rejected"
    UNREACHABLE = "cloudflare_unreachable"
    NO_TIME = "not_enough_time"
    PAUSED = "releases_paused"
    NOT_SEARCHABLE_YET = "message_not_searchable_yet"


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that went out. An id without a verdict has the verdict UNKNOWN; ids not asked for are only counted.

    `rest` in seconds: for how long Cloudflare wants few calls or none. `calls` is how many it took.
    """

    verdicts: Mapping[MessageId, Verdict]
    evidence: Evidence
    unasked: int = 0
    rest: int | None = None
    calls: int = 1


@dataclass(frozen=True, slots=True)
class Refused:
    """A call that provably had no effect: it may be made again. `retry_after` in seconds; `calls`: how many it was.

    `stop` is why it was not made, if a person has paused releases.
    """

    reason: RefusalReason
    evidence: Evidence
    retry_after: int | None = None
    calls: int = 1
    stop: Stop | None = None


class Outcome(StrEnum):
    """What a caller is told about one id. Callers must tolerate values that they do not know."""

    RELEASED = "released"
    ALREADY_RELEASED = "already_released"
    PARTIALLY_RELEASED = "partially_released"
    FAILED = "failed"
    NEEDS_REVIEW = "needs_review"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    DENIED = "denied"
    NOT_QUARANTINED = "not_quarantined"
    AMBIGUOUS = "ambiguous"
    NOT_FOUND = "not_found"
    WOULD_RELEASE = "would_release"
    IN_PROGRESS = "in_progress"
    UNCONFIRMED = "unconfirmed"

    @property
    def is_end(self) -> bool:
        """Say whether the ledger has nothing more to find out."""
        return self not in (Outcome.IN_PROGRESS, Outcome.UNCONFIRMED)


# One letter per id closes a request row, so that 1,000 ids cost 1,000 bytes. Letters are stored: never reuse one.
LETTERS: Final[dict[str, tuple[Outcome, Code | None]]] = {
    "R": (Outcome.RELEASED, None),
    "A": (Outcome.ALREADY_RELEASED, None),
    "P": (Outcome.PARTIALLY_RELEASED, Code.PARTLY_DELIVERED),
    "F": (Outcome.FAILED, Code.NOT_DELIVERED),
    "X": (Outcome.FAILED, Code.CLOUDFLARE_REJECTED),
    "N": (Outcome.FAILED, Code.NOT_ATTEMPTED),
    "V": (Outcome.NEEDS_REVIEW, Code.UNSETTLED),
    "I": (Outcome.NEEDS_REVIEW, Code.ID_CONFLICT),
    "C": (Outcome.CANCELLED, None),
    "E": (Outcome.EXPIRED, None),
    "D": (Outcome.DENIED, None),
    "Q": (Outcome.NOT_QUARANTINED, None),
    "M": (Outcome.AMBIGUOUS, None),
    "Z": (Outcome.NOT_FOUND, None),
    "W": (Outcome.WOULD_RELEASE, None),
}
