"""Claim, call Cloudflare, then record the answer or give the call back. Pure but for its ports.

The only way to Cloudflare's release call, whoever comes: the webhook with one request, the worker with many.
"""

from dataclasses import replace
from math import ceil
from typing import Final

from quarantine_release.domain.identity import believed
from quarantine_release.domain.ids import PostfixPart
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import PlannedCall
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.transitions import answered, given_back, not_made, recorded, refused
from quarantine_release.domain.verdicts import NO_RECIPIENTS, Answered, Evidence, NoEffect, RefusalReason, Verdict
from quarantine_release.releasing.claim import Claims, claim
from quarantine_release.releasing.ports import Conflict, Move, Reservation
from quarantine_release.releasing.progress import Progress

# Seconds that must remain before a claim: Cloudflare's total deadline and the record after it (hazards: 10 + 4).
CALL_SECONDS: Final = 10.0
RECORD_SECONDS: Final = 4.0
# With less than this a call would mostly end without an answer, and nobody would know of its effect.
LEAST_CALL_SECONDS: Final = 4.0

# Such a refusal passes by itself, or in smaller calls, so the request can continue later.
_PASSING: Final = frozenset(
    {RefusalReason.RATE_LIMITED, RefusalReason.UNREACHABLE, RefusalReason.NO_TIME, RefusalReason.CALL_REJECTED}
)
_MISSING: Final = Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER)


def dispatch(
    progress: Progress, planned: PlannedCall, reserved: Reservation, *, is_last: bool = False
) -> Conflict | NoEffect | None:
    """Claim what may be claimed of a planned call, and make the call for it.

    None means that the next may follow: the call was made, or there was nothing to claim. A Conflict holds the earlier
    request under the same key. `is_last` is as in `make_call`. Raises LedgerUnavailable, but not if a claim fails while
    the caller of an accepted request waits.
    """
    try:
        claims = claim(progress, planned)
    except LedgerUnavailable:
        if not progress.has_waiting_caller:
            raise
        return None  # the outcome of the earlier calls must still reach the caller
    if not isinstance(claims, Claims):
        return claims
    return make_call(progress, claims, reserved, is_last=is_last)


def make_call(progress: Progress, claims: Claims, reserved: Reservation, *, is_last: bool = False) -> NoEffect | None:
    """Make the claimed call and write down what came of it; return the refusal of one that had no effect.

    The reserved call is used if Cloudflare is called. Raises LedgerUnavailable if it is not known whether the request
    was refused. `is_last`: the only request is closed along with the record, if it has ended.
    """
    ports, attempt = progress.ports, claims.attempt
    ids = [target.message_id for target in attempt.targets]
    reply: Answered | NoEffect | None = _withheld(progress, attempt)
    seconds = min(CALL_SECONDS, ports.time_left() - RECORD_SECONDS)  # asking for the permit may have taken some
    reply = reply or _too_late(progress, attempt, reserved, seconds)
    if reply is None:
        reply = ports.cloudflare.release(progress.account_id, attempt.wire_form, ids, seconds)
        ports.budget.heard(progress.account_id, reply)
    if isinstance(reply, NoEffect):
        _give_back(progress, claims, reply)
        return reply
    _record(progress, claims, reply, is_last=is_last)
    return None


def _withheld(progress: Progress, attempt: AttemptRow) -> NoEffect | None:
    """Return why a claimed call is not made after all: a client may no longer do what it asked for."""
    permits = [progress.ports.permit(progress.requests[name]) for name in sorted(set(attempt.owners.values()))]
    withheld = next((permit.withheld for permit in permits if permit.withheld), None)
    return NoEffect(RefusalReason.PAUSED, Evidence(failure=withheld)) if withheld else None


def _too_late(progress: Progress, attempt: AttemptRow, reserved: Reservation, seconds: float) -> NoEffect | None:
    """Return why a claimed call is not made after all: the claim may have taken long."""
    try:
        paused = progress.ports.budget.pause_left(progress.account_id)
        stops = [progress.active_pause(progress.requests[name]) for name in sorted(set(attempt.owners.values()))]
        wait = 0.0 if paused or any(stops) or seconds < LEAST_CALL_SECONDS else reserved.use()
    except LedgerUnavailable:  # who cannot be told of a pause must not call into it
        return NoEffect(RefusalReason.NO_TIME, Evidence(failure="pause_not_known"))
    for stop in filter(None, stops):
        return NoEffect(RefusalReason.PAUSED, Evidence(failure="releases_paused"), stop=stop)
    if paused:
        return NoEffect(RefusalReason.RATE_LIMITED, Evidence(failure="calls_paused"), ceil(paused))
    if seconds < LEAST_CALL_SECONDS:
        return NoEffect(RefusalReason.NO_TIME, Evidence(failure="not_enough_time"))
    if wait:
        return NoEffect(RefusalReason.RATE_LIMITED, Evidence(failure="calls_used_up"), ceil(wait))
    return None


def _record(progress: Progress, claims: Claims, answer: Answered, *, is_last: bool) -> None:
    """Record the outcome of a call. What cannot be recorded is unconfirmed: never success, never failure."""
    attempt, evidence, now, terms = claims.attempt, answer.evidence, progress.ports.clock(), progress.ports.terms
    progress.note_call()
    verdicts, size = _verdicts(claims, answer), len(attempt.targets)
    moves = [
        Move(row, recorded(row, verdicts[row.part], evidence, now, terms, ids_in_call=size))
        for row in (move.after for move in claims.moves)
    ]
    rows = {move.after.part: move.after for move in moves}
    closing = progress.closed_by(progress.request, rows) if is_last else None
    try:
        ended = answered(attempt, verdicts, evidence, now, terms)
        others = progress.ports.ledger.record(ended, AttemptState.OPEN, moves, closing)
    except LedgerUnavailable:
        progress.learn({part: _unconfirmed(row) for part, row in rows.items()})
        return
    progress.settle({part: row for part, row in rows.items() if part not in others})
    progress.learn(others)
    if closing is not None and not others:
        progress.replace(closing)


def _verdicts(claims: Claims, answer: Answered) -> dict[PostfixPart, Verdict]:
    """Return what an answer proves of each message in the call, as far as it is believed of that message."""
    rows = {move.after.part: move.after for move in claims.moves}
    verdicts = {target.part: answer.verdicts.get(target.message_id, _MISSING) for target in claims.attempt.targets}
    return {part: believed(rows[part], verdict) if part in rows else verdict for part, verdict in verdicts.items()}


def _unconfirmed(row: MessageRow) -> MessageRow:
    return replace(row, state=State.UNKNOWN, code=Code.NO_ANSWER, recipients=NO_RECIPIENTS)


def _give_back(progress: Progress, claims: Claims, refusal: NoEffect) -> None:
    """Give back what was claimed for a call that had no effect.

    The request stays open if the call can be made later, and if it was accepted before or another call was made for it.
    Otherwise it is refused. A forced release is made while somebody waits for it, or not at all.
    """
    attempt, now, terms = claims.attempt, progress.ports.clock(), progress.ports.terms
    rejected_with = len(attempt.targets) if refusal.reason is RefusalReason.CALL_REJECTED else None
    backs = [
        Move(move.after, given_back(move.before, move.after, now, rejected_with=rejected_with)) for move in claims.moves
    ]
    ended = not_made(attempt, refusal.evidence, now, terms)
    request = None
    if progress.may_be_refused:
        is_done_with = progress.request.force or refusal.reason not in _PASSING
        request = refused(progress.request, now, terms) if is_done_with else None
    try:
        others = progress.ports.ledger.record(ended, AttemptState.OPEN, backs, request)
    except LedgerUnavailable:
        if request is not None:  # neither yes nor no: it may be refused by now, or open
            raise
        return
    progress.learn({**{move.after.part: move.after for move in backs}, **others})
    if request is not None:
        progress.replace(request)
        return
    for target in attempt.targets:
        owner = progress.requests[attempt.owners[target.part]]
        if owner.force:
            progress.end_without_call(owner, [target])
