"""For which requests a message passes the guard, and which it ends or has wait. Pure but for its ports."""

from quarantine_release.domain.details import Details, NotYetRead, Several, Unreadable
from quarantine_release.domain.facts import Facts, judge_by
from quarantine_release.domain.guard import UNREADABLE, Ended, Guarded, Mode, judge
from quarantine_release.domain.ids import ALERT_ID, RequestId, is_bare
from quarantine_release.domain.lookup import undecided
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.policy import for_request
from quarantine_release.domain.rows import RequestRow, Target
from quarantine_release.domain.search_lag import NEVER_SHOWN, PATIENCE, searchable_at
from quarantine_release.releasing.findings import Findings, Told
from quarantine_release.releasing.ports import Ports
from quarantine_release.releasing.progress import Progress


class Gate:
    """The guard for the requests of one run, by the policy that each is held to."""

    def __init__(self, progress: Progress, ports: Ports, findings: Findings) -> None:
        self._progress = progress
        self._ports = ports
        self._findings = findings

    def guards(
        self, want: WantedRelease, target: Target, told: Told, facts: Facts | None = None
    ) -> dict[RequestId, Guarded | None]:
        """Return how the message passes for each request that it passes for; None for one that is held to nothing."""
        guards: dict[RequestId, Guarded | None] = {}
        is_found = isinstance(told, Details) or not ALERT_ID.match(target.message_id)
        for name in want.requests:
            if is_found and not self.is_held(name):
                # Nobody has found out that the id of another request means the same message.
                if isinstance(told, Details) or target.message_id in self._progress.requests[name].message_ids:
                    guards[name] = None
            elif (how := self._pass(name, target, told, facts)) is not None:
                guards[name] = how
        return guards

    def is_guarded(self, want: WantedRelease) -> bool:
        return any(self.is_held(name) for name in want.requests)

    def is_held(self, name: RequestId) -> bool:
        """Say whether a request is held to anything: a client's own policy holds also where the guard is off."""
        return self._ports.guard.is_on or self._ports.permit(self._progress.requests[name]).policy is not None

    def _pass(self, name: RequestId, target: Target, told: Told, facts: Facts | None) -> Guarded | None:
        """Say how a message came past the guard for a request; None if it did not."""
        request, guard = self._progress.requests[name], self._ports.guard
        if isinstance(told, Several):
            self._findings.propose(name, target.part, undecided(told))
            return None
        searchable = searchable_at(told, target.message_id, request.created_at, guard.search_lag)
        if facts is not None:  # what was read before is not too new to be found
            searchable = None
        if searchable is not None and self._ports.clock() - request.created_at < PATIENCE:
            self._findings.wait_for_search(name, target.part, searchable)
            return None
        if isinstance(told, Unreadable) and target.message_id not in request.message_ids:
            told = NotYetRead.NOT_NOW  # a fuller id of another request was looked for, which has ended when its own is
        if isinstance(told, NotYetRead):
            self._findings.wait(name, target.part, told, UNREADABLE)
            return None
        if searchable is not None:
            self._findings.propose(name, target.part, NEVER_SHOWN)
            return None
        verdict = self._judged(request, target, told, facts)
        if isinstance(verdict, Ended):
            self._findings.propose(name, target.part, verdict)
            return None
        return verdict

    def _judged(
        self, request: RequestRow, target: Target, told: Details | Unreadable, facts: Facts | None
    ) -> Guarded | Ended:
        """Judge a message by what was read now, or if it cannot be read any more, by what was read before."""
        guard = self._ports.guard
        own, is_strict = self._ports.permit(request).policy, guard.mode is Mode.STRICT
        policy = for_request(guard.policy, own, override=request.override, is_strict=is_strict)
        now, how = self._ports.clock(), {"override": request.override, "force": request.force}
        if facts is not None and isinstance(told, Unreadable):
            return judge_by(facts, told, policy, now, **how)
        return judge(told, policy, now, is_bare=is_bare(target.message_id), **how)
