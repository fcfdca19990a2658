"""The facts that were read about a message: how the ledger keeps them, and what a request may do by them. Pure.

A bare Postfix id that cannot be read is judged by what was read under another id of the message. Never kept: subject
and sender.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import reduce
from typing import Final

from quarantine_release.domain.details import Details, Unreadable, as_name
from quarantine_release.domain.guard import Ended, Guarded, judge, judge_unread
from quarantine_release.domain.ids import MessageId, PostfixPart, contradict, is_bare, is_partial
from quarantine_release.domain.policy import HARMFUL, Policy
from quarantine_release.domain.search_rows import rank
from quarantine_release.domain.states import Code
from quarantine_release.domain.verdicts import RECIPIENT_LENGTH, RECIPIENTS_KEPT

# Matches of one Message-ID that are kept. The sender chooses how many there are.
MATCHES_KEPT: Final = 25
# If a second read within this time shows the same, it is not written.
_SAME: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Facts:
    """What Cloudflare showed of the message with this investigate id at `read_at`. `at` is when it was scanned.

    `message_id` is bare if Cloudflare told no fuller id. `recipients` None: not known, as they are not to be kept, or
    are more than 20. Not `is_clear`: what was shown contradicts itself, so nothing passes by it. `is_several`: two
    messages go by the same Postfix id, which no later reading of one of them changes. Such facts are never clear.
    """

    message_id: MessageId
    read_at: datetime
    was_held: bool
    disposition: str | None = None
    at: datetime | None = None
    recipients: tuple[str, ...] | None = field(default=None, repr=False)
    other_dispositions: tuple[str | None, ...] = ()
    is_clear: bool = True
    is_several: bool = False


NO_FACTS: Final[Mapping[PostfixPart, Facts]] = {}


def facts_of(details: Details, now: datetime, *, keeps_recipients: bool) -> Facts:
    """Return what to keep of a reading."""
    names = details.recipients
    is_short = 0 < len(names) <= RECIPIENTS_KEPT and all(len(each) <= RECIPIENT_LENGTH for each in names)
    return Facts(
        details.message_id,
        now,
        was_held=details.is_quarantined and not details.is_released,
        disposition=details.disposition_name,
        at=details.at,
        recipients=names if keeps_recipients and is_short else None,
        other_dispositions=tuple(as_name(each) for each in details.other_dispositions),
        is_clear=not details.is_doubtful,
    )


def unclear(message_id: MessageId, now: datetime) -> Facts:
    """Return what to keep where Cloudflare showed something under this id that does not tell what the message is."""
    return Facts(message_id, now, was_held=True, is_clear=False)


def several(part: PostfixPart, now: datetime) -> Facts:
    """Return what to keep where several messages were shown to go by one Postfix id."""
    return Facts(MessageId(part), now, was_held=True, is_clear=False, is_several=True)


def capped(facts: Mapping[PostfixPart, Facts], now: datetime) -> dict[PostfixPart, Facts]:
    """Return what to keep of the matches of one Message-ID: the unclear and the worst, and a mark for all others."""
    ordered = sorted(facts.items(), key=lambda one: (one[1].is_clear, rank(one[1].disposition), one[0]))
    marks = {mark_of(part) for part, _ in ordered[MATCHES_KEPT:]}
    return {**dict(ordered[:MATCHES_KEPT]), **{mark: several(mark, now) for mark in marks}}


def mark_of(part: PostfixPart) -> PostfixPart:
    """Return the name under which it is kept that a message is among matches too many to be kept each.

    A long Postfix id begins with its time: three of its characters are 39 hours. So a search needs about 20 marks, and
    each holds for the mail of two days.
    """
    return PostfixPart(f"*{part[:3]}")


def combined(facts: Iterable[Facts | None]) -> Facts | None:
    """Return what readings of a Postfix id tell together: the last one, but for what it does not settle."""
    ordered = sorted((each for each in facts if each is not None), key=_order)
    return reduce(_after, ordered) if ordered else None


def add_reading(kept: dict[PostfixPart, Facts], part: PostfixPart, reading: Facts) -> Facts:
    """Keep a reading of a message together with those before it; return what they tell."""
    kept[part] = combined((kept.get(part), reading)) or reading
    return kept[part]


def _order(facts: Facts) -> tuple[datetime, bool, bool]:
    """Return by what readings are ordered; of two at the same time the worse one counts as later."""
    is_harmful = not HARMFUL.isdisjoint((facts.disposition, *facts.other_dispositions))
    return facts.read_at, not facts.is_clear, is_harmful


def _after(earlier: Facts, later: Facts) -> Facts:
    """Return what holds after a later reading. Only one of the very same message settles what was not clear before."""
    is_same = earlier.message_id == later.message_id and not is_partial(later.message_id)
    is_several = earlier.is_several or later.is_several or contradict(earlier.message_id, later.message_id)
    if is_several or not (earlier.is_clear or is_same):
        return replace(later, is_clear=False, is_several=True)
    return later


def is_news(facts: Facts | None, known: Facts | None) -> bool:
    """Return whether readings are to be written over what is known already.

    If many read one message at once and see the same, one of them writes it: they would contend for the row.
    """
    if facts is None or known is None:
        return facts is not None
    is_repeat = replace(facts, read_at=known.read_at) == known and facts.read_at - known.read_at < _SAME
    return not is_repeat


def judge_by(
    facts: Facts, why: Unreadable, policy: Policy, now: datetime, *, override: bool, force: bool
) -> Guarded | Ended:
    """Judge a message that cannot be read now, for a reason `why`, by what was read of it before.

    A message that was held then counts as held. A strict policy wants a reading now, but reports a rule that forbids
    the mail. Facts that were not clear let nothing pass, not even with `force`.
    """
    if not facts.is_clear:
        return judge_unread(why, replace(policy, is_strict=True), is_bare=True)
    details = Details(
        facts.message_id,
        facts.was_held,
        facts.disposition,
        at=facts.at,
        recipients=facts.recipients or (),
        other_dispositions=facts.other_dispositions,
    )
    verdict = judge(details, policy, now, is_bare=False, override=override, force=force)
    is_of_recipients = isinstance(verdict, Ended) and verdict.code is Code.RECIPIENT_NOT_ALLOWED
    if (is_of_recipients and facts.recipients is None) or (policy.is_strict and isinstance(verdict, Guarded)):
        return judge_unread(why, replace(policy, is_strict=True), is_bare=True)
    if isinstance(verdict, Ended):
        return replace(
            verdict, detail=f"{verdict.detail} It was read before as {facts.message_id}, and cannot be read now."
        )
    if is_bare(facts.message_id):  # it tells what forbids the mail, but not which mail a call would be for
        return judge_unread(why, policy, is_bare=True)
    return Guarded.PASSED_BY_RECORD if verdict is Guarded.PASSED else verdict
