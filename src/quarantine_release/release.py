"""The use case of a request: take it on, release inline what may be, tell what came of it, cancel.

Pure but for its ports. What is not released inline goes on in the worker (`batch.py`), through the same claim, call
and record.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from typing import Final

from quarantine_release.attempt import CALL_SECONDS, RECORD_SECONDS, Answer, Call, Run, Want, calls_of
from quarantine_release.outcome import PostfixPart, RefusalReason, Stop, postfix_part
from quarantine_release.ports import Conflict, Hint, LedgerUnavailable, Mark, Ports
from quarantine_release.trace import RequestRow, RequestState, Target, WireForm, claimable, targets_of

# What has not been released by then leaves no more: nobody would expect it.
EXPIRY: Final = timedelta(hours=24)
# So many messages a hint stands for: with the request and the attempt they are one claim.
CHUNK: Final = 98


@dataclass(frozen=True, slots=True)
class Refusal:
    """The caller is told no: nothing was released, nothing will be. `retry_after` in seconds.

    `stop` is why, if a person has paused releases.
    """

    reason: RefusalReason
    retry_after: int | None
    request: RequestRow
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The idempotency key belongs to another payload. Nothing was written."""

    request: RequestRow


def release(request: RequestRow, ports: Ports, *, inline: bool = True) -> Answer | Refusal | KeyReused:
    """Take a request on, release now what may be released now, and tell what came of each id.

    The rest is left to the worker. A forced request is done now or not at all. Raises LedgerUnavailable if it is not
    known whether the request was accepted.
    """
    run = Run([request], ports, is_accepted=False)
    wants = [Want(target, (request.request_id,)) for target in targets_of(request.ids)]
    # No target is still one (empty) claim, which accepts the request.
    calls = calls_of(wants, {}, ports.wire_form) if inline else []
    waiting = deque(calls or [Call(WireForm.OBJECT, ())])
    while waiting:
        call = waiting[0]
        has_time = ports.time_left() >= CALL_SECONDS + RECORD_SECONDS
        wait = 0.0
        try:
            if has_time and call.wants:
                wait = ports.budget.take(request.account_id, Mark.ALL if request.force else Mark.INLINE)
            stop = run.stop_of(request)  # after the call was taken, which has read the row that tells it
        except LedgerUnavailable:
            if not run.is_accepted:
                raise
            break  # the earlier call's outcome must still reach the caller
        may_call = has_time and call.wants and not wait
        if stop is not None and may_call:
            ports.budget.put_back(request.account_id)
        if stop is not None or (request.force and call.wants and not may_call):
            if run.is_accepted:
                break
            earlier = ports.ledger.requests([request.request_id]).get(request.request_id)
            if earlier is not None and earlier.state is not RequestState.REFUSED:
                return _replay(request, Conflict({request.request_id: earlier}, {}), ports)
            if stop is not None:
                return Refusal(RefusalReason.PAUSED, None, request, stop)
            reason = RefusalReason.RATE_LIMITED if has_time else RefusalReason.NO_TIME
            return Refusal(reason, ceil(wait) or None, request)
        waiting.popleft()
        try:
            claims = run.claim(call if may_call else replace(call, wants=()))
        except LedgerUnavailable:
            if not run.is_accepted:
                raise
            claims = None  # the earlier call's outcome must still reach the caller
        if isinstance(claims, Conflict):
            return _replay(request, claims, ports)
        if claims is None:
            continue
        no = run.call(claims, is_last=not waiting)
        if no is not None:
            if run.request.state is RequestState.REFUSED:
                return Refusal(no.reason, no.retry_after, run.request, no.stop)
            break
    if request.force:
        run.end_without_call(request, [want.target for call in waiting for want in call.wants])
    (answer,) = run.finish()
    hints = hints_of(answer.request, free_of(answer.request, run))
    if hints:
        ports.queue.send(hints)
    return answer


def _replay(request: RequestRow, conflict: Conflict, ports: Ports) -> Answer | KeyReused:
    earlier = conflict.requests[request.request_id]
    assert earlier is not None  # noqa: S101  only what is there conflicts with a request that is new
    if earlier.fingerprint != request.fingerprint:
        return KeyReused(earlier)
    run = Run([earlier], ports, is_accepted=True)
    run.rows = {part: row for part, row in conflict.messages.items() if row is not None}
    missing = [target.part for target in targets_of(earlier.ids) if target.part not in run.rows]
    if missing:
        run.rows |= ports.ledger.messages(earlier.account_id, missing)
    (answer,) = run.finish()
    return replace(answer, replayed=True)


def look_up(request: RequestRow, ports: Ports) -> Answer:
    """Tell what an accepted request has come to, and close it if it has ended. Raises LedgerUnavailable."""
    run = Run([request], ports, is_accepted=True)
    run.rows = ports.ledger.messages(request.account_id, [target.part for target in targets_of(request.ids)])
    (answer,) = run.finish()
    return answer


def cancel(request: RequestRow, ports: Ports) -> Answer:
    """End every id of an accepted request that is not claimed yet; what has ended or is under way stays as it is.

    The request first, then a look at the rows: from the one on nothing is claimed for it, and the other finds every
    claim that came before. Raises LedgerUnavailable.
    """
    if request.may_claim:
        cancelled = replace(request, cancelled_at=ports.clock())
        request = ports.ledger.cancel(cancelled) or cancelled
    return look_up(request, ports)


def free_of(request: RequestRow, run: Run) -> set[PostfixPart]:
    """Return the messages that an open request still waits for and that may be claimed for it."""
    if not request.may_claim:
        return set()
    now = run.ports.clock()
    ended = {postfix_part(result.id) for result in run.results(request) if result.is_end}
    free = {t.part for t in targets_of(request.ids) if claimable(run.rows.get(t.part), t, force=False, now=now)}
    return free - ended


def hints_of(request: RequestRow, parts: set[PostfixPart]) -> list[Hint]:
    """Return a hint for each chunk of the request that holds one of these messages."""
    targets = targets_of(request.ids)
    chunks = {position // CHUNK for position, target in enumerate(targets) if target.part in parts}
    return [Hint(request.request_id, chunk) for chunk in sorted(chunks)]


def hinted(request: RequestRow, chunk: int | None) -> Sequence[Target]:
    """Return the messages that a hint stands for; none for a chunk that the request does not have."""
    targets = targets_of(request.ids)
    return targets if chunk is None else targets[chunk * CHUNK : (chunk + 1) * CHUNK]
