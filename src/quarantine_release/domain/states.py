"""The states of a message, their legal transitions, and the outcomes and codes that a caller sees. Pure."""

from enum import StrEnum
from typing import Final

from quarantine_release.domain.ids import ANY_ID, MessageId, is_header


def has_one_key(message_id: MessageId) -> bool:
    """Return whether an id has one key. Version 4c3b95d accepted other ids too: one message could have two rows."""
    return is_header(message_id) or ANY_ID.match(message_id) is not None


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
    """Return whether a request may release a message in this state: never while a call may be under way."""
    if state is None or state is State.RETRYABLE:
        return True
    if state is State.FAILED and code is Code.CLOUDFLARE_REJECTED:
        return True
    return force and state in FINAL


class Outcome(StrEnum):
    """The outcome of one id, as its caller sees it. Callers must tolerate values that they do not know."""

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
        """Return whether the ledger has nothing more to find out."""
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
