"""A caller waits: accept the request, and release at once what may be released. Pure but for its ports.

The worker continues with what is left (`release_queued.py`), through the same claim, call and record.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import PlannedCall, WantedRelease, plan_calls
from quarantine_release.domain.rows import RequestRow, RequestState, WireForm
from quarantine_release.domain.verdicts import NoEffect, RefusalReason, Stop
from quarantine_release.releasing.call import CALL_SECONDS, RECORD_SECONDS, dispatch
from quarantine_release.releasing.confirm import confirm
from quarantine_release.releasing.hints import claimable_parts, plan_hints
from quarantine_release.releasing.ports import Conflict, Ports, Reservation
from quarantine_release.releasing.progress import Answer, Progress
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases.accepted_request import replay
from quarantine_release.usecases.admission import NotAccepted, Reply, admit, begin, end_waiting, refuse
from quarantine_release.usecases.rehearse import rehearse

_PROOF_SECONDS: Final = 6.0

# A claim of nothing, which only accepts the request.
_NO_CALL: Final = PlannedCall(WireForm.OBJECT, ())


def release(request: RequestRow, ports: Ports, *, inline: bool = True) -> Reply:
    """Accept a request, release now what may be released now, and report each id.

    Raises LedgerUnavailable if it is not known whether the request was accepted, and RowUnreadable if it was not,
    because a row that it needs cannot be read.
    """
    if request.dry_run:
        return rehearse(request, ports)
    if not inline:
        return release_later(request, ports)
    return release_forced(request, ports) if request.force else release_now(request, ports)


def release_now(request: RequestRow, ports: Ports) -> Reply:
    """Release what may be released now; the worker gets the rest."""
    progress, vetting = begin(request, ports)
    wants = admit(progress, vetting)
    if not isinstance(wants, list):
        return wants
    return _send(progress, vetting, _plan(progress, wants), Mark.INLINE) or _answer(progress, vetting)


def release_later(request: RequestRow, ports: Ports) -> Reply:
    """Accept a request, and leave all of it to the worker."""
    progress, vetting = begin(request, ports)
    return _send(progress, vetting, deque(), Mark.INLINE) or _answer(progress, vetting)


def release_forced(request: RequestRow, ports: Ports) -> Reply:
    """Release what may be released now, and end the rest: nobody else continues with it."""
    progress, vetting = begin(request, ports)
    wants = admit(progress, vetting)
    if not isinstance(wants, list):
        return wants
    refusal = end_waiting(progress, vetting, is_nothing_left=not wants)
    if refusal is not None:
        return refusal
    waiting = _plan(progress, wants)
    reply = _send(progress, vetting, waiting, Mark.ALL, must_call=True)
    if reply is not None:
        return reply
    progress.end_without_call(request, [want.target for call in waiting for want in call.wants])
    return _answer(progress, vetting)


def _plan(progress: Progress, wants: Sequence[WantedRelease]) -> deque[PlannedCall]:
    return deque(plan_calls(wants, progress.rows, progress.ports.wire_form))


@dataclass(frozen=True, slots=True)
class _NotNow:
    """Why no more calls may be made now. `wait` in seconds."""

    reason: RefusalReason
    wait: float = 0.0
    stop: Stop | None = None


def _send(
    progress: Progress, vetting: Vetting, waiting: deque[PlannedCall], mark: Mark, *, must_call: bool = False
) -> Reply | None:
    """Accept the request with its first claim, and make its calls one after the other. The rest stays in `waiting`.

    Return what the caller is told instead, if it was made before or is refused. With `must_call`, nothing is accepted
    without a call; otherwise the first claim may hold nothing.
    """
    waiting.extend(() if waiting else (_NO_CALL,))
    while waiting:
        with progress.ports.budget.reserve(progress.account_id, mark) as reserved:
            not_now = _reserve(progress, waiting[0], reserved, must_call=must_call)
            if not_now is not None:
                return _stop(progress, not_now)
            planned = waiting.popleft()
            if not progress.is_accepted:
                vetting.findings.tell_trace(progress.request)  # before anybody is told
            claimed = planned if reserved.is_taken else replace(planned, wants=())
            sent = dispatch(progress, claimed, reserved, is_last=not waiting)
        if isinstance(sent, Conflict):
            return replay(progress.request, sent, progress.ports)
        if isinstance(sent, NoEffect):
            return _refusal(progress, sent)
    return None


def _reserve(progress: Progress, planned: PlannedCall, reserved: Reservation, *, must_call: bool) -> _NotNow | None:
    """Take a call for the messages that come next. Return why it and all that follow may not be sent now."""
    has_time = progress.ports.time_left() >= CALL_SECONDS + RECORD_SECONDS
    try:
        wait = reserved.take() if has_time and planned.wants else 0.0
        stop = progress.active_pause(progress.request)  # after the call was taken, which has read the row that tells it
    except LedgerUnavailable:
        if not progress.is_accepted:
            raise
        return _NotNow(RefusalReason.NO_TIME)  # what came of the earlier calls must still reach the caller
    if stop is not None:
        return _NotNow(RefusalReason.PAUSED, stop=stop)
    if must_call and planned.wants and not reserved.is_taken:
        return _NotNow(RefusalReason.RATE_LIMITED if has_time else RefusalReason.NO_TIME, wait)
    return None


def _stop(progress: Progress, not_now: _NotNow) -> Reply | None:
    """Refuse a request that is not accepted yet. One that is has calls whose outcome its caller must still get."""
    if progress.is_accepted:
        return None
    return refuse(progress.request, progress.ports, not_now.reason, not_now.wait, not_now.stop)


def _refusal(progress: Progress, sent: NoEffect) -> NotAccepted | None:
    """Return what the caller is told after a call without effect, if the request was refused with it."""
    if progress.request.state is not RequestState.REFUSED:
        return None
    return NotAccepted(sent.reason, sent.retry_after, progress.request, sent.stop)


def _answer(progress: Progress, vetting: Vetting) -> Answer:
    """Read back what was released, close the request if it has ended, and have the worker continue if it has not."""
    ports = progress.ports
    confirm(progress, ports, seconds=_PROOF_SECONDS, spared=RECORD_SECONDS)
    (answer,) = progress.finish()
    request = answer.request
    hints = plan_hints(request, claimable_parts(request, progress))
    if hints:
        ports.queue.send(hints, vetting.findings.retries(ports.clock(), 0.0).get(request.request_id, 0.0))
    return answer
