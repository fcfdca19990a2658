"""Investigate ids that Cloudflare told of messages before, for bare ids that cannot be read. Pure but for its ports."""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from quarantine_release.domain.details import Details, NotRead, NotYetRead, Unreadable
from quarantine_release.domain.facts import Facts, combined, mark_of
from quarantine_release.domain.facts import several as several_facts
from quarantine_release.domain.ids import MessageId, PostfixPart, is_bare
from quarantine_release.domain.packing import WantedRelease
from quarantine_release.domain.rows import Target
from quarantine_release.releasing.findings import Told
from quarantine_release.releasing.ports import LedgerSnapshot, Ports
from quarantine_release.releasing.progress import Progress
from quarantine_release.releasing.timed_lookup import TimedLookup

# Something was shown that does not tell what the message is: nothing may pass by what is kept of it.
NOT_CLEAR: Final = (Unreadable.CONTRADICTED, Unreadable.UNCLEAR)

# Why a message was not read, where that does not mean that it cannot be read.
_SAYS_NOTHING: Final = (*NotYetRead, *NOT_CLEAR, Unreadable.FAILED)


class LearnedIds:
    """The bare ids of one run that are read by another id. `parts` are those that were."""

    def __init__(self, progress: Progress, ports: Ports, lookup: TimedLookup) -> None:
        self._progress = progress
        self._ports = ports
        self._lookup = lookup
        self.parts: set[PostfixPart] = set()

    def read(self, wants: Sequence[WantedRelease], shown: Mapping[MessageId, Told]) -> dict[MessageId, Told]:
        """Read bare ids that cannot be read by the investigate ids that were told of their messages before."""
        unread = [want.target for want in wants if cannot_be_read(want.target, shown.get(want.target.message_id))]
        self._read_facts_again({target.part for target in unread})
        learned = {target: own_id for target in unread if (own_id := self._learned(target.part)) is not None}
        details = self._lookup.look(list(learned.values())) if learned else {}
        readings = {target: details.get(own_id, NotYetRead.NOT_NOW) for target, own_id in learned.items()}
        telling = {target: reading for target, reading in readings.items() if _tells(reading)}
        self.parts |= {target.part for target in telling}
        return {target.message_id: reading for target, reading in telling.items()}

    def _read_facts_again(self, parts: Collection[PostfixPart]) -> None:
        """Read what is kept of messages again: another request may have read them during the look. One round trip.

        The rows stay as they were, because `Findings.conclude` compares them with what is in the ledger by then.
        """
        if not parts:
            return
        names = sorted({*parts, *map(mark_of, parts)})
        known = self._ports.ledger.known(self._progress.account_id, None, sorted(parts), [], names)
        newest = {part: self._newest(part, known) for part in parts}
        self._progress.learn_facts({part: facts for part, facts in newest.items() if facts is not None})

    def _newest(self, part: PostfixPart, known: LedgerSnapshot) -> Facts | None:
        """Return what is kept of a message: that it may be one of too many matches only if nothing else is known."""
        row = known.messages.get(part)
        in_row, own_id = (row.facts, row.own_id) if row is not None else (None, None)
        facts = combined((known.facts.get(part), in_row, self._progress.facts_of(part)))
        is_marked = facts is None and own_id is None and mark_of(part) in known.facts
        return several_facts(part, self._ports.clock()) if is_marked else facts

    def _learned(self, part: PostfixPart) -> MessageId | None:
        """Return the investigate id that Cloudflare told of a message before."""
        facts, row = self._progress.facts_of(part), self._progress.rows.get(part)
        if facts is None:
            return row.own_id if row is not None else None
        # Of several messages nobody knows which is meant, and a bare id is what cannot be read.
        return facts.message_id if facts.is_clear and not is_bare(facts.message_id) else None


def cannot_be_read(target: Target, told: Told | None) -> bool:
    """Whether a bare id leads nowhere. A read that failed, or is yet to be made, does not say so."""
    return is_bare(target.message_id) and isinstance(told, NotRead) and told not in _SAYS_NOTHING


def _tells(reading: Told) -> bool:
    """Whether a read by another id counts for the message: also as one that is yet to be made."""
    return isinstance(reading, Details) or reading in _SAYS_NOTHING
