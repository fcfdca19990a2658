"""What a read of Cloudflare before a release shows about a message, or why it shows nothing. Pure.

Sources of the fields: Cloudflare's API reference, "Search email messages" and "Get message details".
"""

import re
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from quarantine_release.domain.ids import MessageId

# Dispositions that nobody knows yet may look like this; any other text may be anything, an address too.
_NAME: Final = re.compile(r"\A[A-Z_-]{1,40}\Z")


class Unreadable(StrEnum):
    """Why nothing is known of a message, although it was looked for. It is final: the guard judges by it.

    ABSENT: there is none; NOT_OFFERED: the server has no such reading; NOT_LISTED: it has no reading by path, and its
    lists show none; TOO_MANY: more lies around it than may be listed; UNDATED: its id tells no time around which to
    list; CONTRADICTED: it was shown in ways that cannot all be true; UNCLEAR: it was shown in a way that does not tell
    what it is; FAILED: all else.
    """

    ABSENT = "absent"
    NOT_OFFERED = "not_offered"
    NOT_LISTED = "not_listed"
    TOO_MANY = "too_many"
    UNDATED = "undated"
    CONTRADICTED = "contradicted"
    UNCLEAR = "unclear"
    FAILED = "failed"


class NotYetRead(StrEnum):
    """Why a message was not read for now. It waits, because the next try may read it; the guard never judges by it.

    NOT_NOW: no call may be made; REFUSED: there is no credential, or it is refused.
    """

    NOT_NOW = "not_now"
    REFUSED = "refused"


NotRead = Unreadable | NotYetRead


@dataclass(frozen=True, slots=True)
class Details:
    """What Cloudflare says about one message. `at` is when it was scanned; personal data never leaves in a repr.

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
    def dispositions(self) -> tuple[str | None, ...]:
        """Return the dispositions of all rows, worst first."""
        return (self.disposition, *self.other_dispositions)

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
    why: Unreadable
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
