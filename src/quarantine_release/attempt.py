"""Claim, call, record: one attempt after another, for one request or for many of one account. Pure but for its ports.

The only way to Cloudflare's release call, whoever comes: the webhook with one request, the worker with many.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from quarantine_release.asking import asked_by, note_apart
from quarantine_release.calls import CLAIM_LIMIT, Call, Want
from quarantine_release.identity import believed
from quarantine_release.outcome import (
    FINAL,
    NO_RECIPIENTS,
    Answered,
    Code,
    Evidence,
    PostfixPart,
    RefusalReason,
    Refused,
    RequestId,
    State,
    Verdict,
    postfix_part,
)
from quarantine_release.ports import Conflict, LedgerContended, LedgerUnavailable, Move, RowUnreadable
from quarantine_release.results import claimable
from quarantine_release.run import Run
from quarantine_release.trace import AttemptRow, AttemptState, MessageRow, RequestRow, Target
from quarantine_release.transitions import answered, claimed, given_back, not_made, recorded, refused

# Seconds that must remain before a claim: Cloudflare's total deadline and the record after it (hazards: 10 + 4).
CALL_SECONDS: Final = 10.0
RECORD_SECONDS: Final = 4.0
# With less than this a call would mostly end without an answer, and nobody would know of its effect.
LEAST_CALL_SECONDS: Final = 4.0
_CLAIM_ROUNDS: Final = 8
# What passes by itself, or in smaller calls, so that the request can be gone on with later.
_PASSING: Final = frozenset(
    {RefusalReason.RATE_LIMITED, RefusalReason.UNREACHABLE, RefusalReason.NO_TIME, RefusalReason.CALL_REJECTED}
)
_MISSING: Final = Verdict(State.UNKNOWN, Code.MISSING_IN_ANSWER)


@dataclass(frozen=True, slots=True)
class Claims:
    """What was claimed: the attempt as written, and each message's move to it."""

    attempt: AttemptRow
    moves: tuple[Move, ...]


def claim(run: Run, call: Call) -> Claims | Conflict | None:
    """Claim what may be claimed; None if nothing was. A Conflict tells of an earlier request under the same key.

    Messages that are not known are taken to be new, which most are: a refusal brings the rows as they are. The call
    taken for what is wanted is put back if nothing was claimed. Raises LedgerUnavailable.
    """
    claims: Claims | Conflict | None = None
    try:
        claims = _claim(run, call)
    except LedgerContended:
        if run.is_accepted or run.request.force:
            raise
        claims = _accept(run, call)
    finally:
        if call.wants and not isinstance(claims, Claims):
            run.ports.budget.put_back(run.account_id)
    return claims


def _claim(run: Run, call: Call) -> Claims | Conflict | None:
    seen = {want.target.part: run.rows.get(want.target.part) for want in call.wants}
    attempt_id = run.ports.new_attempt_id(run.ports.clock())
    for _ in range(_CLAIM_ROUNDS):
        if not run.is_accepted:
            require_readable(run.request, seen.values())
        now = run.ports.clock()
        owners = _owners(run, call, seen)
        moves, asks = [], []
        attempt = AttemptRow(
            account_id=run.account_id,
            attempt=attempt_id,
            wire_form=call.wire_form,
            targets=tuple(want.target for want in call.wants if owners[want.target.part]),
            owners={part: owner.request_id for part, owner in owners.items() if owner},
            sent_at=now,
            deadline=now + run.ports.terms.lease,
            state=AttemptState.OPEN,
        )
        for want in call.wants:
            row, owner = seen[want.target.part], owners[want.target.part]
            if owner is not None:
                guard = want.guards[owner.request_id]
                after = claimed(
                    row,
                    want.target,
                    owner,
                    attempt,
                    guard=guard,
                    disposition=want.disposition,
                    confirmed=want.confirmed,
                )
                moves.append(Move(row, asked_by(run, after, want)))
            elif row is not None:
                asks.append(Move(row, asked_by(run, row, want)))
        rows = run.rows | {move.after.part: move.after for move in (*moves, *asks)}
        opened = None if run.is_accepted else run.closed_by(run.request, rows) or run.request
        accepted = sorted(set(attempt.owners.values())) if run.is_accepted else []
        notes = {name: run.requests[name].notes for name in accepted}
        conflict = run.ports.ledger.claim(opened, accepted, attempt if moves else None, moves, asks, notes)
        if conflict is None:
            if opened is not None:
                run.requests[opened.request_id] = opened
            run.is_accepted, run.rows = True, rows
            return Claims(attempt, tuple(moves)) if moves else None
        if not run.is_accepted and any(conflict.requests.values()):
            return conflict
        # Closed, refused or cancelled meanwhile: nothing may leave for these any more.
        run.requests |= {name: request for name, request in conflict.requests.items() if request is not None}
        for name in [name for name, request in conflict.requests.items() if request is None and run.is_accepted]:
            del run.requests[name]
        seen |= conflict.messages
        run.rows |= {part: row for part, row in conflict.messages.items() if row is not None}
    raise LedgerContended("the rows moved in every round")


def _accept(run: Run, call: Call) -> Conflict | None:
    """Accept a request without a claim, because others contend for its messages; the worker claims what is left.

    Many callers ask for one message at once, and one of them releases it. The others must not fail over its row.
    """
    opened = run.closed_by(run.request, run.rows) or run.request
    conflict = run.ports.ledger.claim(opened, [], None, (), (), {})
    if conflict is None:
        run.requests[opened.request_id] = opened
        run.is_accepted = True
        note_apart(run, call.wants)
    return conflict


def require_readable(request: RequestRow, rows: Iterable[MessageRow | None]) -> None:
    """Raise RowUnreadable if any message of a request that is not accepted yet cannot be read."""
    unreadable = {row.part for row in rows if row is not None and not row.is_readable}
    if unreadable:
        given = [each for each in request.ids if postfix_part(request.resolved.get(each, each)) in unreadable]
        raise RowUnreadable("M", "a message that is wanted", given)


def _owners(
    run: Run, call: Call, seen: Mapping[PostfixPart, MessageRow | None]
) -> dict[PostfixPart, RequestRow | None]:
    """Say for whom each message is claimed; for nobody where the claim would be too large for a transaction."""
    owners: dict[PostfixPart, RequestRow | None] = {}
    names: set[RequestId] = set()
    for number, want in enumerate(call.wants, start=1):
        owner = _owner(run, want, seen[want.target.part])
        if owner is not None and number + len(names | {owner.request_id}) > CLAIM_LIMIT:
            owner = None
        owners[want.target.part] = owner
        names |= {owner.request_id} if owner is not None else set()
    return owners


def _owner(run: Run, want: Want, row: MessageRow | None) -> RequestRow | None:
    """Return the request that a message is claimed for, if one may."""
    now = run.ports.clock()
    for name in want.requests:
        request = run.requests.get(name) if name in want.guards else None
        if request is None or not request.may_claim or want.target.part in request.ended_parts:
            continue
        # Whose caller still waits is told no before the call, and whether it was refused is then in its row.
        if run.was_accepted_before and run.waits(request):
            continue
        meant = Target(want.target.part, want.confirmed or want.target.message_id)
        if claimable(row, meant, force=request.force, now=now):
            return request
    return None


def make_call(run: Run, claims: Claims, *, is_last: bool = False) -> Refused | None:
    """Make the claimed call and write down what came of it; return the refusal of one that had no effect.

    Raises LedgerUnavailable if it is not known whether the request was refused. `is_last`: the only request is
    closed along with the record, if it has ended.
    """
    ports, attempt = run.ports, claims.attempt
    ids = [target.message_id for target in attempt.targets]
    called: Answered | Refused | None = _withheld(run, attempt)
    seconds = min(CALL_SECONDS, ports.time_left() - RECORD_SECONDS)  # what was just asked may have taken some
    called = called or _too_late(run, attempt, seconds)
    if called is None:
        called = ports.cloudflare.release(run.account_id, attempt.wire_form, ids, seconds)
        ports.budget.heard(run.account_id, called)
    else:
        ports.budget.put_back(run.account_id)
    if isinstance(called, Refused):
        _give_back(run, claims, called)
        return called
    _record(run, claims, called, is_last=is_last)
    return None


def _withheld(run: Run, attempt: AttemptRow) -> Refused | None:
    """Return why a claimed call is not made after all: a client may no longer do what it asked for."""
    permits = [run.ports.permit(run.requests[name]) for name in sorted(set(attempt.owners.values()))]
    withheld = next((permit.withheld for permit in permits if permit.withheld), None)
    return Refused(RefusalReason.PAUSED, Evidence(failure=withheld)) if withheld else None


def _too_late(run: Run, attempt: AttemptRow, seconds: float) -> Refused | None:
    """Return why a claimed call is not made after all: the claim may have taken long."""
    try:
        paused = run.ports.budget.pause_left(run.account_id)
        stops = [run.stop_of(run.requests[name]) for name in sorted(set(attempt.owners.values()))]
        wait = 0.0 if paused or any(stops) or seconds < LEAST_CALL_SECONDS else run.ports.budget.renew(run.account_id)
    except LedgerUnavailable:  # who cannot be told of a pause must not call into it
        return Refused(RefusalReason.NO_TIME, Evidence(failure="pause_not_known"))
    for stop in filter(None, stops):
        return Refused(RefusalReason.PAUSED, Evidence(failure="releases_paused"), stop=stop)
    if paused:
        return Refused(RefusalReason.RATE_LIMITED, Evidence(failure="calls_paused"), ceil(paused))
    if seconds < LEAST_CALL_SECONDS:
        return Refused(RefusalReason.NO_TIME, Evidence(failure="not_enough_time"))
    if wait:
        return Refused(RefusalReason.RATE_LIMITED, Evidence(failure="calls_used_up"), ceil(wait))
    return None


def _record(run: Run, claims: Claims, answer: Answered, *, is_last: bool) -> None:
    """Record the outcome of a call. What cannot be recorded is unconfirmed: never success, never failure."""
    attempt, now, terms = claims.attempt, run.ports.clock(), run.ports.terms
    run.was_called = True
    rows = {move.after.part: move.after for move in claims.moves}
    told = {target.part: answer.verdicts.get(target.message_id, _MISSING) for target in attempt.targets}
    verdicts = {part: believed(rows[part], verdict) if part in rows else verdict for part, verdict in told.items()}
    size = len(attempt.targets)
    outcomes = []
    for move in claims.moves:
        verdict = verdicts[move.after.part]
        after = recorded(move.after, verdict, answer.evidence, now, terms, ids_in_call=size)
        outcomes.append(Move(move.after, after))
    rows = {move.after.part: move.after for move in outcomes}
    ended = answered(attempt, verdicts, answer.evidence, now, terms)
    closing = run.closed_by(run.request, run.rows | rows) if is_last else None
    try:
        others = run.ports.ledger.record(ended, AttemptState.OPEN, outcomes, closing)
    except LedgerUnavailable:
        run.rows |= {
            part: replace(row, state=State.UNKNOWN, code=Code.NO_ANSWER, recipients=NO_RECIPIENTS)
            for part, row in rows.items()
        }
        return
    run.rows |= {**rows, **others}
    run.settled += [row for part, row in rows.items() if row.state in FINAL and part not in others]
    if closing is not None and not others:
        run.requests[closing.request_id] = closing


def _give_back(run: Run, claims: Claims, no: Refused) -> None:
    """Give back what was claimed for a call that had no effect.

    What can be made up for later leaves the request open, and so does what was accepted before, or in part called.
    Else the request is refused. A forced release is made while somebody waits for it, or not at all.
    """
    attempt, now, terms = claims.attempt, run.ports.clock(), run.ports.terms
    rejected_with = len(attempt.targets) if no.reason is RefusalReason.CALL_REJECTED else None
    backs = [
        Move(move.after, given_back(move.before, move.after, now, rejected_with=rejected_with)) for move in claims.moves
    ]
    ended = not_made(attempt, no.evidence, now, terms)
    request = None
    if not run.was_accepted_before and not run.was_called:
        is_done_with = run.request.force or no.reason not in _PASSING
        request = refused(run.request, now, terms) if is_done_with else None
    try:
        others = run.ports.ledger.record(ended, AttemptState.OPEN, backs, request)
    except LedgerUnavailable:
        if request is not None:  # neither yes nor no: it may be refused by now, or open
            raise
        return
    run.rows |= {**{move.after.part: move.after for move in backs}, **others}
    if request is not None:
        run.requests[request.request_id] = request
        return
    for target in attempt.targets:
        owner = run.requests[attempt.owners[target.part]]
        if owner.force:
            run.end_without_call(owner, [target])
