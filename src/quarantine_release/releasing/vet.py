"""Before a claim: find the message that an id means, read what it is, and let the guard say whether it may leave.

Pure but for its ports. Nothing is claimed here; what ends here ends for good, with its reason in the request.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unclear, Unreadable
from quarantine_release.domain.facts import Facts, combined, facts_of, judge_by, mark_of, unclear
from quarantine_release.domain.facts import several as several_facts
from quarantine_release.domain.guard import UNREADABLE, Ended, Guarded, Mode, judge
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
from quarantine_release.domain.lookup import Kept, Question, undecided
from quarantine_release.domain.packing import Want
from quarantine_release.domain.policy import for_request
from quarantine_release.domain.reuse import is_to_be_compared, used_again
from quarantine_release.domain.rows import Target
from quarantine_release.domain.search_lag import NEVER_SHOWN, PATIENCE, searchable_at
from quarantine_release.releasing.findings import Findings, Told
from quarantine_release.releasing.own_ids import OTHER_ID, OwnIds, disproved
from quarantine_release.releasing.ports import LedgerSnapshot, Ports
from quarantine_release.releasing.progress import Run
from quarantine_release.releasing.resolving import Resolving

# Why a message was not read, where that says nothing about whether it can be.
# Something was shown that does not tell what the message is: nothing may pass by what is kept of it.
_NOT_CLEAR: Final = (Unreadable.CONTRADICTED, Unreadable.UNCLEAR)
_SAYS_NOTHING: Final = (*NotYetRead, *_NOT_CLEAR, Unreadable.FAILED)


class Vetting:
    """Lookup and guard for the requests of one run. A look takes `seconds` at most, and leaves as many as `spared`."""

    def __init__(self, run: Run, ports: Ports, mark: Mark, *, seconds: float, spared: float) -> None:
        self._run = run
        self._ports = ports
        self._mark = mark
        self._limit = seconds
        self._spared = spared
        self.findings = Findings(run, ports)
        self._own_ids = OwnIds(run, ports, self.findings)
        self.details: dict[PostfixPart, Details] = {}
        self.has_looked = False
        # Bare ids that were read by an investigate id that the ledger knew.
        self._learned_ids: set[PostfixPart] = set()

    def resolve(self, given: Mapping[RequestId, Iterable[MessageId]], answers: Mapping[str, Kept]) -> None:
        """Find what these Message-IDs mean; `answers` are those that the ledger keeps. Raises LedgerUnavailable."""
        resolving = Resolving(self._run, self._ports, self.findings, self._find)
        self.details |= resolving.resolve(given, answers)

    def compare(self) -> None:
        """End Message-IDs that mean another message than the ledger knows by the same Postfix id, and ids disproved.

        The rows must have been read.
        """
        now = self._ports.clock()
        for name, request in self._run.requests.items():
            if wrong := disproved(request, self._run.rows):
                self.findings.end(name, wrong, OTHER_ID)
            for given, message_id in request.resolved.items():
                row = self._run.rows.get(postfix_part(message_id))
                ended = used_again(row, self.details.get(postfix_part(message_id)) or message_id, now)
                if ended is not None and given not in request.ended:
                    self.findings.end(name, [given], ended)

    def is_to_be_compared(self, want: Want) -> bool:
        """Whether a message that has ended in the ledger is to be looked at all the same (`vet`, `ended`)."""
        row = self._run.rows.get(want.target.part)
        return self._is_guarded(want) and is_to_be_compared(row, want.target, self._ports.clock())

    def vet(self, wants: Sequence[Want], ended: Sequence[Want] = ()) -> list[Want]:
        """Return what may be claimed, each for whom and how it passed; what may not has ended, waits, or has moved.

        Of messages that have `ended` in the ledger it is only found out whether their ids still mean the same.
        Raises LedgerUnavailable.
        """
        read = [want for want in wants if self._is_guarded(want) or ALERT_ID.match(want.target.message_id)]
        missing = [want.target.message_id for want in (*read, *ended) if want.target.part not in self.details]
        missing += {each: None for want in read for name in want.requests for each in self._own_ids.shorter(want, name)}
        shown = self._look(missing) if missing else {}
        apart = {want.target.part: self._own_ids.told_apart(want, shown) for want in read}
        shown = self._with_shorter_ids([want for want in apart.values() if self._are_all_held(want)], shown)
        read = [each for want in apart.values() for each in self._by_own_ids(want, shown)]
        wants = [*read, *(want for want in wants if want.target.part not in apart)]
        shown = {**shown, **self._shown_by_learned_ids(read, shown)}
        passed = [each for want in wants if (each := self._vet(want, self._told(want, shown))) is not None]
        for want in ended:
            self._is_used_again(want, self._told(want, shown))
        self._run.compare(want.target.part for want in ended)
        self.findings.conclude()
        return passed

    def _by_own_ids(self, want: Want, shown: Mapping[MessageId, Told]) -> list[Want]:
        """Part those whose ids mean something from the one whose id does not: who is held to nothing may still send it.

        One message must not be in a call twice.
        """
        return self._own_ids.parted(want, shown) if self._are_all_held(want) else [want]

    def _are_all_held(self, want: Want) -> bool:
        return all(map(self._is_held, want.requests))

    def _with_shorter_ids(self, wants: Sequence[Want], shown: Mapping[MessageId, Told]) -> Mapping[MessageId, Told]:
        """Read the shorter ids of requests too, where there is nothing under the fullest one."""
        missing = list(dict.fromkeys(each for want in wants for each in self._own_ids.left(want, shown)))
        shown = {**shown, **self._look(missing)} if missing else shown
        named = {given: told for want in wants for given, told in self._own_ids.named(want, shown).items()}
        return {**shown, **named}

    def _shown_by_learned_ids(self, wants: Sequence[Want], shown: Mapping[MessageId, Told]) -> Mapping[MessageId, Told]:
        """Read bare ids that cannot be read by the investigate ids that were told of their messages before."""
        unread = [want.target for want in wants if _cannot_be_read(want.target, shown.get(want.target.message_id))]
        self._read_facts_again({target.part for target in unread})
        learned = {target: each for target in unread if (each := self._learned(target.part)) is not None}
        told = self._look(list(learned.values())) if learned else {}
        again = {target: told.get(each, NotYetRead.NOT_NOW) for target, each in learned.items()}
        found = {target: each for target, each in again.items() if each in _SAYS_NOTHING or isinstance(each, Details)}
        self._learned_ids |= {target.part for target in found}
        return {target.message_id: each for target, each in found.items()}

    def _read_facts_again(self, parts: Collection[PostfixPart]) -> None:
        """Read what is kept of messages again: another request may have read them during the look. One round trip.

        The rows stay as they were, because `Findings.conclude` compares them with what is in the ledger by then.
        """
        if not parts:
            return
        names = sorted({*parts, *map(mark_of, parts)})
        known = self._ports.ledger.known(self._run.account_id, None, sorted(parts), [], names)
        newest = {part: self._newest(part, known) for part in parts}
        self._run.learn_facts({part: facts for part, facts in newest.items() if facts is not None})

    def _newest(self, part: PostfixPart, known: LedgerSnapshot) -> Facts | None:
        """Return what is kept of a message: that it may be one of too many matches only if nothing else is known."""
        row = known.messages.get(part)
        in_row, own_id = (row.facts, row.own_id) if row is not None else (None, None)
        facts = combined((known.facts.get(part), in_row, self._run.facts_of(part)))
        is_marked = facts is None and own_id is None and mark_of(part) in known.facts
        return several_facts(part, self._ports.clock()) if is_marked else facts

    def _learned(self, part: PostfixPart) -> MessageId | None:
        """Return the investigate id that Cloudflare told of a message before."""
        facts, row = self._run.facts_of(part), self._run.rows.get(part)
        if facts is None:
            return row.own_id if row is not None else None
        # Of several messages nobody knows which is meant, and a bare id is what cannot be read.
        return facts.message_id if facts.is_clear and not is_bare(facts.message_id) else None

    def _told(self, want: Want, shown: Mapping[MessageId, Told]) -> Told:
        """Return what is known of a message by now."""
        target = want.target
        told = self.details.get(target.part) or shown.get(target.message_id, NotYetRead.NOT_NOW)
        if isinstance(told, Details) and contradict(told.message_id, target.message_id):
            return Unreadable.FAILED  # a Message-ID has led to another message of this Postfix id
        return told

    def _is_used_again(self, want: Want, told: Told, facts: Facts | None = None) -> bool:
        """End a message, unless Cloudflare shows the one that the ledger knows; what cannot be read is no other."""
        row, found = self._run.rows.get(want.target.part), facts.message_id if facts is not None else told
        if isinstance(found, Several):
            ended = undecided(found) if row is not None else None
        else:
            ended = used_again(row, found, self._ports.clock()) if not isinstance(found, NotRead) else None
        if ended is None:
            return False
        for name in want.requests:
            self.findings.propose(name, want.target.part, ended)
        return True

    def _vet(self, want: Want, told: Told) -> Want | None:
        target = want.target
        facts = self._run.facts_of(target.part) if _cannot_be_read(target, told) else None
        if isinstance(told, Several):
            self.findings.keep(target.part, several_facts(target.part, self._ports.clock()))
        elif told in _NOT_CLEAR:
            self.findings.keep(target.part, unclear(target.message_id, self._ports.clock()))
        # Nobody knows yet what a Message-ID means that is still one.
        if is_header(target.message_id) or self._is_used_again(want, told, facts):
            return None
        if isinstance(told, Details):
            kept = self._keep(told)
            target = self._named(want, told)
            guards = self._guards(want, target, told)
            return Want(target, tuple(guards), guards, *_as_read(told), kept) if guards else None
        guards = self._guards(want, target, told, facts)
        if facts is not None and any(guards.values()):  # what was judged is what is sent
            target = Target(target.part, facts.message_id)
            return Want(target, tuple(guards), guards, facts.disposition, facts.message_id)
        return Want(target, tuple(guards), guards) if guards else None

    def _keep(self, told: Details) -> Facts:
        """Have the ledger keep what was read, with the claim or with the end."""
        part = postfix_part(told.message_id)
        self.details[part] = told
        facts = facts_of(told, self._ports.clock(), keeps_recipients=self._ports.guard.keeps_recipients)
        return self.findings.keep(part, facts)

    def _find(self, questions: Sequence[Question]) -> Mapping[Question, Sequence[Details] | NotRead | Unclear]:
        ports, seconds = self._ports, self._seconds()
        if seconds <= 0:
            return {}
        self.has_looked = True
        return ports.lookup.find(self._run.account_id, questions, seconds, ports.budget, self._mark)

    def _look(self, ids: Sequence[MessageId]) -> Mapping[MessageId, Told]:
        ports, seconds = self._ports, self._seconds()
        if seconds <= 0:
            return {}
        self.has_looked = True
        return ports.lookup.look(self._run.account_id, ids, seconds, ports.budget, self._mark)

    def _seconds(self) -> float:
        return min(self._limit, self._ports.time_left() - self._spared)

    def _named(self, want: Want, told: Details) -> Target:
        """Take over the fuller id of a message; a bare one that was read has a form of its own."""
        target = want.target
        if is_bare(target.message_id) and target.part not in self._learned_ids:
            return target
        for name in want.requests:
            request = self._run.requests[name]
            alerts = [given for given in request.ids if ALERT_ID.match(given) and postfix_part(given) == target.part]
            meant = [given for given in alerts if not contradict(given, told.message_id)]
            known = request.resolved.keys() | request.ended.keys()
            learned = {given: told.message_id for given in meant if given not in known}
            if learned:
                self._run.replace(replace(request, resolved={**request.resolved, **learned}))
        return Target(target.part, fullest((target.message_id, told.message_id)))

    def _guards(
        self, want: Want, target: Target, told: Told, facts: Facts | None = None
    ) -> dict[RequestId, Guarded | None]:
        guards: dict[RequestId, Guarded | None] = {}
        is_found = isinstance(told, Details) or not ALERT_ID.match(target.message_id)
        for name in want.requests:
            if is_found and not self._is_held(name):
                # Nobody has found out that the id of another request means the same message.
                if isinstance(told, Details) or target.message_id in self._run.requests[name].message_ids:
                    guards[name] = None
            elif (how := self._pass(name, target, told, facts)) is not None:
                guards[name] = how
        return guards

    def _is_guarded(self, want: Want) -> bool:
        return any(self._is_held(name) for name in want.requests)

    def _is_held(self, name: RequestId) -> bool:
        """Say whether a request is held to anything: a client's own policy holds also where the guard is off."""
        policy = self._ports.permit(self._run.requests[name]).policy
        return self._ports.guard.mode is not Mode.OFF or policy is not None

    def _pass(self, name: RequestId, target: Target, told: Told, facts: Facts | None) -> Guarded | None:
        """Say how a message came past the guard for a request; None if it did not."""
        request, guard = self._run.requests[name], self._ports.guard
        if isinstance(told, Several):
            self.findings.propose(name, target.part, undecided(told))
            return None
        searchable = searchable_at(told, target.message_id, request.created_at, guard.search_lag)
        if facts is not None:  # what was read before is not too new to be found
            searchable = None
        if searchable is not None and self._ports.clock() - request.created_at < PATIENCE:
            self.findings.wait_for_search(name, target.part, searchable)
            return None
        if isinstance(told, Unreadable) and target.message_id not in request.message_ids:
            told = NotYetRead.NOT_NOW  # a fuller id of another request was looked for, which has ended when its own is
        if isinstance(told, NotYetRead):
            self.findings.wait(name, target.part, told, UNREADABLE)
            return None
        if searchable is not None:
            self.findings.propose(name, target.part, NEVER_SHOWN)
            return None
        own, is_strict = self._ports.permit(request).policy, guard.mode is Mode.STRICT
        policy = for_request(guard.policy, own, override=request.override, is_strict=is_strict)
        now, how = self._ports.clock(), {"override": request.override, "force": request.force}
        if facts is not None and isinstance(told, Unreadable):
            verdict = judge_by(facts, told, policy, now, **how)
        else:
            verdict = judge(told, policy, now, is_bare=is_bare(target.message_id), **how)
        if isinstance(verdict, Ended):
            self.findings.propose(name, target.part, verdict)
            return None
        return verdict


def _as_read(told: Details) -> tuple[str | None, MessageId]:
    """Return the disposition and the id of a message that was read."""
    return told.disposition_name, told.message_id


def _cannot_be_read(target: Target, told: Told | None) -> bool:
    """Whether a bare id leads nowhere. A read that failed, or is yet to be made, does not say so."""
    return is_bare(target.message_id) and isinstance(told, NotRead) and told not in _SAYS_NOTHING
