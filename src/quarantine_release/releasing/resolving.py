"""Which messages the Message-IDs of a run mean: by what the ledger keeps of earlier searches, else by a search.

Pure but for its ports.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final

from quarantine_release.domain.details import Details, NotRead, NotYetRead, Unclear, Unreadable
from quarantine_release.domain.facts import Facts, add_reading, capped, facts_of, unclear
from quarantine_release.domain.guard import CONTRADICTED, Ended
from quarantine_release.domain.ids import MessageId, PostfixPart, RequestId, postfix_part
from quarantine_release.domain.lookup import Kept, Question, choose
from quarantine_release.domain.rows import RequestRow
from quarantine_release.domain.states import Code, Outcome, State, may_claim
from quarantine_release.releasing.findings import Findings
from quarantine_release.releasing.ports import Ports
from quarantine_release.releasing.progress import Progress

# The ledger may forget an answer after this. By then its message has ended, or a search is due anyway.
_KEPT: Final = timedelta(days=1)
# Something may still be done for a message in one of these states: a second search could only confuse it.
_OPEN: Final = (State.RELEASING, State.UNKNOWN, State.RETRYABLE)
_NOT_FOUND_OUT: Final = Ended(
    Outcome.DENIED, Code.LOOKUP_UNAVAILABLE, "Which message this means could not be looked up, so nothing is released."
)

Told = Sequence[Details] | NotRead | Unclear

# The message that a Message-ID means, or why there is not one.
_Chosen = Details | Ended | NotRead

Find = Callable[[Sequence[Question]], Mapping[Question, Told]]


def build_question(request: RequestRow, given: MessageId, window: timedelta) -> Question:
    """Return the search for what a Message-ID means to a request."""
    header = given if given.startswith("<") else MessageId(f"<{given}>")
    return Question(header, request.narrowing, request.created_at - window)


class Resolving:
    """One search for the Message-IDs of a run. `find` asks Cloudflare."""

    def __init__(self, progress: Progress, ports: Ports, findings: Findings, find: Find) -> None:
        self._progress = progress
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
                question = build_question(self._progress.requests[name], each, self._ports.guard.window)
                asked.setdefault(question, []).append((name, each))
        found = self._kept(asked, answers)
        read, by_ledger = self._search([question for question in asked if question not in found], asked)
        if read:
            now, learned = self._ports.clock(), {question.text: each.message_id for question, each in read.items()}
            self._ports.ledger.keep_aliases(self._progress.account_id, learned, now, now + _KEPT)
        meant = found | by_ledger | {question: each.message_id for question, each in read.items()}
        for question, message_id in meant.items():
            for name, each in asked[question]:
                request = self._progress.requests[name]
                self._progress.replace(replace(request, resolved={**request.resolved, each: message_id}))
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
        still_open = self._open(
            {postfix_part(answer.message_id) for answer in kept.values() if not answer.is_fresh(now)}
        )
        return {
            question: answer.message_id
            for question, answer in kept.items()
            if answer.is_fresh(now) or (now < answer.until and postfix_part(answer.message_id) in still_open)
        }

    def _open(self, parts: set[PostfixPart]) -> set[PostfixPart]:
        """Return those of the messages for which something may still be done."""
        missing = sorted(parts - self._progress.rows.keys())
        read = self._ports.ledger.messages(self._progress.account_id, missing) if missing else {}
        rows = {**self._progress.rows, **read}
        return {part for part in parts if (row := rows.get(part)) is not None and row.state in _OPEN}

    def _search(
        self, questions: Sequence[Question], asked: Mapping[Question, Iterable[tuple[RequestId, MessageId]]]
    ) -> tuple[dict[Question, Details], dict[Question, MessageId]]:
        """Return what the search read, and the messages of which the ledger tells and the search did not."""
        shown = self._find(questions) if questions else {}
        by_ledger = self._decided_by_rows(shown)
        read: dict[Question, Details] = {}
        facts: dict[PostfixPart, Facts] = {}
        for question in questions:
            told = shown.get(question, NotYetRead.NOT_NOW)
            chosen = _chosen(told, question)
            for part, reading in self._facts(told, chosen, question).items():
                add_reading(facts, part, reading)
            if question in by_ledger:
                continue
            if isinstance(chosen, Details):
                read[question] = chosen
            else:
                self._end(asked[question], chosen)
        if facts:
            until = self._ports.terms.expiry(self._ports.clock())
            self._ports.ledger.keep_facts(self._progress.account_id, facts, until)
        return read, by_ledger

    def _end(self, asked: Iterable[tuple[RequestId, MessageId]], why: Ended | NotRead) -> None:
        for name, each in asked:
            if isinstance(why, Ended):
                self._findings.end(name, [each], why)
            elif isinstance(why, NotYetRead):
                self._findings.wait_for_meaning(name, [each], why, _NOT_FOUND_OUT)
            else:
                self._findings.end(name, [each], CONTRADICTED if why is Unreadable.CONTRADICTED else _NOT_FOUND_OUT)

    def _decided_by_rows(self, shown: Mapping[Question, Told]) -> dict[Question, MessageId]:
        """Return the messages that a search showed unclearly, and whose rows in the ledger say what became of them.

        A release under way may be why: Cloudflare shows one of the message's rows as held, and another as released. A
        claim is written before its call goes out, so a read of the ledger after the search finds it.
        """
        only = {
            question: told.only
            for question, told in shown.items()
            if isinstance(told, Unclear) and told.only is not None and question.narrowing.expect_count in (None, 1)
        }
        parts = sorted({postfix_part(each) for each in only.values()})
        rows = self._ports.ledger.messages(self._progress.account_id, parts) if parts else {}
        self._progress.learn(rows)
        decided = {part for part, row in rows.items() if not may_claim(row.state, row.code, force=False)}
        return {question: each for question, each in only.items() if postfix_part(each) in decided}

    def _facts(self, told: Told, chosen: _Chosen, question: Question) -> dict[PostfixPart, Facts]:
        """Return what to keep of matches of which none is looked at by itself."""
        now = self._ports.clock()
        if isinstance(told, NotRead) or isinstance(chosen, Details):
            return {}
        clear, unread = (told.clear, told.unread) if isinstance(told, Unclear) else (told, ())
        kept: dict[PostfixPart, Facts] = {}
        for reading in (
            *(self._facts_of(match, question) for match in clear),
            *(unclear(each, now) for each in unread),
        ):
            add_reading(kept, postfix_part(reading.message_id), reading)
        return capped(kept, now)

    def _facts_of(self, match: Details, question: Question) -> Facts:
        """Return what to keep of one of several matches. A narrowed search may have left out rows about it."""
        now, guard = self._ports.clock(), self._ports.guard
        if question.is_narrowed:
            return unclear(match.message_id, now)
        return facts_of(match, now, keeps_recipients=guard.keeps_recipients)


def _chosen(told: Told, question: Question) -> _Chosen:
    why = told.why if isinstance(told, Unclear) else told
    return why if isinstance(why, NotRead) else choose(why, question.narrowing.expect_count)
