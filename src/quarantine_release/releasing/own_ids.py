"""By which of its own ids each request asks for a message, where the fullest id is made up or of another request.

Pure but for its ports. Anybody may give a made-up id: also next to a right one, in the same request.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from quarantine_release.domain.details import Details, NotRead, NotYetRead, Several, Unreadable
from quarantine_release.domain.facts import several as several_facts
from quarantine_release.domain.guard import UNREADABLE, Ended, end_unread
from quarantine_release.domain.ids import (
    MessageId,
    PostfixPart,
    RequestId,
    contradict,
    fullest,
    is_partial,
    postfix_part,
)
from quarantine_release.domain.lookup import undecided
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.rows import MessageRow, RequestRow, Target
from quarantine_release.domain.search_lag import searchable_at
from quarantine_release.domain.states import Code, Outcome
from quarantine_release.releasing.findings import Findings, Told
from quarantine_release.releasing.learned_ids import NOT_CLEAR
from quarantine_release.releasing.ports import Ports
from quarantine_release.releasing.progress import Progress

# Cloudflare knows no message by this id.
_NOTHING: Final = (Unreadable.ABSENT, Unreadable.NOT_LISTED)
# There may be something under an id, and nobody knows what.
_UNKNOWN: Final = (*NOT_CLEAR, Unreadable.FAILED)
_NOT_FOUND: Final = Ended(
    Outcome.NOT_FOUND, None, "Cloudflare knows no such message. A shorter id in the same request is judged by itself."
)
OTHER_ID: Final = Ended(
    Outcome.NEEDS_REVIEW,
    Code.ID_CONFLICT,
    "Cloudflare knows this message by another id. A shorter id in the same request is judged by itself.",
)


class OwnIds:
    """The ids of one run's requests, message by message."""

    def __init__(self, progress: Progress, ports: Ports, findings: Findings) -> None:
        self._progress = progress
        self._ports = ports
        self._findings = findings

    def shorter(self, want: WantedRelease, name: RequestId) -> list[MessageId]:
        """Return the partial ids by which a request asks for a message that is read by another request's full id."""
        own = _ids(self._progress.requests[name], want.target.part)
        return [] if want.target.message_id in own else [each for each in own if is_partial(each)]

    def left(self, want: WantedRelease, shown: Mapping[MessageId, Told]) -> list[MessageId]:
        """Return the ids to read too, because there is nothing under the fullest one."""
        if shown.get(want.target.message_id) not in _NOTHING:
            return []
        return [each for name in want.requests for each in self._partial(want, name) if each not in shown]

    def named(self, want: WantedRelease, shown: Mapping[MessageId, Told]) -> dict[MessageId, Details]:
        """Return the message that a want means, if a shorter id shows it by the very id under which there was nothing.

        Cloudflare's lists may show what its paths do not, and the other way around.
        """
        if shown.get(want.target.message_id) not in _NOTHING:
            return {}
        told = (shown.get(each) for name in want.requests for each in self._partial(want, name))
        found = [each for each in told if isinstance(each, Details) and _is_named(want.target.message_id, each)]
        return {want.target.message_id: found[0]} if found else {}

    def told_apart(self, want: WantedRelease, shown: Mapping[MessageId, Told]) -> WantedRelease:
        """Leave out requests whose own ids mean several messages or another one, or could not be read.

        They are read too, because a fuller id of another request does not tell what they mean.
        """
        going_on = [name for name in want.requests if not self._is_told_apart(want, name, shown)]
        return replace(want, requests=tuple(going_on))

    def _is_told_apart(self, want: WantedRelease, name: RequestId, shown: Mapping[MessageId, Told]) -> bool:
        part, readings = want.target.part, [shown.get(each, NotYetRead.NOT_NOW) for each in self.shorter(want, name)]
        meant = shown.get(want.target.message_id)
        several = next((found for each in readings if (found := _several(each, meant)) is not None), None)
        if several is None:
            return self._is_unknown(name, part, readings)
        self._findings.keep(part, several_facts(part, self._ports.clock()))
        self._findings.propose(name, part, undecided(several))
        return True

    def _is_unknown(self, name: RequestId, part: PostfixPart, readings: Sequence[Told]) -> bool:
        """End or postpone a request if nobody knows what its own ids mean."""
        for reading in readings:
            if isinstance(reading, NotYetRead):
                self._findings.wait(name, part, reading, UNREADABLE)
                return True
        for reading in readings:
            if isinstance(reading, Unreadable) and reading in _UNKNOWN:
                self._findings.propose(name, part, end_unread(reading))
                return True
        return False

    def parted(self, want: WantedRelease, shown: Mapping[MessageId, Told]) -> list[WantedRelease]:
        """Have requests go on by a shorter id of their own where there is nothing under the fullest one.

        That one may be made up, so it ends by itself, and whoever gave nothing else waits while it is new. One message
        must not be in a call twice, so requests that would go on by different ids wait for each other.
        """
        if shown.get(want.target.message_id) not in _NOTHING:
            return [want]
        choices = self._choices(want, shown)
        told = {each: shown.get(each, NotYetRead.NOT_NOW) for each in choices.values()}
        own = _first_read(told)
        others = [replace(want, requests=tuple(name for name in want.requests if name not in choices))]
        if own is not None:
            others.append(
                WantedRelease(Target(want.target.part, own), tuple(name for name in choices if choices[name] == own))
            )
        for name, each in choices.items():
            if each == own:
                self._end_longer(name, each, told[each])
            else:
                self._wait(name, want.target.part, told[each])
        return [each for each in others if each.requests]

    def _wait(self, name: RequestId, part: PostfixPart, told: Told) -> None:
        """Have a request wait for the read of its own id, or for the call by another id."""
        why = told if isinstance(told, NotYetRead) else NotYetRead.NOT_NOW
        self._findings.wait(name, part, why, UNREADABLE)

    def _partial(self, want: WantedRelease, name: RequestId) -> list[MessageId]:
        """Return the partial ids that a request gave beside the fullest one, the fullest of them first."""
        own = dict.fromkeys(_ids(self._progress.requests[name], want.target.part))
        others = (each for each in own if is_partial(each) and each != want.target.message_id)
        return sorted(others, key=len, reverse=True)

    def _choices(self, want: WantedRelease, shown: Mapping[MessageId, Told]) -> dict[RequestId, MessageId]:
        """Return the shorter id by which each request goes on that has one."""
        return {name: each for name in want.requests if (each := self._choice(want, name, shown)) is not None}

    def _choice(self, want: WantedRelease, name: RequestId, shown: Mapping[MessageId, Told]) -> MessageId | None:
        """Return the fullest id of a request that means something, or its shortest; None if it has no other.

        Nor has it one while nothing is shown and its fullest id is too new to be found.
        """
        ids, request = self._partial(want, name), self._progress.requests[name]
        if not ids:
            return None
        own = next((each for each in ids if shown.get(each, NotYetRead.NOT_NOW) not in _NOTHING), ids[-1])
        longest, lag = want.target.message_id, self._ports.guard.search_lag
        is_new = searchable_at(Unreadable.ABSENT, longest, request.created_at, lag) is not None
        is_shown = not isinstance(shown.get(own, NotYetRead.NOT_NOW), NotRead)
        return None if is_new and not is_shown and longest in request.message_ids else own

    def _end_longer(self, name: RequestId, own: MessageId, told: Told) -> None:
        """End the ids of a request under which there was nothing, each by itself."""
        request, part = self._progress.requests[name], postfix_part(own)
        for given in request.ids:
            each = request.resolved.get(given, given)
            if postfix_part(each) != part or len(each) <= len(own) or _is_named(each, told):
                continue
            is_other = isinstance(told, Details) and contradict(each, told.message_id)
            self._findings.propose(name, part, OTHER_ID if is_other else _NOT_FOUND, given=[given])


def _first_read(told: Mapping[MessageId, Told]) -> MessageId | None:
    """Return the first id that was read; None if all wait."""
    return next((message_id for message_id, shown in told.items() if not isinstance(shown, NotYetRead)), None)


def disproved(request: RequestRow, rows: Mapping[PostfixPart, MessageRow]) -> list[MessageId]:
    """Return the ids given that contradict the one that Cloudflare confirmed, of messages with an id that does not."""
    wrong, right = [], set()
    for given, each in zip(request.ids, request.message_ids, strict=True):
        row = rows.get(postfix_part(each))
        if given in request.ended or row is None or row.own_id is None:
            continue
        if contradict(row.own_id, each):
            wrong.append((given, row.part))
        else:
            right.add(row.part)
    return [given for given, part in wrong if part in right]


def _ids(request: RequestRow, part: PostfixPart) -> Sequence[MessageId]:
    """Return the ids by which a request still asks for a message."""
    return [each for each in request.wanted_ids if postfix_part(each) == part]


def _is_named(message_id: MessageId, told: Told | None) -> bool:
    """Whether a message was shown by this id or a fuller one."""
    if not isinstance(told, Details) or contradict(message_id, told.message_id):
        return False
    return fullest((message_id, told.message_id)) == told.message_id


def _several(own: Told, meant: Told | None) -> Several | None:
    """Return the messages that an id means, if they are more than the one that another request names."""
    if isinstance(own, Details) and isinstance(meant, Details) and contradict(own.message_id, meant.message_id):
        return Several((meant, own))
    return own if isinstance(own, Several) else None
