"""May this mail leave quarantine: the modes of the guard, its verdict, and how a refused id ends. Pure.

A fact that is not known counts against the release. Sources of the fields: Cloudflare's API reference, "Search email
messages" and "Get message details"; that mail of other delivery modes than DIRECT is never held: "Email Security, API
deployment".
"""

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from quarantine_release.domain.details import Details, Unreadable
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.policy import DEFAULT_POLICY, DISPOSITIONS, Policy
from quarantine_release.domain.states import Code, Outcome

_REMEDY: Final = "send the AlertID or the investigate id instead."
# These look at copies, or at mail that is in its mailbox already.
_HOLDS_NOTHING: Final = frozenset({"API", "BCC", "JOURNAL", "RETRO_SCAN"})

# One address and nothing else. Which of two the mail would go to, nobody knows.
_ADDRESS: Final = re.compile(r"""\A[^\s@,;<>"]+@([^\s@,;<>"]+)\Z""")

# What only a message that was read can end with.
_OF_READ: Final = frozenset(
    {
        Code.DISPOSITION_NOT_ALLOWED,
        Code.MESSAGE_TOO_OLD,
        Code.RECIPIENT_NOT_ALLOWED,
        Code.ALREADY_DELIVERED,
        Code.NOTHING_HELD,
    }
)


class Mode(StrEnum):
    """STANDARD may release a bare Postfix id that cannot be read, STRICT does not. OFF reads nothing."""

    STANDARD = "standard"
    STRICT = "strict"
    OFF = "off"


class Guarded(StrEnum):
    """How a message came past the guard; kept with its claim. PASSED_BY_RECORD: by what was read of it before."""

    PASSED = "passed"
    PASSED_BY_RECORD = "passed_by_record"
    OVERRIDDEN = "overridden"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Guard:
    """The guard as this deployment has it.

    `window`: for how long back a message is looked for; `search_lag`: by how much Cloudflare's search may be behind.
    `keeps_recipients`: whether the ledger may hold the recipients of what was read.
    """

    mode: Mode = Mode.OFF
    policy: Policy = DEFAULT_POLICY
    window: timedelta = timedelta(days=30)
    confirms: bool = False
    search_lag: timedelta = timedelta(seconds=120)
    keeps_recipients: bool = True

    @property
    def is_on(self) -> bool:
        return self.mode is not Mode.OFF

    def holds(self, policy: Policy | None) -> bool:
        """Return whether a request is held to anything. Its client's own policy applies even if the guard is off."""
        return self.is_on or policy is not None


NO_GUARD: Final = Guard()


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of several messages that an id may mean. None: not known."""

    message_id: MessageId
    at: datetime | None
    disposition: str | None
    is_quarantined: bool | None


@dataclass(frozen=True, slots=True)
class Ended:
    """Why an id of a request is not released on its behalf: an end, reached before anything was claimed.

    `disposition` is what was read; `guard` how the message would come past the guard, if this was a dry run.
    """

    outcome: Outcome
    code: Code | None
    detail: str
    candidates: tuple[Candidate, ...] = ()
    disposition: str | None = None
    guard: Guarded | None = None

    @property
    def was_read(self) -> bool:
        """Return whether the message was read and refused for what it is."""
        return self.code in _OF_READ


_DOUBTFUL: Final = Ended(
    Outcome.DENIED,
    Code.GUARD_UNAVAILABLE,
    "Cloudflare shows the message as held and as released, but no successful release in its action log,"
    " so it is not released.",
)
CONTRADICTED: Final = Ended(
    Outcome.DENIED,
    Code.GUARD_UNAVAILABLE,
    "Cloudflare shows the message in rows that contradict each other, so it is not released.",
)


UNREADABLE: Final = Ended(
    Outcome.DENIED, Code.GUARD_UNAVAILABLE, "The message could not be read, so it is not released."
)

_UNREADABLE_BARE: Final = Ended(
    Outcome.DENIED, Code.GUARD_CANNOT_READ, f"Cloudflare does not let this Postfix id be read: {_REMEDY}"
)

# How a message ends that cannot be read; for any other reason as UNREADABLE.
_ENDS: Final = {
    Unreadable.ABSENT: Ended(Outcome.NOT_FOUND, None, "Cloudflare knows no such message."),
    Unreadable.CONTRADICTED: CONTRADICTED,
    Unreadable.TOO_MANY: Ended(
        Outcome.DENIED, Code.GUARD_CANNOT_READ, f"Too much mail lies around this Postfix id: {_REMEDY}"
    ),
    Unreadable.UNDATED: Ended(
        Outcome.DENIED,
        Code.GUARD_CANNOT_READ,
        f"This Postfix id tells no time, so Cloudflare's lists cannot be searched for it: {_REMEDY}",
    ),
}


def judge(
    details: Details | Unreadable,
    policy: Policy,
    now: datetime,
    *,
    is_bare: bool,
    override: bool = False,
    force: bool = False,
) -> Guarded | Ended:
    """Judge a message. `override` passes the rule on dispositions, `force` that on quarantine."""
    if isinstance(details, Unreadable):
        return judge_unread(details, policy, is_bare=is_bare)
    ended = (None if force else _not_held(details)) or _refused(details, policy, now, override)
    return _passed(details, policy) if ended is None else replace(ended, disposition=details.disposition_name)


def end_unread(why: Unreadable) -> Ended:
    """Return how a message ends that cannot be read, unless something else lets it pass."""
    return _ENDS.get(why, UNREADABLE)


def judge_unread(why: Unreadable, policy: Policy, *, is_bare: bool) -> Guarded | Ended:
    """Judge a message that cannot be read: only a bare id may be released, and only if no rule forbids it."""
    if not is_bare or why not in (Unreadable.ABSENT, Unreadable.NOT_OFFERED):
        return end_unread(why)
    # A rule that somebody has written down holds for what cannot be read too.
    has_rule = policy.is_strict or policy.keeps_unread
    has_rule |= policy.max_age is not None or policy.recipient_domains is not None
    return _UNREADABLE_BARE if has_rule else Guarded.NOT_CHECKED


def _not_held(details: Details) -> Ended | None:
    if details.is_quarantined and not details.is_released:  # a released message may be shown as held for a while
        return _DOUBTFUL if details.is_doubtful else None
    if details.delivery_mode in _HOLDS_NOTHING:
        detail = f"Cloudflare holds no mail in delivery mode {details.delivery_mode}; use its move instead."
        return Ended(Outcome.NOT_QUARANTINED, Code.NOTHING_HELD, detail)
    if details.is_released:
        return Ended(Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED, "It was already released outside this service.")
    detail = "It is not in quarantine: it was delivered, or is held elsewhere. To put it into the inbox use move."
    return Ended(Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED, detail)


def _refused(details: Details, policy: Policy, now: datetime, override: bool) -> Ended | None:
    if not (override or _may_be_disposed(details, policy)):
        detail = f"Rule dispositions: mail whose disposition is {_first_refused(details, policy)} is not released."
        return Ended(Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED, detail)
    if policy.max_age is not None and (details.at is None or now - details.at > policy.max_age):
        detail = f"Rule max_age_days: mail older than {policy.max_age.days} days is not released."
        return Ended(Outcome.DENIED, Code.MESSAGE_TOO_OLD, detail)
    if policy.recipient_domains is not None and not _are_within(details.recipients, policy.recipient_domains):
        detail = "Rule recipient_domains: mail to other domains than those allowed is not released."
        return Ended(Outcome.DENIED, Code.RECIPIENT_NOT_ALLOWED, detail)
    return None


def _passed(details: Details, policy: Policy) -> Guarded:
    return Guarded.PASSED if _may_be_disposed(details, policy) else Guarded.OVERRIDDEN


def _may_be_disposed(details: Details, policy: Policy) -> bool:
    return not _refused_dispositions(details, policy)


def _refused_dispositions(details: Details, policy: Policy) -> list[str | None]:
    """Return the dispositions that the policy refuses, worst first; one that is not known is always refused."""
    allowed = DISPOSITIONS if policy.dispositions is None else DISPOSITIONS & policy.dispositions
    return [each for each in details.dispositions if each not in allowed]


def _first_refused(details: Details, policy: Policy) -> str:
    refused = _refused_dispositions(details, policy)[0]
    return refused if refused is not None and refused in DISPOSITIONS else "not known"


def _are_within(recipients: tuple[str, ...], domains: frozenset[str]) -> bool:
    return bool(recipients) and all(_domain(each) in domains for each in recipients)


def _domain(recipient: str) -> str | None:
    """Return the domain of an address; None for what may hold another address too."""
    plain = _ADDRESS.match(recipient)
    return plain.group(1).lower() if plain else None
