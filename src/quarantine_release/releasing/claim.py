"""Write the intent to release before the call. Pure but for its ports.

A claim is one transaction. It holds each message for one attempt, so that nobody else can call for it meanwhile.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from quarantine_release.domain.ids import PostfixPart, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerContended, RowUnreadable
from quarantine_release.domain.packing import CLAIM_LIMIT, Call, Want
from quarantine_release.domain.results import claimable
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestRow, Target
from quarantine_release.domain.transitions import claimed
from quarantine_release.releasing.asking import asked_by, note_apart
from quarantine_release.releasing.ports import Conflict, Move
from quarantine_release.releasing.progress import Run

_CLAIM_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True)
class Claims:
    """What was claimed: the attempt as written, and each message's move to it."""

    attempt: AttemptRow
    moves: tuple[Move, ...]


def claim(run: Run, call: Call) -> Claims | Conflict | None:
    """Claim what may be claimed; None if nothing was. A Conflict tells of an earlier request under the same key.

    Messages that are not known are taken to be new, which most are: a refusal brings the rows as they are. Raises
    LedgerUnavailable.
    """
    try:
        return _claim(run, call)
    except LedgerContended:
        if run.is_accepted or run.request.force:
            raise
        return _accept(run, call)


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
        rows = {move.after.part: move.after for move in (*moves, *asks)}
        opened = None if run.is_accepted else run.closed_by(run.request, rows) or run.request
        conflict = _write(run, Claims(attempt, tuple(moves)), asks, opened)
        if conflict is None:
            if opened is not None:
                run.accept(opened)
            run.learn(rows)
            return Claims(attempt, tuple(moves)) if moves else None
        if not run.is_accepted and any(conflict.requests.values()):
            return conflict
        # Closed, refused or cancelled meanwhile: nothing may leave for these any more.
        run.learn_from(conflict)
        seen |= conflict.messages
    raise LedgerContended("the rows moved in every round")


def _write(run: Run, claims: Claims, asks: Sequence[Move], opened: RequestRow | None) -> Conflict | None:
    """Write what was claimed and asked for in one transaction. `opened` is accepted by it."""
    ledger = run.ports.ledger
    if claims.moves:
        owners = sorted(set(claims.attempt.owners.values())) if opened is None else []
        accepted = {name: run.requests[name].notes for name in owners}
        return ledger.claim(claims.attempt, claims.moves, asks, opened=opened, accepted=accepted)
    return ledger.accept(opened, asks) if opened is not None else ledger.add_requesters(asks)


def _accept(run: Run, call: Call) -> Conflict | None:
    """Accept a request without a claim, because others contend for its messages; the worker claims what is left.

    Many callers ask for one message at once, and one of them releases it. The others must not fail over its row.
    """
    opened = run.closed_by(run.request, {}) or run.request
    conflict = run.ports.ledger.accept(opened)
    if conflict is None:
        run.accept(opened)
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
