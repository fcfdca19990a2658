"""What the rows mean for a request: what it may release, and the result of each of its ids. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from quarantine_release.domain.guard import Ended, Guarded
from quarantine_release.domain.identity import with_candidate
from quarantine_release.domain.ids import MessageId, PostfixPart, contradict, postfix_part
from quarantine_release.domain.rows import MessageRow, RequestRow, Target, targets_by_part
from quarantine_release.domain.states import LETTERS, Code, Outcome, State, has_one_key, may_claim
from quarantine_release.domain.verdicts import Seen


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one id of a request: `id` as given, `resolved` if a lookup found another."""

    id: MessageId
    outcome: Outcome
    code: Code | None
    row: MessageRow | None
    resolved: MessageId | None = None
    ended: Ended | None = None

    @property
    def part(self) -> PostfixPart:
        """Return the message's part of the id."""
        return postfix_part(self.resolved or self.id)

    @property
    def guard(self) -> Guarded | None:
        """Return how the message came past the guard, or would in a dry run."""
        holder = self.ended or self.row
        return holder.guard if holder is not None else None

    @property
    def disposition(self) -> str | None:
        """Return what the message was read to be."""
        holder = self.ended or self.row
        return holder.disposition if holder is not None else None

    @property
    def is_end(self) -> bool:
        """Return whether this id has ended for the request."""
        return self.outcome.is_end

    @property
    def retryable(self) -> bool:
        """Return whether the same request may get further if it is sent again as a new one."""
        return self.code in _PASSING or self.outcome in (Outcome.CANCELLED, Outcome.EXPIRED, Outcome.WOULD_RELEASE)


_PASSING: Final = frozenset({Code.NOT_ATTEMPTED, Code.GUARD_UNAVAILABLE, Code.LOOKUP_UNAVAILABLE})

_READ_WITHIN: Final = timedelta(days=1)

_ASKED_WITHIN: Final = timedelta(seconds=120)


def claimable(row: MessageRow | None, target: Target, *, force: bool, now: datetime) -> bool:
    """Return whether this request may release this message now. An ended row past its time counts as absent."""
    if not has_one_key(target.message_id):
        return False
    if row is None:
        return True
    if row.own_id is not None and contradict(row.own_id, target.message_id):
        return False
    return is_forgotten(row, now) or may_claim(row.state, row.code, force=force)


def is_forgotten(row: MessageRow, now: datetime) -> bool:
    """Return whether DynamoDB may delete the row at any moment: it deletes late, and nothing may depend on when."""
    return row.expires_at is not None and row.expires_at <= now


def derive_results(request: RequestRow, rows: Mapping[PostfixPart, MessageRow], now: datetime) -> tuple[Result, ...]:
    """Return the result of each id of a request, in the order given."""
    targets = targets_by_part(request.wanted_ids)
    letters = request.letters or [None] * len(request.ids)
    closed_as = [LETTERS[letter] if letter is not None else None for letter in letters]
    return tuple(
        _result(request, given, targets, rows, now, stored)
        for given, stored in zip(request.ids, closed_as, strict=True)
    )


# The outcome of one id as its caller sees it.
_Meaning = tuple[Outcome, Code | None]

_IN_PROGRESS: Final[_Meaning] = (Outcome.IN_PROGRESS, None)

_UNDER_REVIEW: Final[_Meaning] = (Outcome.NEEDS_REVIEW, Code.UNSETTLED)


def _result(
    request: RequestRow,
    given: MessageId,
    targets: Mapping[PostfixPart, Target],
    rows: Mapping[PostfixPart, MessageRow],
    now: datetime,
    stored: _Meaning | None,
) -> Result:
    """Return the result of one id. `stored`: what a closed request keeps of it."""
    resolved = request.resolved.get(given)
    if ended := request.ended.get(given):
        return Result(given, ended.outcome, ended.code, None, resolved, ended)
    message_id = resolved or given
    row = rows.get(postfix_part(message_id))
    if row is not None and not row.is_readable:
        return Result(given, *(stored or _IN_PROGRESS), row, resolved)
    meaning = _of_id(request, message_id, targets, row, now)
    is_claimed = row is not None and row.state is State.RELEASING
    if _is_cancelled(request, meaning[0], is_claimed=is_claimed):
        meaning, row = (Outcome.CANCELLED, None), None
    if _is_over(request, meaning[0], is_claimed=is_claimed):
        meaning = (Outcome.FAILED, Code.NOT_ATTEMPTED)
    if stored is not None:
        meaning, row = _as_closed(stored, meaning, row)
    # An id that contradicts the message was never sent, so the message's outcome is not its own.
    return Result(given, *meaning, None if meaning[1] is Code.ID_CONFLICT else row, resolved)


def _of_id(
    request: RequestRow,
    message_id: MessageId,
    targets: Mapping[PostfixPart, Target],
    row: MessageRow | None,
    now: datetime,
) -> _Meaning:
    """Return the outcome of a message under an id, which may contradict the request's other ids or the message."""
    target = targets.get(postfix_part(message_id))
    is_wrong = row is not None and row.own_id is not None and contradict(row.own_id, message_id)
    if target is None or is_wrong:
        return Outcome.NEEDS_REVIEW, Code.ID_CONFLICT
    return _of_row(request, target.message_id, row, now)


def _as_closed(stored: _Meaning, meaning: _Meaning, row: MessageRow | None) -> tuple[_Meaning, MessageRow | None]:
    """Return what a closed request keeps, unless a message under review has ended since.

    The row is shown only where it says the same: it may have moved for another request.
    """
    if stored == _UNDER_REVIEW and meaning[0].is_end:
        return meaning, row
    return stored, row if stored == meaning else None


def _is_cancelled(request: RequestRow, outcome: Outcome, *, is_claimed: bool) -> bool:
    """Return whether a cancellation has ended an id. A message that was claimed before still reaches its own end."""
    return request.cancelled_at is not None and outcome is Outcome.IN_PROGRESS and not is_claimed


def _is_over(request: RequestRow, outcome: Outcome, *, is_claimed: bool) -> bool:
    """Return whether a dry run waits for a release that was under way when it looked, and then did not happen.

    Nothing is ever claimed for a dry run, so nobody else would end it.
    """
    return request.dry_run and outcome is Outcome.IN_PROGRESS and not is_claimed


def _of_row(request: RequestRow, wanted: MessageId, row: MessageRow | None, now: datetime) -> _Meaning:
    """Return the outcome of a message that the request wants under this id."""
    if row is None or _may_be_tried(row, request, wanted, now):
        return Outcome.IN_PROGRESS, None
    match row.state:
        case State.RELEASED if row.owner == request.request_id:
            return Outcome.RELEASED, None
        case State.RELEASED:
            return Outcome.ALREADY_RELEASED, None
        case State.PARTIAL:
            return Outcome.PARTIALLY_RELEASED, Code.PARTLY_DELIVERED
        case State.FAILED:
            return Outcome.FAILED, row.code
        case State.NEEDS_REVIEW if _is_to_be_read(row, request, wanted, now):
            return Outcome.UNCONFIRMED, Code.UNSETTLED
        case State.NEEDS_REVIEW:
            return Outcome.NEEDS_REVIEW, Code.UNSETTLED
        case State.UNKNOWN:
            return Outcome.UNCONFIRMED, row.code
        case State.RELEASING if row.deadline is not None and row.deadline <= now:
            return Outcome.UNCONFIRMED, Code.NO_ANSWER
    return Outcome.IN_PROGRESS, None


def _may_be_tried(row: MessageRow, request: RequestRow, wanted: MessageId, now: datetime) -> bool:
    """Return whether the message may be sent again for this request.

    It may if it was rejected under other ids only, or if it was rejected or had expired before the request was made.
    """
    is_rejected = row.state is State.FAILED and row.code is Code.CLOUDFLARE_REJECTED
    if is_rejected and wanted not in row.rejected | {row.message_id}:
        return True
    return row.updated_at < request.created_at and (is_rejected or is_forgotten(row, now))


def _is_to_be_read(row: MessageRow, request: RequestRow, wanted: MessageId, now: datetime) -> bool:
    """Return whether a message under review is to be read by this id for the first time: for a day at most."""
    was_clear = row.evidence is None or row.evidence.seen is not Seen.UNCLEAR
    ids = with_candidate(row, wanted).candidates if _is_yet_to_ask(row, request, now) else row.candidates
    return wanted in ids and was_clear and now < request.created_at + _READ_WITHIN


def _is_yet_to_ask(row: MessageRow, request: RequestRow, now: datetime) -> bool:
    """Return whether the request may not be in the row's `asks` yet.

    A queued request is accepted first; the worker or the sweep adds it later. If `asks` is full, the row no longer
    shows whether the request was counted, so only the time that a worker needs is allowed.
    """
    if request.request_id in row.asks or not request.may_ask:
        return False
    return not row.asks_uncounted or now < request.created_at + _ASKED_WITHIN
