"""Write the intent to release before the call. Pure but for its ports.

A claim is one transaction. It holds each message for one attempt, so that nobody else can call for it meanwhile.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from quarantine_release.domain.ids import AttemptId, PostfixPart, RequestId, postfix_part
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
        draft = _draft(run, call, seen, attempt_id)
        conflict = _write(run, draft)
        if conflict is None:
            return Claims(draft.attempt, draft.moves) if draft.moves else None
        if not run.is_accepted and any(conflict.requests.values()):
            return conflict
        # Closed, refused or cancelled meanwhile: nothing may leave for these any more.
        run.learn_from(conflict)
        seen |= conflict.messages
    raise LedgerContended("the rows moved in every round")


@dataclass(frozen=True, slots=True)
class _Draft:
    """What one round of a claim is to write. `asks` are messages that are not claimed, and know who asked for them."""

    attempt: AttemptRow
    moves: tuple[Move, ...]
    asks: tuple[Move, ...]


def _draft(run: Run, call: Call, seen: Mapping[PostfixPart, MessageRow | None], attempt_id: AttemptId) -> _Draft:
    """Draft the claim by the rows as they were seen last."""
    now = run.ports.clock()
    owners = _owners(run, call, seen)
    wants = [(want, seen[want.target.part], owners[want.target.part]) for want in call.wants]
    attempt = AttemptRow(
        account_id=run.account_id,
        attempt=attempt_id,
        wire_form=call.wire_form,
        targets=tuple(want.target for want, _, owner in wants if owner is not None),
        owners={want.target.part: owner.request_id for want, _, owner in wants if owner is not None},
        sent_at=now,
        deadline=now + run.ports.terms.lease,
        state=AttemptState.OPEN,
    )
    moves = [_move(run, want, row, owner, attempt) for want, row, owner in wants if owner is not None]
    asks = [Move(row, asked_by(run, row, want)) for want, row, owner in wants if owner is None and row is not None]
    return _Draft(attempt, tuple(moves), tuple(asks))


def _move(run: Run, want: Want, row: MessageRow | None, owner: RequestRow, attempt: AttemptRow) -> Move:
    """Return a message's move into the attempt, and the requests that want it."""
    guard = want.guards[owner.request_id]
    after = claimed(
        row, want.target, owner, attempt, guard=guard, disposition=want.disposition, confirmed=want.confirmed
    )
    return Move(row, asked_by(run, after, want))


def _write(run: Run, draft: _Draft) -> Conflict | None:
    """Write a claim, which accepts a request that is not accepted yet; or nothing, and return why."""
    rows = {move.after.part: move.after for move in (*draft.moves, *draft.asks)}
    opened = None if run.is_accepted else run.closed_by(run.request, rows) or run.request
    conflict = _transact(run, draft, opened)
    if conflict is not None:
        return conflict
    if opened is not None:
        run.accept(opened)
    if draft.moves:
        run.count_call()
    run.learn(rows)
    return None


def _transact(run: Run, draft: _Draft, opened: RequestRow | None) -> Conflict | None:
    """Write all of a draft in one transaction. `opened` is accepted by it."""
    ledger, owners = run.ports.ledger, sorted(set(draft.attempt.owners.values()))
    if draft.moves:
        accepted = {name: run.requests[name].notes for name in owners} if opened is None else {}
        return ledger.claim(draft.attempt, draft.moves, draft.asks, opened=opened, accepted=accepted)
    return ledger.accept(opened, draft.asks) if opened is not None else ledger.add_requesters(draft.asks)


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
