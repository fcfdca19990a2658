"""What was read about a message, as the ledger keeps it, and what a request may do by it. Pure.

A bare Postfix id that cannot be read is judged by what was read under another id of the message. Never kept: subject
and sender.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from quarantine_release.domain.guard import Details, Ended, Guarded, NotRead, as_name, judge
from quarantine_release.domain.ids import MessageId, PostfixPart, is_bare
from quarantine_release.domain.policy import Policy
from quarantine_release.domain.states import Code
from quarantine_release.domain.verdicts import RECIPIENTS_KEPT

_ADDRESS_LENGTH: Final = 320  # RFC 3696 erratum 1690: 64 + @ + 255


@dataclass(frozen=True, slots=True)
class Facts:
    """What Cloudflare showed of the message with this investigate id at `read_at`. `at` is when it was scanned.

    `message_id` is bare if Cloudflare told no more. `recipients` None: not known, since they are not to be kept, or are
    more than 20. Not `is_clear`: what was shown contradicts itself, or is of several messages, so nothing passes by it.
    """

    message_id: MessageId
    read_at: datetime
    was_held: bool
    disposition: str | None = None
    at: datetime | None = None
    recipients: tuple[str, ...] | None = field(default=None, repr=False)
    other_dispositions: tuple[str | None, ...] = ()
    is_clear: bool = True


NO_FACTS: Final[Mapping[PostfixPart, Facts]] = {}


def facts_of(details: Details, now: datetime, *, keeps_recipients: bool) -> Facts:
    """Return what to keep of a reading."""
    names = details.recipients
    is_short = 0 < len(names) <= RECIPIENTS_KEPT and all(len(each) <= _ADDRESS_LENGTH for each in names)
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


def latest(facts: Iterable[Facts | None]) -> Facts | None:
    """Return what was read last."""
    return max((each for each in facts if each is not None), key=lambda each: each.read_at, default=None)


def judge_by(
    facts: Facts, why: NotRead, policy: Policy, now: datetime, *, override: bool, force: bool
) -> Guarded | Ended:
    """Say by what was read before whether a message may be released that cannot be read now, for a reason `why`.

    A message that was held then counts as held. A strict policy wants a reading now; but it is told what forbids the
    mail. Nothing passes by what was not clear, with `force` neither.
    """
    if not facts.is_clear:
        return judge(why, replace(policy, is_strict=True), now, is_bare=True)
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
        return judge(why, replace(policy, is_strict=True), now, is_bare=True)
    if isinstance(verdict, Ended):
        return replace(
            verdict, detail=f"{verdict.detail} It was read before as {facts.message_id}, and cannot be read now."
        )
    if is_bare(facts.message_id):  # it tells what forbids the mail, but not which mail a call would be for
        return judge(why, policy, now, is_bare=True)
    return Guarded.PASSED_BY_RECORD if verdict is Guarded.PASSED else verdict
