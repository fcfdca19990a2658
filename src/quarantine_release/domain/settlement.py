"""How a message whose call has left it unknown is settled: by a read of Cloudflare, or by a person. Pure."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.identity import with_confirmed
from quarantine_release.domain.ids import OperationId, PostfixPart
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow
from quarantine_release.domain.states import EXPIRING, UNSETTLED, Code, State
from quarantine_release.domain.transitions import Terms, recorded
from quarantine_release.domain.verdicts import Evidence, ReadBack, Seen, Verdict

# A person must look after this many calls for one message that may have taken effect.
CALLS_LIMIT: Final = 5
# A message that cannot be read for now is tried again this long.
GIVE_UP_READING: Final = timedelta(hours=24)


def settled(
    row: MessageRow, attempt: AttemptRow, reading: ReadBack, read_at: datetime, now: datetime, terms: Terms
) -> MessageRow | None:
    """Return an unsettled message of this attempt as a read shows it; None while the read does not allow to say.

    A release that reached anybody counts at once, unless the log has no result yet for another recipient. Everything
    else may be a call's effect that is yet to come, and counts only if it was read after lease and settle. Then "still
    quarantined" frees the message, and the rest is for a person.
    """
    if row.state is State.RELEASING and now < attempt.deadline:
        return None
    is_early = read_at < counts_from(attempt, terms)
    evidence = replace(reading.evidence, seen=reading.seen)
    verdict = _shown(reading)
    if verdict is not None and not (is_early and reading.recipients.counts[1]):
        return recorded(row, verdict, evidence, now, terms)
    if is_early or _is_read_again(row, attempt, reading, now):
        return None
    if _may_be_freed(row, reading):
        return _freed(with_confirmed(row, reading.message_id), evidence, now)
    return _reviewed(row, reading, evidence, now, terms)


def counts_from(attempt: AttemptRow, terms: Terms) -> datetime:
    """Return when a call can have no effect any more: from then on "still quarantined" counts."""
    return attempt.deadline + terms.settle


def _shown(reading: ReadBack) -> Verdict | None:
    """Return the release that a read proves."""
    if reading.seen is Seen.RELEASED:
        return Verdict(State.RELEASED, None, reading.recipients, reading.message_id)
    if reading.seen is Seen.PARTIAL:
        return Verdict(State.PARTIAL, Code.PARTLY_DELIVERED, reading.recipients, reading.message_id)
    return None


def _is_read_again(row: MessageRow, attempt: AttemptRow, reading: ReadBack, now: datetime) -> bool:
    """Return whether a read that showed nothing is repeated before a person must look: for a day at most."""
    is_reviewed = row.state is State.NEEDS_REVIEW
    return reading.seen is Seen.UNREAD and (is_reviewed or now < attempt.sent_at + GIVE_UP_READING)


def _may_be_freed(row: MessageRow, reading: ReadBack) -> bool:
    """Return whether the next request may claim the message: not if it was forced, nor after too many calls."""
    return reading.seen is Seen.QUARANTINED and len(row.attempts) < CALLS_LIMIT and row.forced_over is None


def _reviewed(row: MessageRow, reading: ReadBack, evidence: Evidence, now: datetime, terms: Terms) -> MessageRow | None:
    """Return the message as one that a person must look at; None if it is already under review for the same reason."""
    verdict = Verdict(State.NEEDS_REVIEW, Code.UNSETTLED, message_id=reading.message_id)
    reviewed = recorded(row, verdict, evidence, now, terms)
    if reading.seen in (Seen.ABSENT, Seen.QUARANTINED):  # reading the candidates changed nothing, so they make room
        reviewed = replace(reviewed, candidates=frozenset())
    is_known = row.state is State.NEEDS_REVIEW and row.evidence == evidence and reviewed.candidates == row.candidates
    return None if is_known else reviewed


def settled_by_hand(
    row: MessageRow, operation: OperationId, seen: Seen, now: datetime, terms: Terms
) -> MessageRow | None:
    """Return an unsettled message as a person has seen it, released or still quarantined; None if none may say so.

    As for a reading, "released" counts at once, "still quarantined" only after lease and settle, and neither while the
    call may be under way. But a person may also free what is under review, however many calls were made. A message
    that was out before a forced call is not freed: it would be released again without force.
    """
    if row.state not in UNSETTLED or (row.state is State.RELEASING and not _is_past(row.deadline, now)):
        return None
    evidence = Evidence(seen=seen, operation=operation)
    noted = replace(row, operations=row.operations | {operation})
    if seen is Seen.RELEASED:
        return recorded(noted, Verdict(State.RELEASED), evidence, now, terms)
    if seen is not Seen.QUARANTINED or row.forced_over in EXPIRING:
        return None
    if row.deadline is not None and not _is_past(row.deadline + terms.settle, now):
        return None
    return _freed(replace(noted, forced_over=None, forced_after=None), evidence, now)


def _freed(row: MessageRow, evidence: Evidence, now: datetime) -> MessageRow:
    """Return the message as one that was not released and that the next request may claim."""
    return replace(
        row,
        state=State.RETRYABLE,
        owner=None,
        deadline=None,
        code=None,
        evidence=evidence,
        updated_at=now,
        expires_at=None,
    )


def _is_past(deadline: datetime | None, now: datetime) -> bool:
    return deadline is None or deadline <= now


def found_out(attempt: AttemptRow, rows: Mapping[PostfixPart, MessageRow], now: datetime, terms: Terms) -> AttemptRow:
    """Return the attempt as one whose every message is settled, each with what it was found to be."""
    verdicts = dict(attempt.verdicts or {})
    for part, row in rows.items():
        if row.attempt == attempt.attempt and row.state not in (State.RELEASING, State.UNKNOWN):
            verdicts[part] = Verdict(row.state, row.code, row.recipients, row.own_id)
    return replace(
        attempt,
        state=AttemptState.REFUSED if attempt.state is AttemptState.REFUSED else AttemptState.SETTLED,
        ended_at=attempt.ended_at or now,
        verdicts=verdicts,
        expires_at=terms.expiry(now),
    )
