"""A dry run: what a release would do, without doing it. Pure but for its ports."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from quarantine_release.domain.guard import Ended
from quarantine_release.domain.packing import Call, Want, calls_of
from quarantine_release.domain.rows import WireForm
from quarantine_release.domain.states import UNSETTLED, Outcome
from quarantine_release.releasing.asking import ask_for
from quarantine_release.releasing.claim import claim
from quarantine_release.releasing.ports import Conflict
from quarantine_release.releasing.progress import Answer, Run
from quarantine_release.releasing.vet import Vetting
from quarantine_release.usecases.accepted_request import KeyReused, replay

_WOULD_RELEASE: Final = Ended(Outcome.WOULD_RELEASE, None, "It would be released.")


def rehearse(run: Run, vetting: Vetting, wants: Sequence[Want]) -> Answer | KeyReused:
    """Tell what a release would do, and write down that it was asked for."""
    would = [want for want in wants if want.guards]
    for want in would:
        guard = want.guards[run.request.request_id]
        ended = replace(_WOULD_RELEASE, disposition=want.disposition, guard=guard)
        vetting.findings.propose(run.request.request_id, want.target.part, ended)
    vetting.findings.conclude()
    would = [want for want in would if want.target.part not in vetting.findings.moved]
    vetting.findings.tell_trace(run.request)
    # The id of a dry run is read too. Otherwise a made-up id could be the only one that the reconciler reads by.
    rows = ((want, run.rows.get(want.target.part)) for want in wants)
    ask_for(run, [want for want, row in rows if row is not None and row.state in UNSETTLED])
    claims = claim(run, Call(WireForm.OBJECT, ()))
    if isinstance(claims, Conflict):
        return replay(run.request, claims, run.ports)
    (answer,) = run.finish()
    plan = calls_of(would, run.rows, run.ports.wire_form)
    return replace(answer, plan=tuple(plan), details=vetting.details)
