"""Write the intent to release before the call. Pure but for its ports.

A claim is one transaction. It holds each message for one attempt, so that nobody else can call for it meanwhile.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from quarantine_release.domain.ids import AttemptId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.ledger_errors import LedgerContended, RowUnreadable
from quarantine_release.domain.packing import CLAIM_LIMIT, PlannedCall, WantedRelease
from quarantine_release.domain.results import claimable
from quarantine_release.domain.rows import AttemptRow, AttemptState, MessageRow, RequestRow, Target
from quarantine_release.domain.transitions import claimed
from quarantine_release.releasing.asking import asked_by, note_apart
from quarantine_release.releasing.ports import Conflict, Move
from quarantine_release.releasing.progress import Progress

_CLAIM_ROUNDS: Final = 8


@dataclass(frozen=True, slots=True)
class Claims:
    """What was claimed: the attempt as written, and each message's move to it."""

    attempt: AttemptRow
    moves: tuple[Move, ...]


def claim(progress: Progress, call: PlannedCall) -> Claims | Conflict | None:
    """Claim what may be claimed; None if nothing was. A Conflict tells of an earlier request under the same key.

    Messages that are not known are taken to be new, which most are: a refusal brings the rows as they are. Raises
    LedgerUnavailable.
    """
    try:
        return _claim(progress, call)
    except LedgerContended:
        if progress.is_accepted or progress.request.force:
            raise
        return _accept(progress, call)


def _claim(progress: Progress, call: PlannedCall) -> Claims | Conflict | None:
    seen = {want.target.part: progress.rows.get(want.target.part) for want in call.wants}
    attempt_id = progress.ports.new_attempt_id(progress.ports.clock())
    for _ in range(_CLAIM_ROUNDS):
        if not progress.is_accepted:
            require_readable(progress.request, seen.values())
        draft = _draft(progress, call, seen, attempt_id)
        conflict = _write(progress, draft)
        if conflict is None:
            return Claims(draft.attempt, draft.moves) if draft.moves else None
        if not progress.is_accepted and any(conflict.requests.values()):
            return conflict
        # Closed, refused or cancelled meanwhile: nothing may leave for these any more.
        progress.learn_from(conflict)
        seen |= conflict.messages
    raise LedgerContended("the rows moved in every round")


@dataclass(frozen=True, slots=True)
class _Draft:
    """What one round of a claim is to write. `asks` are messages that are not claimed, and know who asked for them."""

    attempt: AttemptRow
    moves: tuple[Move, ...]
    asks: tuple[Move, ...]


def _draft(
    progress: Progress, call: PlannedCall, seen: Mapping[PostfixPart, MessageRow | None], attempt_id: AttemptId
) -> _Draft:
    """Draft the claim by the rows as they were seen last."""
    now = progress.ports.clock()
    owners = _owners(progress, call, seen)
    wants = [(want, seen[want.target.part], owners[want.target.part]) for want in call.wants]
    attempt = AttemptRow(
        account_id=progress.account_id,
        attempt=attempt_id,
        wire_form=call.wire_form,
        targets=tuple(want.target for want, _, owner in wants if owner is not None),
        owners={want.target.part: owner.request_id for want, _, owner in wants if owner is not None},
        sent_at=now,
        deadline=now + progress.ports.terms.lease,
        state=AttemptState.OPEN,
    )
    moves = [_move(progress, want, row, owner, attempt) for want, row, owner in wants if owner is not None]
    asks = [Move(row, asked_by(progress, row, want)) for want, row, owner in wants if owner is None and row is not None]
    return _Draft(attempt, tuple(moves), tuple(asks))


def _move(
    progress: Progress, want: WantedRelease, row: MessageRow | None, owner: RequestRow, attempt: AttemptRow
) -> Move:
    """Return a message's move into the attempt, and the requests that want it."""
    guard = want.guards[owner.request_id]
    after = claimed(
        row, want.target, owner, attempt, guard=guard, disposition=want.disposition, confirmed=want.confirmed
    )
    return Move(row, asked_by(progress, after, want))


def _write(progress: Progress, draft: _Draft) -> Conflict | None:
    """Write a claim, which accepts a request that is not accepted yet; or nothing, and return why."""
    rows = {move.after.part: move.after for move in (*draft.moves, *draft.asks)}
    opened = None if progress.is_accepted else progress.closed_by(progress.request, rows) or progress.request
    conflict = _transact(progress, draft, opened)
    if conflict is not None:
        return conflict
    if opened is not None:
        progress.accept(opened)
    if draft.moves:
        progress.count_call()
    progress.learn(rows)
    return None


def _transact(progress: Progress, draft: _Draft, opened: RequestRow | None) -> Conflict | None:
    """Write all of a draft in one transaction. `opened` is accepted by it."""
    ledger, owners = progress.ports.ledger, sorted(set(draft.attempt.owners.values()))
    if draft.moves:
        accepted = {name: progress.requests[name].notes for name in owners} if opened is None else {}
        return ledger.claim(draft.attempt, draft.moves, draft.asks, opened=opened, accepted=accepted)
    return ledger.accept(opened, draft.asks) if opened is not None else ledger.add_requesters(draft.asks)


def _accept(progress: Progress, call: PlannedCall) -> Conflict | None:
    """Accept a request without a claim, because others contend for its messages; the worker claims what is left.

    Many callers ask for one message at once, and one of them releases it. The others must not fail over its row.
    """
    opened = progress.closed_by(progress.request, {}) or progress.request
    conflict = progress.ports.ledger.accept(opened)
    if conflict is None:
        progress.accept(opened)
        note_apart(progress, call.wants)
    return conflict


def require_readable(request: RequestRow, rows: Iterable[MessageRow | None]) -> None:
    """Raise RowUnreadable if any message of a request that is not accepted yet cannot be read."""
    unreadable = {row.part for row in rows if row is not None and not row.is_readable}
    if unreadable:
        given = [each for each in request.ids if postfix_part(request.resolved.get(each, each)) in unreadable]
        raise RowUnreadable("M", "a message that is wanted", given)


def _owners(
    progress: Progress, call: PlannedCall, seen: Mapping[PostfixPart, MessageRow | None]
) -> dict[PostfixPart, RequestRow | None]:
    """Say for whom each message is claimed; for nobody where the claim would be too large for a transaction."""
    owners: dict[PostfixPart, RequestRow | None] = {}
    names: set[RequestId] = set()
    for number, want in enumerate(call.wants, start=1):
        owner = _owner(progress, want, seen[want.target.part])
        if owner is not None and number + len(names | {owner.request_id}) > CLAIM_LIMIT:
            owner = None
        owners[want.target.part] = owner
        names |= {owner.request_id} if owner is not None else set()
    return owners


def _owner(progress: Progress, want: WantedRelease, row: MessageRow | None) -> RequestRow | None:
    """Return the request that a message is claimed for, if one may."""
    now = progress.ports.clock()
    for name in want.requests:
        request = progress.requests.get(name) if name in want.guards else None
        if request is None or not request.may_claim or want.target.part in request.ended_parts:
            continue
        # Whose caller still waits is told no before the call, and whether it was refused is then in its row.
        if progress.was_accepted_before and progress.waits(request):
            continue
        meant = Target(want.target.part, want.confirmed or want.target.message_id)
        if claimable(row, meant, force=request.force, now=now):
            return request
    return None
