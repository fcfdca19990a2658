"""How each row moves on: claimed, asked for, recorded, given back, closed, refused. Pure.

`states.TRANSITIONS` says which moves are legal; the ledger lets one pass only from the row as it was seen. How a call's
unknown outcome is settled is in `settlement.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.guard import Guarded
from quarantine_release.domain.identity import under, with_candidate, with_confirmed
from quarantine_release.domain.ids import MessageId, PostfixPart
from quarantine_release.domain.results import Result
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestRow, RequestState, Target
from quarantine_release.domain.states import EXPIRING, FINAL, LETTERS, Code, State
from quarantine_release.domain.verdicts import Evidence, Verdict

ASKS_KEPT: Final = 100

# After a larger call was rejected as a whole, its messages are sent again in calls of 10 ids, and then alone.
SMALLER_CALL: Final = 10
_LETTER_OF: Final = {meaning: letter for letter, meaning in LETTERS.items()}


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things hold: a claim, the wait before "still quarantined" is believed, an ended row, an open request."""

    lease: timedelta
    settle: timedelta
    retention: timedelta
    request_lifetime: timedelta = timedelta(hours=24)

    def expiry(self, now: datetime) -> datetime:
        """Return until when what ended now is kept, in whole seconds as DynamoDB keeps it."""
        return (now + self.retention).replace(microsecond=0)


def claimed(
    row: MessageRow | None,
    target: Target,
    request: RequestRow,
    attempt: AttemptRow,
    guard: Guarded | None = None,
    disposition: str | None = None,
    confirmed: MessageId | None = None,
) -> MessageRow:
    """Return the message as the attempt's own, about to be released, with how it came past the guard.

    `confirmed`: the id that Cloudflare told when the guard read it.
    """
    if row is None:
        new = MessageRow(
            account_id=request.account_id,
            part=target.part,
            state=State.RELEASING,
            attempt=attempt.attempt,
            message_id=target.message_id,
            updated_at=attempt.sent_at,
            owner=request.request_id,
            owner_client=request.client,
            deadline=attempt.deadline,
            attempts=frozenset({attempt.attempt}),
            asks=frozenset({request.request_id}),
            guard=guard,
            disposition=disposition,
        )
        return replace(with_confirmed(new, confirmed), message_id=target.message_id)
    # A rejected call released nothing: whoever claims the message after it overrides nothing.
    is_forced = row.state in FINAL and row.code is not Code.CLOUDFLARE_REJECTED
    mine = replace(row, state=State.RELEASING, confirmed_id=row.own_id)
    known = with_confirmed(under(mine, target.message_id), confirmed)
    return replace(
        _with_ask(known, request),
        message_id=target.message_id,
        attempt=attempt.attempt,
        updated_at=attempt.sent_at,
        owner=request.request_id,
        owner_client=request.client,
        deadline=attempt.deadline,
        expires_at=None,
        attempts=row.attempts | {attempt.attempt},
        forced_over=row.state if is_forced else None,
        forced_after=row.updated_at if is_forced else None,
        guard=guard,
        disposition=disposition,
        confirmed_at=None,
    )


def asked(row: MessageRow, target: Target, request: RequestRow) -> MessageRow:
    """Return the message as also wanted by this request, which may know another id of it.

    That id is only a candidate: anybody may ask by a wrong one. A request gives it once, so that what was read in vain
    is not read again.
    """
    return row if request.request_id in row.asks else _with_ask(with_candidate(row, target.message_id), request)


def _with_ask(row: MessageRow, request: RequestRow) -> MessageRow:
    if request.request_id in row.asks:
        return row
    if len(row.asks) >= ASKS_KEPT:
        return replace(row, asks_uncounted=row.asks_uncounted + 1)
    return replace(row, asks=row.asks | {request.request_id})


def recorded(
    row: MessageRow, verdict: Verdict, evidence: Evidence, now: datetime, terms: Terms, *, ids_in_call: int = 1
) -> MessageRow:
    """Return the message after a call: the verdict, how it is known, and until when an ended row is kept."""
    known = with_confirmed(row, verdict.message_id)
    # A released message goes by what Cloudflare confirmed: its Postfix id, if that is all.
    is_out = verdict.state in (State.RELEASED, State.PARTIAL)
    return replace(
        known,
        message_id=known.confirmed_id or MessageId(row.part) if is_out else known.message_id,
        state=verdict.state,
        # A message that was found to be still in quarantine has no owner. So far only its attempt says so.
        owner=None if verdict.state is State.RETRYABLE else row.owner,
        code=verdict.code,
        recipients=verdict.recipients,
        evidence=evidence,
        updated_at=now,
        deadline=row.deadline if verdict.state is State.UNKNOWN else None,
        expires_at=terms.expiry(now) if verdict.state in EXPIRING else None,
        largest_call=_smaller(ids_in_call) if verdict.code is Code.CALL_REJECTED else row.largest_call,
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


def given_back(
    before: MessageRow | None, row: MessageRow, now: datetime, *, rejected_with: int | None = None
) -> MessageRow:
    """Return the message after a call that provably had no effect: as before, or free for the next request.

    `rejected_with`: the number of ids in a call that Cloudflare rejected as a whole.
    """
    if before is not None and row.forced_over is not None:
        restored = replace(
            before,
            asks=row.asks,
            asks_uncounted=row.asks_uncounted,
            confirmed_id=row.confirmed_id,
            candidates=row.candidates,
        )
    else:
        restored = replace(
            row,
            state=State.RETRYABLE,
            updated_at=now,
            owner=None,
            owner_client=before.owner_client if before is not None else None,
            deadline=None,
            code=None,
            attempts=row.attempts - {row.attempt},
            largest_call=_smaller(rejected_with) if rejected_with else row.largest_call,
        )
    return replace(restored, refusals=row.refusals + 1, last_refused=row.attempt)


def closed(request: RequestRow, results: Sequence[Result], now: datetime, terms: Terms) -> RequestRow | None:
    """Return the request with one letter per id, or nothing while an id has not ended."""
    if not all(result.is_end for result in results):
        return None
    # An id that ended before a claim has its code in the request itself.
    kept = (Code.ID_CONFLICT,)
    meanings = ((one.outcome, None if one.ended and one.code not in kept else one.code) for one in results)
    letters = "".join(_LETTER_OF[meaning] for meaning in meanings)
    return replace(request, state=RequestState.CLOSED, letters=letters, closed_at=now, expires_at=terms.expiry(now))


def is_expired(request: RequestRow, now: datetime, terms: Terms) -> bool:
    """A request this old releases nothing any more, because nobody expects it to."""
    return now - request.created_at >= terms.request_lifetime


def refused(request: RequestRow, now: datetime, terms: Terms) -> RequestRow:
    """Return the request as one whose caller was told no."""
    return replace(request, state=RequestState.REFUSED, closed_at=now, expires_at=terms.expiry(now))


def _smaller(ids_in_call: int) -> int:
    return SMALLER_CALL if ids_in_call > SMALLER_CALL else 1
