"""How each row moves on: claimed, asked for, recorded, given back, closed, refused. Pure.

`outcome.TRANSITIONS` says which moves are legal; the ledger lets one pass only from the row as it was seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.outcome import (
    EXPIRING,
    FINAL,
    LETTERS,
    Evidence,
    PostfixPart,
    State,
    Verdict,
    contradict,
    fullest,
)
from quarantine_release.trace import AttemptRow, AttemptState, MessageRow, RequestRow, RequestState, Result, Target

ASKS_KEPT: Final = 100
_LETTER_OF: Final = {meaning: letter for letter, meaning in LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things hold: a claim, the wait before "still quarantined" is believed, an ended row."""

    lease: timedelta
    settle: timedelta
    retention: timedelta

    def expiry(self, now: datetime) -> datetime:
        """Return until when what ended now is kept, in whole seconds as DynamoDB keeps it."""
        return (now + self.retention).replace(microsecond=0)


def claimed(row: MessageRow | None, target: Target, request: RequestRow, attempt: AttemptRow) -> MessageRow:
    """Return the message as the attempt's own, about to be released."""
    if row is None:
        return MessageRow(
            account_id=request.account_id,
            part=target.part,
            state=State.RELEASING,
            attempt=attempt.attempt,
            message_id=target.message_id,
            updated_at=attempt.sent_at,
            owner=request.request_id,
            deadline=attempt.deadline,
            attempts=frozenset({attempt.attempt}),
            asks=frozenset({request.request_id}),
        )
    return replace(
        asked(row, target, request),
        state=State.RELEASING,
        attempt=attempt.attempt,
        updated_at=attempt.sent_at,
        owner=request.request_id,
        deadline=attempt.deadline,
        expires_at=None,
        attempts=row.attempts | {attempt.attempt},
        forced_over=row.state if row.state in FINAL else None,
    )


def asked(row: MessageRow, target: Target, request: RequestRow) -> MessageRow:
    """Return the message as also wanted by this request, which may know a fuller id of it."""
    known = row.message_id
    if not contradict(known, target.message_id):
        known = fullest((known, target.message_id))
    if request.request_id in row.asks:
        return replace(row, message_id=known)
    if len(row.asks) >= ASKS_KEPT:
        return replace(row, message_id=known, asks_uncounted=row.asks_uncounted + 1)
    return replace(row, message_id=known, asks=row.asks | {request.request_id})


def recorded(row: MessageRow, verdict: Verdict, evidence: Evidence, now: datetime, terms: Terms) -> MessageRow:
    """Return the message after a call: the verdict, how it is known, and until when an ended row is kept."""
    known = row.message_id
    if verdict.message_id is not None and not contradict(known, verdict.message_id):
        known = fullest((known, verdict.message_id))
    return replace(
        row,
        state=verdict.state,
        code=verdict.code,
        message_id=known,
        recipients=verdict.recipients,
        evidence=evidence,
        updated_at=now,
        deadline=row.deadline if verdict.state is State.UNKNOWN else None,
        expires_at=terms.expiry(now) if verdict.state in EXPIRING else None,
    )


def answered(
    attempt: AttemptRow, verdicts: Mapping[PostfixPart, Verdict], evidence: Evidence, now: datetime, terms: Terms
) -> AttemptRow:
    """Return the attempt with its outcome; it stays open for as long as some of it is unknown."""
    ended = replace(attempt, state=AttemptState.ANSWERED, ended_at=now, evidence=evidence, verdicts=verdicts)
    return ended if ended.is_open else replace(ended, expires_at=terms.expiry(now))


def not_made(attempt: AttemptRow, evidence: Evidence, now: datetime, terms: Terms) -> AttemptRow:
    """Return the attempt as one that provably had no effect."""
    return replace(attempt, state=AttemptState.REFUSED, ended_at=now, evidence=evidence, expires_at=terms.expiry(now))


def given_back(before: MessageRow | None, row: MessageRow, now: datetime) -> MessageRow:
    """Return the message after a call that provably was not made: as before, or free for whoever asks next."""
    if before is not None and before.state in FINAL:
        restored = replace(before, asks=row.asks, asks_uncounted=row.asks_uncounted, message_id=row.message_id)
    else:
        restored = replace(
            row,
            state=State.RETRYABLE,
            owner=None,
            deadline=None,
            forced_over=None,
            attempts=row.attempts - {row.attempt},
        )
    return replace(restored, updated_at=now, refusals=row.refusals + 1, last_refused=row.attempt)


def closed(request: RequestRow, results: Sequence[Result], now: datetime, terms: Terms) -> RequestRow | None:
    """Return the request with one letter per id, or nothing while an id has not ended."""
    if not all(result.is_end for result in results):
        return None
    letters = "".join(_LETTER_OF[result.outcome, result.code] for result in results)
    return replace(request, state=RequestState.CLOSED, letters=letters, closed_at=now, expires_at=terms.expiry(now))


def refused(request: RequestRow, now: datetime, terms: Terms) -> RequestRow:
    """Return the request as one whose caller was told no."""
    return replace(request, state=RequestState.REFUSED, closed_at=now, expires_at=terms.expiry(now))
