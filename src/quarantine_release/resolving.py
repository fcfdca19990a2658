"""Which messages the Message-IDs of a run mean: by what the ledger keeps of earlier searches, else by a search.

Pure but for its ports.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from quarantine_release.facts import Facts, facts_of, unclear
from quarantine_release.findings import WAITING, Findings
from quarantine_release.guard import CONTRADICTED, Details, Ended, NotRead, Unclear
from quarantine_release.lookup import Kept, Question, choose
from quarantine_release.outcome import Code, MessageId, Outcome, PostfixPart, RequestId, State, postfix_part
from quarantine_release.ports import Ports
from quarantine_release.run import Run
from quarantine_release.trace import RequestRow

# The ledger may forget an answer after this. By then its message has ended, or a search is due anyway.
_KEPT: Final = timedelta(days=1)
# Something may still be done for a message in one of these states: a second search could only confuse it.
_OPEN: Final = (State.RELEASING, State.UNKNOWN, State.RETRYABLE)
_NOT_FOUND_OUT: Final = Ended(
    Outcome.DENIED, Code.LOOKUP_UNAVAILABLE, "Which message this means could not be looked up, so nothing is released."
)
Find = Callable[[Sequence[Question]], Mapping[Question, Sequence[Details] | NotRead | Unclear]]


def question_of(request: RequestRow, given: MessageId, window: timedelta) -> Question:
    """Return the search for what a Message-ID means to a request."""
    header = given if given.startswith("<") else MessageId(f"<{given}>")
    return Question(header, request.narrowing, request.created_at - window)


class Resolving:
    """One search for the Message-IDs of a run. `find` asks Cloudflare."""

    def __init__(self, run: Run, ports: Ports, findings: Findings, find: Find) -> None:
        self._run = run
        self._ports = ports
        self._findings = findings
        self._find = find

    def resolve(
        self, given: Mapping[RequestId, Iterable[MessageId]], answers: Mapping[str, Kept]
    ) -> dict[PostfixPart, Details]:
        """Find what these Message-IDs mean, and return what a search read; `answers` are those that the ledger keeps.

        Raises LedgerUnavailable.
        """
        asked: dict[Question, list[tuple[RequestId, MessageId]]] = {}
        for name, ids in given.items():
            for each in ids:
                question = question_of(self._run.requests[name], each, self._ports.guard.window)
                asked.setdefault(question, []).append((name, each))
        found = self._kept(asked, answers)
        read = self._search([question for question in asked if question not in found], asked)
        if read:
            now, learned = self._ports.clock(), {question.text: each.message_id for question, each in read.items()}
            self._ports.ledger.keep_aliases(self._run.account_id, learned, now, now + _KEPT)
        for question, message_id in (found | {question: each.message_id for question, each in read.items()}).items():
            for name, each in asked[question]:
                request = self._run.requests[name]
                self._run.requests[name] = replace(request, resolved={**request.resolved, each: message_id})
        return {postfix_part(each.message_id): each for each in read.values()}

    def _kept(self, asked: Iterable[Question], answers: Mapping[str, Kept]) -> dict[Question, MessageId]:
        """Return the kept answers that still hold: fresh ones, and those whose messages are open.

        Who expects a number of messages wants them counted, and no answer says how many there are by now.
        """
        now = self._ports.clock()
        kept = {
            question: answers[question.text]
            for question in asked
            if question.narrowing.expect_count is None and question.text in answers
        }
        old = {postfix_part(each.message_id) for each in kept.values() if not each.is_fresh(now)}
        missing = sorted(old - self._run.rows.keys())
        rows = self._run.rows | (self._ports.ledger.messages(self._run.account_id, missing) if missing else {})
        are_open = {part for part in old if (row := rows.get(part)) is not None and row.state in _OPEN}
        return {
            question: each.message_id
            for question, each in kept.items()
            if each.is_fresh(now) or (now < each.until and postfix_part(each.message_id) in are_open)
        }

    def _search(
        self, questions: Sequence[Question], asked: Mapping[Question, Iterable[tuple[RequestId, MessageId]]]
    ) -> dict[Question, Details]:
        shown = self._find(questions) if questions else {}
        read: dict[Question, Details] = {}
        facts: dict[PostfixPart, Facts] = {}
        for question in questions:
            told = shown.get(question, NotRead.NOT_NOW)
            if isinstance(told, Unclear):
                facts[postfix_part(told.message_id)] = unclear(told.message_id, self._ports.clock())
                told = told.why
            chosen = told if isinstance(told, NotRead) else choose(told, question.narrowing.expect_count)
            if isinstance(chosen, Details):
                read[question] = chosen
                continue
            if not isinstance(told, NotRead):
                facts |= {postfix_part(each.message_id): self._facts(each, question) for each in told}
            for name, each in asked[question]:
                if isinstance(chosen, Ended):
                    self._findings.end(name, [each], chosen)
                elif chosen in WAITING:
                    self._findings.wait_for_meaning(name, [each], chosen, _NOT_FOUND_OUT)
                else:
                    how = CONTRADICTED if chosen is NotRead.CONTRADICTED else _NOT_FOUND_OUT
                    self._findings.end(name, [each], how)
        if facts:
            until = self._ports.terms.expiry(self._ports.clock())
            self._ports.ledger.keep_facts(self._run.account_id, facts, until)
        return read

    def _facts(self, match: Details, question: Question) -> Facts:
        """Return what to keep of one of several matches. A narrowed search may have left out rows about it."""
        now, guard = self._ports.clock(), self._ports.guard
        if question.is_narrowed:
            return unclear(match.message_id, now)
        return facts_of(match, now, keeps_recipients=guard.keeps_recipients)
