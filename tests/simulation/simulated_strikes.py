"""What may befall a call of the simulation, and where."""

from collections.abc import Sequence
from enum import StrEnum

from quarantine_release.domain.verdicts import RefusalReason
from tests.support.model_dynamodb import Fault


class Strike(StrEnum):
    """What may befall a call at a boundary, beside what the model of DynamoDB knows."""

    CRASH_BEFORE = "the process dies before the call"
    CRASH_AFTER = "the process dies after the call took effect"
    LOST = "the call never arrives, and nobody is told"
    LOST_ANSWER = "the call takes effect, its answer is lost"
    LATE = "the answer is lost, the effect comes a minute later"
    RATE_LIMITED = "429"
    UNREACHABLE = "no connection"
    DENIED = "403"
    REJECTED = "404 with an envelope"
    UNREAD = "a read without an answer"
    STALL = "the process stands still for up to 50 s"
    TWICE = "the hints are sent twice"
    FAILS = "the release fails and is logged, its answer is lost"
    PARTLY = "the release reaches one recipient and is logged, its answer is lost"


LEDGER_STRIKES: tuple[Fault | Strike, ...] = (
    Strike.CRASH_BEFORE,
    Strike.CRASH_AFTER,
    Fault.TIMEOUT_BEFORE,
    Fault.TIMEOUT_AFTER,
    Fault.REPEATED,
    Fault.CONFLICT,
    Fault.THROTTLED,
    Fault.CANCELLED,
)
RELEASE_STRIKES: tuple[Strike, ...] = (
    Strike.CRASH_BEFORE,
    Strike.CRASH_AFTER,
    Strike.LOST,
    Strike.LOST_ANSWER,
    Strike.LATE,
    Strike.RATE_LIMITED,
    Strike.UNREACHABLE,
    Strike.DENIED,
)
# What only an action log tells.
LOGGED_STRIKES: tuple[Strike, ...] = (Strike.FAILS, Strike.PARTLY)
WITHOUT_ANSWER = frozenset({Strike.LOST, Strike.LATE, Strike.LOST_ANSWER, *LOGGED_STRIKES})
READ_STRIKES: tuple[Strike, ...] = (Strike.CRASH_BEFORE, Strike.CRASH_AFTER, Strike.UNREAD)
LOOK_STRIKES: tuple[Strike, ...] = (*READ_STRIKES, Strike.DENIED)
SEND_STRIKES: tuple[Strike, ...] = (Strike.CRASH_BEFORE, Strike.CRASH_AFTER, Strike.LOST, Strike.TWICE)
# At the end of the worker's function: its hints come again though they were done.
DONE_STRIKES: tuple[Strike, ...] = (Strike.CRASH_BEFORE,)

# A call for release; the other is one that Cloudflare keeps in action logs, which somebody reads.
RELEASES = ("release", "logged release")

REFUSALS: dict[Fault | Strike | None, RefusalReason] = {
    Strike.RATE_LIMITED: RefusalReason.RATE_LIMITED,
    Strike.UNREACHABLE: RefusalReason.UNREACHABLE,
    Strike.DENIED: RefusalReason.CREDENTIALS,
}


def strikes_at(boundary: str) -> Sequence[Fault | Strike]:
    """Return what may strike at a boundary; a pure read of the ledger cannot land and be lost."""
    if boundary in RELEASES:
        return RELEASE_STRIKES if boundary == "release" else (*RELEASE_STRIKES, *LOGGED_STRIKES)
    if boundary in ("read", "look"):
        return READ_STRIKES if boundary == "read" else LOOK_STRIKES
    if boundary == "send":
        return SEND_STRIKES
    if boundary == "secret":
        return READ_STRIKES
    if boundary == "done":
        return DONE_STRIKES
    is_write = boundary in ("TransactWriteItems", "UpdateItem", "PutItem")
    return LEDGER_STRIKES if is_write else (Strike.CRASH_BEFORE, Fault.TIMEOUT_BEFORE)
