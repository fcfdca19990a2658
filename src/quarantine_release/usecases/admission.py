"""Before a caller's request is accepted: was it made before, and what may be claimed of it? Pure but for its ports."""

from dataclasses import dataclass
from math import ceil
from typing import Final

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ids import ALERT_ID, is_header, postfix_part
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.results import claimable
from quarantine_release.domain.rows import RequestRow, RequestState, parse_targets
from quarantine_release.domain.verdicts import RefusalReason, Stop
from quarantine_release.releasing.call import CALL_SECONDS, RECORD_SECONDS
from quarantine_release.releasing.claim import require_readable
from quarantine_release.releasing.ports import Conflict, Ports
from quarantine_release.releasing.progress import Acceptance, Answer, Progress
from quarantine_release.releasing.resolving import build_question
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases.accepted_request import KeyReused, replay

_VETTING_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class NotAccepted:
    """The caller is told no: nothing was released, nothing will be. `retry_after` in seconds.

    `stop` is why, if a person has paused releases.
    """

    reason: RefusalReason
    retry_after: int | None
    request: RequestRow
    stop: Stop | None = None


# What a caller is told of a new request, one way or the other.
Reply = Answer | NotAccepted | KeyReused


def begin(request: RequestRow, ports: Ports) -> tuple[Progress, Vetting]:
    """Begin a request that is not accepted yet. A forced one may use the part of the budget kept for the worker."""
    progress = Progress([request], ports, Acceptance.NOT_YET)
    mark = Mark.ALL if request.force else Mark.INLINE
    return progress, Vetting(progress, ports, mark, seconds=_VETTING_SECONDS, spared=CALL_SECONDS + RECORD_SECONDS)


def admit(progress: Progress, vetting: Vetting, *, heeds_pause: bool = True) -> list[WantedRelease] | Reply:
    """Look up, read and judge what a request wants, or return what its caller is told at once.

    What may not be claimed is returned too, so that its trace knows who asked. Raises LedgerUnavailable, and
    RowUnreadable if a row cannot be read that the request needs.
    """
    request, ports = progress.request, progress.ports
    if _is_read_first(request, ports):
        earlier = _read_ledger(request, progress, vetting)
        if earlier is not None:
            return _replay(request, earlier, ports)
        stop = progress.active_pause(request) if heeds_pause else None
        if stop is not None:  # before anything is read: who asks again and again would use up others' calls
            return refuse(request, ports, RefusalReason.PAUSED, stop=stop)
    wants = _vetted(progress, vetting)
    if vetting.findings.is_refused:
        return refuse(request, ports, RefusalReason.CREDENTIALS)
    return wants


def end_waiting(progress: Progress, vetting: Vetting, *, is_nothing_left: bool) -> Reply | None:
    """End what could not be read for now, because nobody continues with it; refuse a request of which it is all."""
    findings, request, ports = vetting.findings, progress.request, progress.ports
    if not findings.is_waiting:
        return None
    if not is_nothing_left or request.ended:
        findings.end_waiting()
        return None
    if findings.are_all_new:
        return refuse(request, ports, RefusalReason.NOT_SEARCHABLE_YET, findings.searchable_in(ports.clock()))
    pause = ports.budget.pause_left(request.account_id)
    return refuse(request, ports, RefusalReason.RATE_LIMITED if pause else RefusalReason.NO_TIME, pause)


def refuse(
    request: RequestRow, ports: Ports, reason: RefusalReason, wait: float = 0.0, stop: Stop | None = None
) -> Reply:
    """Refuse what is not accepted yet; but if it was made before, answer as it was then."""
    earlier = ports.ledger.known(request.account_id, request.request_id, [], []).request
    if earlier is not None and _stands(earlier, request):
        return _replay(request, earlier, ports)
    return NotAccepted(reason, ceil(wait) or None, request, stop)


def _replay(request: RequestRow, earlier: RequestRow, ports: Ports) -> Answer | KeyReused:
    return replay(request, Conflict({request.request_id: earlier}, {}), ports)


def _stands(earlier: RequestRow, request: RequestRow) -> bool:
    is_kept = earlier.expires_at is None or earlier.expires_at > request.created_at
    return is_kept and earlier.state is not RequestState.REFUSED


def _is_read_first(request: RequestRow, ports: Ports) -> bool:
    """Whether the ledger is read before the claim. Without a guard, most messages are new: the claim itself tells."""
    is_held = ports.guard.holds(request.policy)
    return is_held or request.dry_run or any(is_header(given) or ALERT_ID.match(given) for given in request.ids)


def _read_ledger(request: RequestRow, progress: Progress, vetting: Vetting) -> RequestRow | None:
    """Read what the ledger knows of the request, its messages and its Message-IDs; return it if it was made before."""
    ports = progress.ports
    headers = [given for given in request.ids if is_header(given)]
    questions = {build_question(request, given, ports.guard.window).text for given in headers}
    parts = {postfix_part(given) for given in request.ids} - set(map(postfix_part, headers))
    bare = sorted(parts & set(map(str, request.ids)))
    known = ports.ledger.known(request.account_id, request.request_id, sorted(parts), sorted(questions), bare)
    earlier = known.request
    if earlier is not None and _stands(earlier, request):
        return earlier
    progress.start_from(known)
    require_readable(request, progress.rows.values())
    if headers:
        vetting.resolve({request.request_id: headers}, known.answers)
        missing = [part for part in map(postfix_part, progress.request.message_ids) if part not in progress.rows]
        progress.learn(ports.ledger.messages(request.account_id, missing))
        require_readable(progress.request, progress.rows.values())
    vetting.compare()
    return None


def _vetted(progress: Progress, vetting: Vetting) -> list[WantedRelease]:
    """Return what may be claimed, and what may not, so that its trace knows who asked."""
    request = progress.request
    wants = [
        WantedRelease(t, (request.request_id,))
        for t in parse_targets(request.wanted_ids)
        if t.part not in request.ended_parts
    ]
    claimable_now, others = _by_claim(request, progress, wants)
    passed = vetting.vet(claimable_now, [want for want in others if vetting.is_to_be_compared(want)])
    only_asked = {want.target.part for want in others} | vetting.findings.moved
    return [*passed, *(want for want in wants if want.target.part in only_asked)]


def _by_claim(
    request: RequestRow, progress: Progress, wants: list[WantedRelease]
) -> tuple[list[WantedRelease], list[WantedRelease]]:
    """Part wanted messages that may be claimed from those that may not."""
    rows, force, now = progress.rows, request.force, progress.ports.clock()
    free = {w.target.part for w in wants if claimable(rows.get(w.target.part), w.target, force=force, now=now)}
    held = [want for want in wants if want.target.part not in free]
    return [want for want in wants if want.target.part in free], held
