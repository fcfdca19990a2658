"""May this mail leave quarantine: what Cloudflare tells of a message, the policy, and the verdict. Pure.

What is not known is refused. Sources of the fields: Cloudflare's API reference, "Search email messages" and "Get
message details"; that mail of other delivery modes than DIRECT is never held: "Email Security, API deployment".
"""

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.policy import DEFAULT_POLICY, DISPOSITIONS, Policy
from quarantine_release.domain.states import Code, Outcome

_REMEDY: Final = "send the AlertID or the investigate id instead."

# These look at copies, or at mail that is in its mailbox already.
_HOLDS_NOTHING: Final = frozenset({"API", "BCC", "JOURNAL", "RETRO_SCAN"})

# Dispositions that nobody knows yet may look like this; any other text may be anything, an address too.
_NAME: Final = re.compile(r"\A[A-Z_-]{1,40}\Z")

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
    """Whether a bare postfix id that cannot be read is released: STANDARD does, STRICT does not. OFF reads nothing."""

    STANDARD = "standard"
    STRICT = "strict"
    OFF = "off"


class Guarded(StrEnum):
    """How a message came past the guard; kept with its claim. PASSED_BY_RECORD: by what was read of it before."""

    PASSED = "passed"
    PASSED_BY_RECORD = "passed_by_record"
    OVERRIDDEN = "overridden"
    NOT_CHECKED = "not_checked"


class NotRead(StrEnum):
    """Why nothing is known of a message.

    ABSENT: there is none; NOT_OFFERED: the server has no such reading; NOT_LISTED: it has no reading by path, and its
    lists show none; TOO_MANY: more lies around it than may be listed; UNDATED: its id tells no time around which to
    list; NOT_NOW: no call may be made; REFUSED: there is no credential, or it is refused; CONTRADICTED: it was shown in
    ways that cannot all be true; UNCLEAR: it was shown in a way that does not tell what it is; FAILED: all else.
    """

    ABSENT = "absent"
    NOT_OFFERED = "not_offered"
    NOT_LISTED = "not_listed"
    TOO_MANY = "too_many"
    UNDATED = "undated"
    NOT_NOW = "not_now"
    REFUSED = "refused"
    CONTRADICTED = "contradicted"
    UNCLEAR = "unclear"
    FAILED = "failed"


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


NO_GUARD: Final = Guard()


@dataclass(frozen=True, slots=True)
class Details:
    """What Cloudflare tells of one message. `at` is when it was scanned; personal data never leaves in a repr.

    If several rows describe the message, `disposition` is the worst of theirs, `other_dispositions` are the rest,
    worst first, and `recipients` is empty unless every row names some. `header` is its Message-ID without brackets.
    `is_doubtful`: it is shown as held and yet something resembles a release, of which the action log shows no success.
    """

    message_id: MessageId
    is_quarantined: bool
    disposition: str | None = None
    delivery_mode: str | None = None
    at: datetime | None = None
    recipients: tuple[str, ...] = field(default=(), repr=False)
    sender: str | None = field(default=None, repr=False)
    subject: str | None = field(default=None, repr=False)
    is_released: bool = False
    is_doubtful: bool = False
    other_dispositions: tuple[str | None, ...] = ()
    header: str | None = field(default=None, repr=False)

    @property
    def disposition_name(self) -> str | None:
        """Return the disposition as it may be kept and logged; None for what is no name."""
        return as_name(self.disposition)


def as_name(disposition: str | None) -> str | None:
    """Return a disposition as it may be kept and logged; None for what is no name."""
    return disposition if disposition and _NAME.match(disposition) else None


@dataclass(frozen=True, slots=True)
class Unclear:
    """The matches of a search whose rows do not tell what each message is, why, and those whose rows do.

    `fit`: whether the unclear ones are known to be what the search asked for.
    """

    unread: tuple[MessageId, ...]
    why: NotRead
    clear: tuple[Details, ...] = ()
    fit: bool = True

    @property
    def only(self) -> MessageId | None:
        """Return the one message that the search can mean; None if there may be others, or another."""
        return self.unread[0] if len(self.unread) == 1 and not self.clear and self.fit else None


@dataclass(frozen=True, slots=True)
class Several:
    """Two or more messages behind one id that is not a full one."""

    messages: tuple[Details, ...]


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
        """Say whether the message was read and refused for what it is."""
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


def judge(
    details: Details | NotRead,
    policy: Policy,
    now: datetime,
    *,
    is_bare: bool,
    override: bool = False,
    force: bool = False,
) -> Guarded | Ended:
    """Say whether a message may be released. `override` passes the rule on dispositions, `force` that on quarantine.

    Must not be asked of what could not be read for now, or for want of a credential.
    """
    if is_bare and details in (NotRead.ABSENT, NotRead.NOT_OFFERED):
        # A rule that somebody has written down holds for what cannot be read too.
        if not (policy.is_strict or policy.max_age is not None or policy.recipient_domains is not None):
            return Guarded.NOT_CHECKED
        said = f"Cloudflare does not let this Postfix id be read: {_REMEDY}"
        return Ended(Outcome.DENIED, Code.GUARD_CANNOT_READ, said)
    if details is NotRead.TOO_MANY:
        said = f"Too much mail lies around this Postfix id: {_REMEDY}"
        return Ended(Outcome.DENIED, Code.GUARD_CANNOT_READ, said)
    if details is NotRead.UNDATED:
        said = f"This Postfix id tells no time, so Cloudflare's lists cannot be searched for it: {_REMEDY}"
        return Ended(Outcome.DENIED, Code.GUARD_CANNOT_READ, said)
    if details is NotRead.ABSENT:
        return Ended(Outcome.NOT_FOUND, None, "Cloudflare knows no such message.")
    if details is NotRead.CONTRADICTED:
        return CONTRADICTED
    if isinstance(details, NotRead):
        return Ended(Outcome.DENIED, Code.GUARD_UNAVAILABLE, "The message could not be read, so it is not released.")
    ended = (None if force else _not_held(details)) or _refused(details, policy, now, override)
    return _passed(details, policy) if ended is None else replace(ended, disposition=details.disposition_name)


def _not_held(details: Details) -> Ended | None:
    if details.is_quarantined and not details.is_released:  # a released message may be shown as held for a while
        return _DOUBTFUL if details.is_doubtful else None
    if details.delivery_mode in _HOLDS_NOTHING:
        said = f"Cloudflare holds no mail in delivery mode {details.delivery_mode}; use its move instead."
        return Ended(Outcome.NOT_QUARANTINED, Code.NOTHING_HELD, said)
    if details.is_released:
        return Ended(Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED, "It was already released outside this service.")
    said = "It is not in quarantine: it was delivered, or is held elsewhere. To put it into the inbox use move."
    return Ended(Outcome.NOT_QUARANTINED, Code.ALREADY_DELIVERED, said)


def _refused(details: Details, policy: Policy, now: datetime, override: bool) -> Ended | None:
    if not (override or _may_be_disposed(details, policy)):
        said = f"Rule dispositions: mail whose disposition is {_first_refused(details, policy)} is not released."
        return Ended(Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED, said)
    if policy.max_age is not None and (details.at is None or now - details.at > policy.max_age):
        said = f"Rule max_age_days: mail older than {policy.max_age.days} days is not released."
        return Ended(Outcome.DENIED, Code.MESSAGE_TOO_OLD, said)
    if policy.recipient_domains is not None and not _are_within(details.recipients, policy.recipient_domains):
        said = "Rule recipient_domains: mail to other domains than those allowed is not released."
        return Ended(Outcome.DENIED, Code.RECIPIENT_NOT_ALLOWED, said)
    return None


def _passed(details: Details, policy: Policy) -> Guarded:
    return Guarded.PASSED if _may_be_disposed(details, policy) else Guarded.OVERRIDDEN


def _may_be_disposed(details: Details, policy: Policy) -> bool:
    return not _refused_dispositions(details, policy)


def _refused_dispositions(details: Details, policy: Policy) -> list[str | None]:
    """Return the dispositions that the policy refuses, worst first; one that is not known is always refused."""
    allowed = DISPOSITIONS if policy.dispositions is None else DISPOSITIONS & policy.dispositions
    return [each for each in (details.disposition, *details.other_dispositions) if each not in allowed]


def _first_refused(details: Details, policy: Policy) -> str:
    refused = _refused_dispositions(details, policy)[0]
    return refused if refused is not None and refused in DISPOSITIONS else "not known"


def _are_within(recipients: tuple[str, ...], domains: frozenset[str]) -> bool:
    return bool(recipients) and all(_domain(each) in domains for each in recipients)


def _domain(recipient: str) -> str | None:
    """Return the domain of an address; None for what may hold another address too."""
    plain = _ADDRESS.match(recipient)
    return plain.group(1).lower() if plain else None
