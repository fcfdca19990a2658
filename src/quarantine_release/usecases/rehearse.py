"""A dry run: what a release would do, without doing it. Pure but for its ports."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from quarantine_release.domain.guard import Ended
from quarantine_release.domain.packing import PlannedCall, WantedRelease, plan_calls
from quarantine_release.domain.rows import RequestRow, WireForm
from quarantine_release.domain.states import UNSETTLED, Outcome
from quarantine_release.releasing.asking import ask_for
from quarantine_release.releasing.claim import claim
from quarantine_release.releasing.ports import Conflict, Ports
from quarantine_release.releasing.progress import Progress
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases.accepted_request import replay
from quarantine_release.usecases.admission import Reply, admit, begin, end_waiting

_WOULD_RELEASE: Final = Ended(Outcome.WOULD_RELEASE, None, "It would be released.")


def rehearse(request: RequestRow, ports: Ports) -> Reply:
    """Report what a release would do, and write down that it was asked for.

    It is done now or not at all, also while releases are paused. Raises LedgerUnavailable, and RowUnreadable if a row
    cannot be read that the request needs.
    """
    progress, vetting = begin(request, ports)
    wants = admit(progress, vetting, heeds_pause=False)
    if not isinstance(wants, list):
        return wants
    refusal = end_waiting(progress, vetting, is_nothing_left=not wants)
    if refusal is not None:
        return refusal
    would = _end(progress, vetting, wants)
    vetting.findings.tell_trace(progress.request)
    # The id of a dry run is read too. Otherwise a made-up id could be the only one that the reconciler reads by.
    rows = ((want, progress.rows.get(want.target.part)) for want in wants)
    ask_for(progress, [want for want, row in rows if row is not None and row.state in UNSETTLED])
    claims = claim(progress, PlannedCall(WireForm.OBJECT, ()))
    if isinstance(claims, Conflict):
        return replay(progress.request, claims, ports)
    (answer,) = progress.finish()
    plan = plan_calls(would, progress.rows, ports.wire_form)
    return replace(answer, plan=tuple(plan), details=vetting.details)


def _end(progress: Progress, vetting: Vetting, wants: Sequence[WantedRelease]) -> list[WantedRelease]:
    """End what a release would release, and return it without what another process has taken on meanwhile."""
    findings, name = vetting.findings, progress.request.request_id
    passed = [want for want in wants if want.guards]
    for want in passed:
        ended = replace(_WOULD_RELEASE, disposition=want.disposition, guard=want.guards[name])
        findings.propose(name, want.target.part, ended)
    findings.conclude()
    return [want for want in passed if want.target.part not in findings.moved]
