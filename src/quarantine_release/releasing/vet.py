"""Before a claim: find the message that an id means, read what it is, and let the guard say whether it may leave.

Pure but for its ports. Nothing is claimed here; what ends here ends for good, with its reason in the request.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unreadable
from quarantine_release.domain.facts import Facts, facts_of, unclear
from quarantine_release.domain.facts import several as several_facts
from quarantine_release.domain.ids import (
    ALERT_ID,
    MessageId,
    PostfixPart,
    RequestId,
    contradict,
    fullest,
    is_bare,
    is_header,
    postfix_part,
)
from quarantine_release.domain.lookup import Kept, undecided
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.reuse import is_to_be_compared, used_again
from quarantine_release.domain.rows import Target
from quarantine_release.releasing.findings import Findings, Told
from quarantine_release.releasing.gate import Gate
from quarantine_release.releasing.learned_ids import NOT_CLEAR, LearnedIds, cannot_be_read
from quarantine_release.releasing.own_ids import OTHER_ID, OwnIds, disproved
from quarantine_release.releasing.ports import Ports
from quarantine_release.releasing.progress import Progress
from quarantine_release.releasing.resolving import Resolving
from quarantine_release.releasing.timed_lookup import TimedLookup


class Vetting:
    """Lookup and guard for the requests of one run. A look takes `seconds` at most, and leaves as many as `spared`."""

    def __init__(self, progress: Progress, ports: Ports, mark: Mark, *, seconds: float, spared: float) -> None:
        self._progress = progress
        self._ports = ports
        self.findings = Findings(progress, ports)
        self._gate = Gate(progress, ports, self.findings)
        self._own_ids = OwnIds(progress, ports, self.findings)
        self._lookup = TimedLookup(progress.account_id, ports, mark, seconds=seconds, spared=spared)
        self._learned_ids = LearnedIds(progress, ports, self._lookup)
        self.details: dict[PostfixPart, Details] = {}

    @property
    def has_looked(self) -> bool:
        """Whether anything was read at Cloudflare."""
        return self._lookup.has_looked

    def resolve(self, given: Mapping[RequestId, Iterable[MessageId]], answers: Mapping[str, Kept]) -> None:
        """Find what these Message-IDs mean; `answers` are those that the ledger keeps. Raises LedgerUnavailable."""
        resolving = Resolving(self._progress, self._ports, self.findings, self._lookup.find)
        self.details |= resolving.resolve(given, answers)

    def compare(self) -> None:
        """End Message-IDs that mean another message than the ledger knows by the same Postfix id, and ids disproved.

        The rows must have been read.
        """
        now = self._ports.clock()
        for name, request in self._progress.requests.items():
            if wrong := disproved(request, self._progress.rows):
                self.findings.end(name, wrong, OTHER_ID)
            for given, message_id in request.resolved.items():
                row = self._progress.rows.get(postfix_part(message_id))
                ended = used_again(row, self.details.get(postfix_part(message_id)) or message_id, now)
                if ended is not None and given not in request.ended:
                    self.findings.end(name, [given], ended)

    def is_to_be_compared(self, want: WantedRelease) -> bool:
        """Whether a message that has ended in the ledger is to be looked at all the same (`vet`, `ended`)."""
        row = self._progress.rows.get(want.target.part)
        return self._gate.is_guarded(want) and is_to_be_compared(row, want.target, self._ports.clock())

    def vet(self, wants: Sequence[WantedRelease], ended: Sequence[WantedRelease] = ()) -> list[WantedRelease]:
        """Return what may be claimed, each for whom and how it passed; what may not has ended, waits, or has moved.

        Of messages that have `ended` in the ledger it is only found out whether their ids still mean the same.
        Raises LedgerUnavailable.
        """
        read = [want for want in wants if self._gate.is_guarded(want) or ALERT_ID.match(want.target.message_id)]
        parts = {want.target.part for want in read}
        shown = self._look(read, ended)
        apart = [self._own_ids.told_apart(want, shown) for want in read]
        shown = self._with_shorter_ids([want for want in apart if self._are_all_held(want)], shown)
        read = [parted for want in apart for parted in self._by_own_ids(want, shown)]
        shown = {**shown, **self._learned_ids.read(read, shown)}
        passed = self._pass([*read, *(want for want in wants if want.target.part not in parts)], shown)
        self._compare_ended(ended, shown)
        self.findings.conclude()
        return passed

    def _look(self, wants: Sequence[WantedRelease], ended: Sequence[WantedRelease]) -> Mapping[MessageId, Told]:
        """Read messages that were not read yet, also by the shorter ids of single requests."""
        missing = [want.target.message_id for want in (*wants, *ended) if want.target.part not in self.details]
        shorter = {own: None for want in wants for name in want.requests for own in self._own_ids.shorter(want, name)}
        return self._lookup.look([*missing, *shorter]) if missing or shorter else {}

    def _pass(self, wants: Sequence[WantedRelease], shown: Mapping[MessageId, Told]) -> list[WantedRelease]:
        """Return what may be claimed of messages that were read, or need not be."""
        vetted = [self._vet(want, self._told(want, shown)) for want in wants]
        return [want for want in vetted if want is not None]

    def _compare_ended(self, wants: Sequence[WantedRelease], shown: Mapping[MessageId, Told]) -> None:
        """End ids that mean another message than the one that has ended in the ledger."""
        for want in wants:
            self._is_used_again(want, self._told(want, shown))
        self._progress.compare(want.target.part for want in wants)

    def _by_own_ids(self, want: WantedRelease, shown: Mapping[MessageId, Told]) -> list[WantedRelease]:
        """Part those whose ids mean something from the one whose id does not: who is held to nothing may still send it.

        One message must not be in a call twice.
        """
        return self._own_ids.parted(want, shown) if self._are_all_held(want) else [want]

    def _are_all_held(self, want: WantedRelease) -> bool:
        return all(map(self._gate.is_held, want.requests))

    def _with_shorter_ids(
        self, wants: Sequence[WantedRelease], shown: Mapping[MessageId, Told]
    ) -> Mapping[MessageId, Told]:
        """Read the shorter ids of requests too, where there is nothing under the fullest one."""
        missing = list(dict.fromkeys(each for want in wants for each in self._own_ids.left(want, shown)))
        shown = {**shown, **self._lookup.look(missing)} if missing else shown
        named = {given: told for want in wants for given, told in self._own_ids.named(want, shown).items()}
        return {**shown, **named}

    def _told(self, want: WantedRelease, shown: Mapping[MessageId, Told]) -> Told:
        """Return what is known of a message by now."""
        target = want.target
        told = self.details.get(target.part) or shown.get(target.message_id, NotYetRead.NOT_NOW)
        if isinstance(told, Details) and contradict(told.message_id, target.message_id):
            return Unreadable.FAILED  # a Message-ID has led to another message of this Postfix id
        return told

    def _is_used_again(self, want: WantedRelease, told: Told, facts: Facts | None = None) -> bool:
        """End a message, unless Cloudflare shows the one that the ledger knows; what cannot be read is no other."""
        row, found = self._progress.rows.get(want.target.part), facts.message_id if facts is not None else told
        if isinstance(found, Several):
            ended = undecided(found) if row is not None else None
        else:
            ended = used_again(row, found, self._ports.clock()) if not isinstance(found, NotRead) else None
        if ended is None:
            return False
        for name in want.requests:
            self.findings.propose(name, want.target.part, ended)
        return True

    def _vet(self, want: WantedRelease, told: Told) -> WantedRelease | None:
        target = want.target
        facts = self._progress.facts_of(target.part) if cannot_be_read(target, told) else None
        if isinstance(told, Several):
            self.findings.keep(target.part, several_facts(target.part, self._ports.clock()))
        elif told in NOT_CLEAR:
            self.findings.keep(target.part, unclear(target.message_id, self._ports.clock()))
        # Nobody knows yet what a Message-ID means that is still one.
        if is_header(target.message_id) or self._is_used_again(want, told, facts):
            return None
        if isinstance(told, Details):
            kept = self._keep(told)
            target = self._named(want, told)
            guards = self._gate.guards(want, target, told)
            return WantedRelease(target, tuple(guards), guards, *_as_read(told), kept) if guards else None
        guards = self._gate.guards(want, target, told, facts)
        if facts is not None and any(guards.values()):  # what was judged is what is sent
            target = Target(target.part, facts.message_id)
            return WantedRelease(target, tuple(guards), guards, facts.disposition, facts.message_id)
        return WantedRelease(target, tuple(guards), guards) if guards else None

    def _keep(self, told: Details) -> Facts:
        """Have the ledger keep what was read, with the claim or with the end."""
        part = postfix_part(told.message_id)
        self.details[part] = told
        facts = facts_of(told, self._ports.clock(), keeps_recipients=self._ports.guard.keeps_recipients)
        return self.findings.keep(part, facts)

    def _named(self, want: WantedRelease, told: Details) -> Target:
        """Take over the fuller id of a message; a bare one that was read has a form of its own."""
        target = want.target
        if is_bare(target.message_id) and target.part not in self._learned_ids.parts:
            return target
        for name in want.requests:
            request = self._progress.requests[name]
            alerts = [given for given in request.ids if ALERT_ID.match(given) and postfix_part(given) == target.part]
            meant = [given for given in alerts if not contradict(given, told.message_id)]
            known = request.resolved.keys() | request.ended.keys()
            learned = {given: told.message_id for given in meant if given not in known}
            if learned:
                self._progress.replace(replace(request, resolved={**request.resolved, **learned}))
        return Target(target.part, fullest((target.message_id, told.message_id)))


def _as_read(told: Details) -> tuple[str | None, MessageId]:
    """Return the disposition and the id of a message that was read."""
    return told.disposition_name, told.message_id
