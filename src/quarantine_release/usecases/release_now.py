"""A caller waits: take the request on, and release inline what may be. Pure but for its ports.

What is not released inline goes on in the worker (`release_queued.py`), through the same claim, call and record.
"""

from collections import deque
from dataclasses import dataclass, replace
from math import ceil
from typing import Final

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.guard import Mode
from quarantine_release.domain.ids import ALERT_ID, is_header, postfix_part
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.packing import Call, Want, calls_of
from quarantine_release.domain.results import claimable
from quarantine_release.domain.rows import RequestRow, RequestState, WireForm, targets_of
from quarantine_release.domain.verdicts import RefusalReason, Stop
from quarantine_release.releasing.call import CALL_SECONDS, RECORD_SECONDS, make_call
from quarantine_release.releasing.claim import claim, require_readable
from quarantine_release.releasing.confirm import confirm
from quarantine_release.releasing.hints import free_of, hints_of
from quarantine_release.releasing.ports import Conflict, Ports
from quarantine_release.releasing.progress import Acceptance, Answer, Run
from quarantine_release.releasing.resolving import question_of
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases.accepted_request import KeyReused, replay
from quarantine_release.usecases.rehearse import rehearse

_VETTING_SECONDS: Final = 5.0

_PROOF_SECONDS: Final = 6.0


@dataclass(frozen=True, slots=True)
class Refusal:
    """The caller is told no: nothing was released, nothing will be. `retry_after` in seconds.

    `stop` is why, if a person has paused releases.
    """

    reason: RefusalReason
    retry_after: int | None
    request: RequestRow
    stop: Stop | None = None


def release(request: RequestRow, ports: Ports, *, inline: bool = True) -> Answer | Refusal | KeyReused:
    """Take a request on, release now what may be released now, and tell what came of each id.

    The rest is left to the worker. A forced request is done now or not at all, and so is a dry run, which is only told
    what would be done. Raises LedgerUnavailable if it is not known whether the request was accepted, and RowUnreadable
    if it was not, because a row that it needs cannot be read.
    """
    run = Run([request], ports, Acceptance.NOT_YET)
    mark = Mark.ALL if request.force else Mark.INLINE
    vetting = Vetting(run, ports, mark, seconds=_VETTING_SECONDS, spared=CALL_SECONDS + RECORD_SECONDS)
    wants: list[Want] = []
    if inline:
        is_held = ports.guard.mode is not Mode.OFF or request.policy is not None
        if is_held or request.dry_run or any(is_header(each) or ALERT_ID.match(each) for each in request.ids):
            earlier = _look_up_first(run, vetting, ports)
            if earlier is not None:
                return replay(request, Conflict({request.request_id: earlier}, {}), ports)
            stop = None if request.dry_run else run.stop_of(request)
            if stop is not None:  # before anything is read: who asks again and again would use up others' calls
                return _refuse(request, ports, RefusalReason.PAUSED, stop=stop)
        wants = _vetted(run, vetting)
    if vetting.findings.is_refused:
        return _refuse(request, ports, RefusalReason.CREDENTIALS)
    if vetting.findings.is_waiting and (request.force or request.dry_run):  # nobody would go on with them
        if not wants and not run.request.ended:
            if vetting.findings.are_all_new:
                wait = vetting.findings.searchable_in(ports.clock())
                return _refuse(request, ports, RefusalReason.NOT_SEARCHABLE_YET, wait)
            pause = ports.budget.pause_left(request.account_id)
            return _refuse(request, ports, RefusalReason.RATE_LIMITED if pause else RefusalReason.NO_TIME, pause)
        vetting.findings.end_waiting()
    if request.dry_run:
        return rehearse(run, vetting, wants)
    # No target is still one (empty) claim, which accepts the request.
    calls = calls_of(wants, run.rows, ports.wire_form)
    waiting = deque(calls or [Call(WireForm.OBJECT, ())])
    while waiting:
        call = waiting[0]
        has_time = ports.time_left() >= CALL_SECONDS + RECORD_SECONDS
        wait = 0.0
        with ports.budget.reserve(request.account_id, mark) as reserved:
            try:
                if has_time and call.wants:
                    wait = reserved.take()
                stop = run.stop_of(request)  # after the call was taken, which has read the row that tells it
            except LedgerUnavailable:
                if not run.is_accepted:
                    raise
                break  # the earlier call's outcome must still reach the caller
            if stop is not None or (request.force and call.wants and not reserved.is_taken):
                if run.is_accepted:
                    break
                if stop is not None:
                    return _refuse(request, ports, RefusalReason.PAUSED, stop=stop)
                return _refuse(request, ports, RefusalReason.RATE_LIMITED if has_time else RefusalReason.NO_TIME, wait)
            waiting.popleft()
            if not run.is_accepted:
                vetting.findings.tell_trace(run.request)  # before anybody is told
            try:
                claims = claim(run, call if reserved.is_taken else replace(call, wants=()))
            except LedgerUnavailable:
                if not run.is_accepted:
                    raise
                claims = None  # the earlier call's outcome must still reach the caller
            if isinstance(claims, Conflict):
                return replay(request, claims, ports)
            if claims is None:
                continue
            no = make_call(run, claims, reserved, is_last=not waiting)
            if no is not None:
                if run.request.state is RequestState.REFUSED:
                    return Refusal(no.reason, no.retry_after, run.request, no.stop)
                break
    if request.force:
        run.end_without_call(request, [want.target for call in waiting for want in call.wants])
    confirm(run, ports, seconds=_PROOF_SECONDS, spared=RECORD_SECONDS)
    (answer,) = run.finish()
    hints = hints_of(answer.request, free_of(answer.request, run))
    if hints:
        ports.queue.send(hints, vetting.findings.retries(ports.clock(), 0.0).get(request.request_id, 0.0))
    return answer


def _refuse(
    request: RequestRow, ports: Ports, reason: RefusalReason, wait: float = 0.0, stop: Stop | None = None
) -> Answer | Refusal | KeyReused:
    """Refuse what is not accepted yet; but if it was made before, answer as it was then."""
    earlier = ports.ledger.known(request.account_id, request.request_id, [], []).request
    if earlier is not None and _stands(earlier, request):
        return replay(request, Conflict({request.request_id: earlier}, {}), ports)
    return Refusal(reason, ceil(wait) or None, request, stop)


def _stands(earlier: RequestRow, request: RequestRow) -> bool:
    is_kept = earlier.expires_at is None or earlier.expires_at > request.created_at
    return is_kept and earlier.state is not RequestState.REFUSED


def _look_up_first(run: Run, vetting: Vetting, ports: Ports) -> RequestRow | None:
    """Read what the ledger knows of the request, its messages and its Message-IDs; return it if it was made before."""
    request = run.request
    headers = [given for given in request.ids if is_header(given)]
    questions = {question_of(request, given, ports.guard.window).text for given in headers}
    parts = {postfix_part(given) for given in request.ids} - set(map(postfix_part, headers))
    bare = sorted(parts & set(map(str, request.ids)))
    known = ports.ledger.known(request.account_id, request.request_id, sorted(parts), sorted(questions), bare)
    earlier = known.request
    if earlier is not None and _stands(earlier, request):
        return earlier
    run.start_from(known)
    require_readable(request, run.rows.values())
    if headers:
        vetting.resolve({request.request_id: headers}, known.answers)
        missing = [part for part in map(postfix_part, run.request.message_ids) if part not in run.rows]
        run.learn(ports.ledger.messages(request.account_id, missing))
        require_readable(run.request, run.rows.values())
    vetting.compare()
    return None


def _vetted(run: Run, vetting: Vetting) -> list[Want]:
    """Return what may be claimed, and what may not, so that its trace knows who asked."""
    request, now = run.request, run.ports.clock()
    targets = targets_of(request.wanted_ids)
    wants = [Want(t, (request.request_id,)) for t in targets if t.part not in request.ended_parts]
    free = [w for w in wants if claimable(run.rows.get(w.target.part), w.target, force=request.force, now=now)]
    past = [want for want in wants if want not in free and vetting.is_to_be_compared(want)]
    passed, moved = vetting.vet(free, past), vetting.findings.moved
    return [*passed, *(want for want in wants if want not in free or want.target.part in moved)]
