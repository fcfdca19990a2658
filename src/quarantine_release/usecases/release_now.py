"""A caller waits: accept the request, and release at once what may be released. Pure but for its ports.

The worker continues with what is left (`release_queued.py`), through the same claim, call and record.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import Call, Want, calls_of
from quarantine_release.domain.rows import RequestRow, RequestState, WireForm
from quarantine_release.domain.verdicts import RefusalReason, Refused, Stop
from quarantine_release.releasing.call import CALL_SECONDS, RECORD_SECONDS, dispatch
from quarantine_release.releasing.confirm import confirm
from quarantine_release.releasing.hints import free_of, hints_of
from quarantine_release.releasing.ports import Conflict, Ports, Reservation
from quarantine_release.releasing.progress import Answer, Run
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases.accepted_request import replay
from quarantine_release.usecases.admission import Refusal, Reply, admit, begin, end_waiting, refuse
from quarantine_release.usecases.rehearse import rehearse

_PROOF_SECONDS: Final = 6.0

# A claim of nothing, which only accepts the request.
_NO_CALL: Final = Call(WireForm.OBJECT, ())


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
    run, vetting = begin(request, ports)
    wants = admit(run, vetting)
    if not isinstance(wants, list):
        return wants
    return _send(run, vetting, _plan(run, wants), Mark.INLINE) or _answer(run, vetting)


def release_later(request: RequestRow, ports: Ports) -> Reply:
    """Accept a request, and leave all of it to the worker."""
    run, vetting = begin(request, ports)
    return _send(run, vetting, deque(), Mark.INLINE) or _answer(run, vetting)


def release_forced(request: RequestRow, ports: Ports) -> Reply:
    """Release what may be released now, and end the rest: nobody else continues with it."""
    run, vetting = begin(request, ports)
    wants = admit(run, vetting)
    if not isinstance(wants, list):
        return wants
    refusal = end_waiting(run, vetting, is_nothing_left=not wants)
    if refusal is not None:
        return refusal
    waiting = _plan(run, wants)
    reply = _send(run, vetting, waiting, Mark.ALL, must_call=True)
    if reply is not None:
        return reply
    run.end_without_call(request, [want.target for call in waiting for want in call.wants])
    return _answer(run, vetting)


def _plan(run: Run, wants: Sequence[Want]) -> deque[Call]:
    return deque(calls_of(wants, run.rows, run.ports.wire_form))


@dataclass(frozen=True, slots=True)
class _NotNow:
    """Why no more calls may be made now. `wait` in seconds."""

    reason: RefusalReason
    wait: float = 0.0
    stop: Stop | None = None


def _send(run: Run, vetting: Vetting, waiting: deque[Call], mark: Mark, *, must_call: bool = False) -> Reply | None:
    """Accept the request with its first claim, and make its calls one after the other. The rest stays in `waiting`.

    Return what the caller is told instead, if it was made before or is refused. With `must_call`, nothing is accepted
    without a call; otherwise the first claim may hold nothing.
    """
    waiting.extend(() if waiting else (_NO_CALL,))
    while waiting:
        with run.ports.budget.reserve(run.account_id, mark) as reserved:
            not_now = _reserve(run, waiting[0], reserved, must_call=must_call)
            if not_now is not None:
                return _stop(run, not_now)
            planned = waiting.popleft()
            if not run.is_accepted:
                vetting.findings.tell_trace(run.request)  # before anybody is told
            claimed = planned if reserved.is_taken else replace(planned, wants=())
            sent = dispatch(run, claimed, reserved, is_last=not waiting)
        if isinstance(sent, Conflict):
            return replay(run.request, sent, run.ports)
        if isinstance(sent, Refused):
            return _refusal(run, sent)
    return None


def _reserve(run: Run, planned: Call, reserved: Reservation, *, must_call: bool) -> _NotNow | None:
    """Take a call for the messages that come next. Return why it and all that follow may not be sent now."""
    has_time = run.ports.time_left() >= CALL_SECONDS + RECORD_SECONDS
    try:
        wait = reserved.take() if has_time and planned.wants else 0.0
        stop = run.stop_of(run.request)  # after the call was taken, which has read the row that tells it
    except LedgerUnavailable:
        if not run.is_accepted:
            raise
        return _NotNow(RefusalReason.NO_TIME)  # what came of the earlier calls must still reach the caller
    if stop is not None:
        return _NotNow(RefusalReason.PAUSED, stop=stop)
    if must_call and planned.wants and not reserved.is_taken:
        return _NotNow(RefusalReason.RATE_LIMITED if has_time else RefusalReason.NO_TIME, wait)
    return None


def _stop(run: Run, not_now: _NotNow) -> Reply | None:
    """Refuse a request that is not accepted yet. One that is has calls whose outcome its caller must still get."""
    if run.is_accepted:
        return None
    return refuse(run.request, run.ports, not_now.reason, not_now.wait, not_now.stop)


def _refusal(run: Run, sent: Refused) -> Refusal | None:
    """Return what the caller is told after a call without effect, if the request was refused with it."""
    if run.request.state is not RequestState.REFUSED:
        return None
    return Refusal(sent.reason, sent.retry_after, run.request, sent.stop)


def _answer(run: Run, vetting: Vetting) -> Answer:
    """Read back what was released, close the request if it has ended, and have the worker continue if it has not."""
    ports = run.ports
    confirm(run, ports, seconds=_PROOF_SECONDS, spared=RECORD_SECONDS)
    (answer,) = run.finish()
    request = answer.request
    hints = hints_of(request, free_of(request, run))
    if hints:
        ports.queue.send(hints, vetting.findings.retries(ports.clock(), 0.0).get(request.request_id, 0.0))
    return answer
