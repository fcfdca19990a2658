"""Has the trace of each message know which requests want it, and by which id. Pure but for its ports."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from quarantine_release.domain.facts import combined, is_news
from quarantine_release.domain.ids import MessageId, PostfixPart, RequestId
from quarantine_release.domain.ledger_errors import LedgerContended, LedgerUnavailable
from quarantine_release.domain.packing import CLAIM_LIMIT, WantedRelease
from quarantine_release.domain.rows import MessageRow, RequestRow, Target
from quarantine_release.domain.transitions import asked
from quarantine_release.releasing.ports import Move
from quarantine_release.releasing.progress import Progress

_ROUNDS: Final = 8


def ask_for(progress: Progress, wants: Sequence[WantedRelease]) -> None:
    """Have the trace of each message know who wants it, of whom it may not have heard before."""
    for start in range(0, len(wants), CLAIM_LIMIT):
        some = wants[start : start + CLAIM_LIMIT]
        try:
            _ask_for(progress, some)
        except LedgerContended:
            note_apart(progress, some)


def _ask_for(progress: Progress, some: Sequence[WantedRelease]) -> None:
    for _ in range(_ROUNDS):
        known = [(row, asked_by(progress, row, want)) for want in some if (row := progress.rows.get(want.target.part))]
        asks = [Move(row, after) for row, after in known if after != row]
        conflict = progress.ports.ledger.add_requesters(asks) if asks else None
        if conflict is None:
            progress.learn({move.after.part: move.after for move in asks})
            return
        progress.learn(conflict.messages)
    raise LedgerContended("the rows moved in every round")


def ask_each(
    progress: Progress, targets: Iterable[tuple[RequestRow, Iterable[Target]]], *, is_repeat: bool = False
) -> None:
    """Have the trace of each message know the requests that still want it, each under its own id.

    These ids may contradict each other: which of them is right, only a reading tells. A repeat counts nobody twice
    where more have asked than are kept.
    """
    ids: dict[PostfixPart, dict[RequestId, MessageId]] = {}
    for request, own in targets:
        for target in own if request.may_ask else ():
            row = progress.rows.get(target.part)
            is_counted = is_repeat and row is not None and row.asks_uncounted > 0
            if target.part not in request.ended_parts and not is_counted:
                ids.setdefault(target.part, {})[request.request_id] = target.message_id
    wants = [
        WantedRelease(Target(part, next(iter(named.values()))), tuple(named), named=named)
        for part, named in ids.items()
    ]
    ask_for(progress, wants)


def asked_by(progress: Progress, row: MessageRow, want: WantedRelease) -> MessageRow:
    """Return the message as also wanted by these requests. One whose row cannot be read stays as it is."""
    if not row.is_readable:
        return row
    for name in want.requests:
        if name in progress.requests:
            given = want.named.get(name, want.target.message_id)
            row = asked(row, Target(want.target.part, given), progress.requests[name])
    facts = combined((row.facts, want.facts))
    return replace(row, facts=facts) if is_news(facts, row.facts) else row


def note_apart(progress: Progress, wants: Sequence[WantedRelease]) -> None:
    """Name those who ask in a row of its own for each message, because others contend for the message's row.

    Plain additions do not contend with each other. If one fails, the request is only missing in the trace; but what was
    read of a message must be kept. Raises LedgerUnavailable if it is not.
    """
    parts: dict[RequestId, list[PostfixPart]] = {}
    for want in wants:
        for name in want.requests:
            parts.setdefault(name, []).append(want.target.part)
    until = progress.ports.terms.expiry(progress.ports.clock())
    facts = {want.target.part: want.facts for want in wants if want.facts is not None}
    for name, some in parts.items():
        try:
            progress.ports.ledger.note_unclaimed(progress.account_id, some, name, until, facts)
        except LedgerUnavailable:
            if not facts.keys().isdisjoint(some):
                raise
