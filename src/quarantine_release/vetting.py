"""Before a claim: find the message that an id means, read what it is, and let the guard say whether it may leave.

Pure but for its ports. Nothing is claimed here; what ends here ends for good, with its reason in the request.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from quarantine_release.calls import Want
from quarantine_release.findings import Findings
from quarantine_release.guard import Details, Ended, Guarded, Mode, NotRead, judge
from quarantine_release.lookup import Question, choose
from quarantine_release.outcome import (
    ALERT_ID,
    Code,
    MessageId,
    Outcome,
    PostfixPart,
    RequestId,
    contradict,
    fullest,
    is_bare,
    is_header,
    postfix_part,
)
from quarantine_release.ports import Mark, Ports
from quarantine_release.run import Run
from quarantine_release.trace import RequestRow, Target

# For so long a Message-ID is taken to mean what it was found to mean.
_ALIAS: Final = timedelta(days=1)
_NOT_FOUND_OUT: Final = Ended(
    Outcome.DENIED, Code.LOOKUP_UNAVAILABLE, "Which message this means could not be looked up, so nothing is released."
)
# Such messages wait, because the next try may be able to read them.
WAITING: Final = (NotRead.NOT_NOW, NotRead.REFUSED)
_UNREADABLE: Final = Ended(
    Outcome.DENIED, Code.GUARD_UNAVAILABLE, "The message could not be read, so it is not released."
)


class Vetting:
    """Lookup and guard for the requests of one run. A look takes `seconds` at most, and leaves as many as `spared`."""

    def __init__(self, run: Run, ports: Ports, mark: Mark, *, seconds: float, spared: float) -> None:
        self._run = run
        self._ports = ports
        self._mark = mark
        self._limit = seconds
        self._spared = spared
        self.findings = Findings(run, ports)
        self.details: dict[PostfixPart, Details] = {}
        self.has_looked = False

    def resolve(
        self, given: Mapping[RequestId, Iterable[MessageId]], answers: Mapping[str, tuple[MessageId, int]]
    ) -> None:
        """Find what these Message-IDs mean, of which it is not known yet; `answers` are what the ledger knew before."""
        now, asked = self._ports.clock(), dict[Question, list[tuple[RequestId, MessageId]]]()
        for name, ids in given.items():
            request = self._run.requests[name]
            for each in ids:
                asked.setdefault(self.question(request, each), []).append((name, each))
        found: dict[Question, MessageId] = {}
        for question in asked:
            known, until = answers.get(question.text, (None, 0))
            if known is not None and until > now.timestamp() and question.narrowing.expect_count in (None, 1):
                found[question] = known
        open_questions = [question for question in asked if question not in found]
        shown = self._find(open_questions) if open_questions else {}
        learned = {}
        for question in open_questions:
            told = shown.get(question, NotRead.NOT_NOW)
            chosen = told if isinstance(told, NotRead) else choose(told, question.narrowing.expect_count)
            if isinstance(chosen, Details):
                self.details[postfix_part(chosen.message_id)] = chosen
                found[question] = learned[question.text] = chosen.message_id
                continue
            for name, each in asked[question]:
                if isinstance(chosen, Ended):
                    self.findings.end(name, [each], chosen)
                elif chosen in WAITING:
                    self.findings.wait_for_meaning(name, [each], chosen, _NOT_FOUND_OUT)
                else:
                    self.findings.end(name, [each], _NOT_FOUND_OUT)
        for question, message_id in found.items():
            for name, each in asked[question]:
                request = self._run.requests[name]
                self._run.requests[name] = replace(request, resolved={**request.resolved, each: message_id})
        if learned:
            account_id = self._run.account_id
            self._ports.ledger.keep_aliases(account_id, learned, now + _ALIAS)

    def vet(self, wants: Sequence[Want]) -> list[Want]:
        """Return what may be claimed, each for whom and how it passed; what may not has ended, waits, or has moved.

        Raises LedgerUnavailable.
        """
        read = [want for want in wants if self._is_guarded(want) or ALERT_ID.match(want.target.message_id)]
        missing = [want.target.message_id for want in read if want.target.part not in self.details]
        shown = self._look(missing) if missing else {}
        passed = []
        for want in wants:
            target = want.target
            if is_header(target.message_id):  # nobody knows yet what it means
                continue
            told: Details | NotRead = self.details.get(target.part) or shown.get(target.message_id, NotRead.NOT_NOW)
            if isinstance(told, Details) and contradict(told.message_id, target.message_id):
                told = NotRead.FAILED  # a Message-ID has led to another message of this Postfix id
            if isinstance(told, Details):
                self.details[target.part] = told
                target = self._named(want, told)
            guards = self._guards(want, target, told)
            if guards:
                passed.append(Want(target, tuple(guards), guards, *_as_read(told)))
        self.findings.conclude()
        return passed

    def question(self, request: RequestRow, given: MessageId) -> Question:
        """Return the search for what a Message-ID means to a request."""
        header = given if given.startswith("<") else MessageId(f"<{given}>")
        return Question(header, request.narrowing, request.created_at - self._ports.guard.window)

    def _find(self, questions: Sequence[Question]) -> Mapping[Question, Sequence[Details] | NotRead]:
        ports, seconds = self._ports, self._seconds()
        if seconds <= 0:
            return {}
        self.has_looked = True
        return ports.lookup.find(self._run.account_id, questions, seconds, ports.budget, self._mark)

    def _look(self, ids: Sequence[MessageId]) -> Mapping[MessageId, Details | NotRead]:
        ports, seconds = self._ports, self._seconds()
        if seconds <= 0:
            return {}
        self.has_looked = True
        return ports.lookup.look(self._run.account_id, ids, seconds, ports.budget, self._mark)

    def _seconds(self) -> float:
        return min(self._limit, self._ports.time_left() - self._spared)

    def _named(self, want: Want, told: Details) -> Target:
        """Take over the fuller id of a message; a bare one stays bare, since it has a form of its own."""
        target = want.target
        if is_bare(target.message_id):
            return target
        for name in want.requests:
            request = self._run.requests[name]
            alerts = [given for given in request.ids if ALERT_ID.match(given) and postfix_part(given) == target.part]
            learned = {given: told.message_id for given in alerts if given not in request.resolved}
            if learned:
                self._run.requests[name] = replace(request, resolved={**request.resolved, **learned})
        return Target(target.part, fullest((target.message_id, told.message_id)))

    def _guards(self, want: Want, target: Target, told: Details | NotRead) -> dict[RequestId, Guarded | None]:
        guards: dict[RequestId, Guarded | None] = {}
        is_found = isinstance(told, Details) or not ALERT_ID.match(target.message_id)
        for name in want.requests:
            if is_found and not self._is_held(name):
                # Nobody has found out that the id of another request means the same message.
                if isinstance(told, Details) or target.message_id in self._run.requests[name].message_ids:
                    guards[name] = None
            elif (how := self._pass(name, target, told)) is not None:
                guards[name] = how
        return guards

    def _is_guarded(self, want: Want) -> bool:
        return any(self._is_held(name) for name in want.requests)

    def _is_held(self, name: RequestId) -> bool:
        """Say whether a request is held to anything: a client's own policy holds also where the guard is off."""
        policy = self._ports.permit(self._run.requests[name]).policy
        return self._ports.guard.mode is not Mode.OFF or policy is not None

    def _pass(self, name: RequestId, target: Target, told: Details | NotRead) -> Guarded | None:
        """Say how a message came past the guard for a request; None if it did not."""
        request, guard = self._run.requests[name], self._ports.guard
        if isinstance(told, NotRead) and told is not NotRead.REFUSED and target.message_id not in request.message_ids:
            told = NotRead.NOT_NOW  # a fuller id of another request was looked for, which has ended when its own is
        if isinstance(told, NotRead) and told in WAITING:
            self.findings.wait(name, target.part, told, _UNREADABLE)
            return None
        policy = guard.policy.with_stricter(self._ports.permit(request).policy)
        if guard.mode is Mode.STRICT:
            policy = replace(policy, is_strict=True)
        verdict = judge(
            told,
            policy,
            self._ports.clock(),
            is_bare=is_bare(target.message_id),
            override=request.override,
            force=request.force,
        )
        if isinstance(verdict, Ended):
            self.findings.propose(name, target.part, verdict)
            return None
        return verdict


def _as_read(told: Details | NotRead) -> tuple[str | None, MessageId | None]:
    """Return the disposition and the id of a message that was read."""
    return (told.disposition_name, told.message_id) if isinstance(told, Details) else (None, None)
