"""What a call or a read of Cloudflare proves of a message. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from quarantine_release.domain.ids import MessageId, OperationId, PostfixPart
from quarantine_release.domain.states import Code, State

RECIPIENTS_KEPT: Final = 20
RECIPIENT_LENGTH: Final = 320  # RFC 3696 erratum 1690: 64 + @ + 255


@dataclass(frozen=True, slots=True)
class Recipients:
    """Per-recipient result of one message: at most 20 names a list, and how many there were."""

    delivered: tuple[str, ...] = ()
    undelivered: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    counts: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(
        cls, delivered: Iterable[str] = (), undelivered: Iterable[str] = (), failed: Iterable[str] = ()
    ) -> "Recipients":
        """Keep what a row can hold; the counts stay exact."""
        lists = [list(dict.fromkeys(names)) for names in (delivered, undelivered, failed)]
        kept = [tuple(name[:RECIPIENT_LENGTH] for name in names[:RECIPIENTS_KEPT]) for names in lists]
        return cls(kept[0], kept[1], kept[2], (len(lists[0]), len(lists[1]), len(lists[2])))

    @property
    def unnamed(self) -> "Recipients":
        """Return the counts alone."""
        return Recipients(counts=self.counts)

    @property
    def truncated(self) -> bool:
        """Return whether there were more recipients than are named."""
        return self.counts != (len(self.delivered), len(self.undelivered), len(self.failed))


NO_RECIPIENTS: Final = Recipients()


@dataclass(frozen=True, slots=True)
class Evidence:
    """How we know: what one call to Cloudflare came to. No body, no header but `cf-ray`, no message text.

    `seen` is what a later read showed of the message, where the call itself told nothing; with `operation` no read
    showed it, but a person said so.
    """

    status: int | None = None
    error_codes: tuple[int, ...] = ()
    cf_ray: str | None = None
    failure: str | None = None
    seen: "Seen | None" = None
    operation: OperationId | None = None


class Seen(StrEnum):
    """What a read of Cloudflare shows of a message. PARTIAL: its action log shows a release that missed a recipient."""

    RELEASED = "released"
    PARTIAL = "partially_released"
    QUARANTINED = "quarantined"
    UNCLEAR = "unclear"
    ABSENT = "absent"
    UNREAD = "unread"


@dataclass(frozen=True, slots=True)
class ReadBackTarget:
    """A message to be read. With `since`, only a release that began after it counts: the message was forced.

    Without `may_free`, "still quarantined" would not count yet, so no call is spent on making sure of it. `candidates`
    are other ids that may be the message's.
    """

    part: PostfixPart
    message_id: MessageId
    since: datetime | None = None
    may_free: bool = True
    candidates: tuple[MessageId, ...] = ()


@dataclass(frozen=True, slots=True)
class ReadBack:
    """What one message looked like; UNREAD proves nothing, ABSENT only that it cannot be read under this id.

    `recipients` are those that an action log names.
    """

    seen: Seen
    evidence: Evidence
    message_id: MessageId | None = None
    recipients: Recipients = NO_RECIPIENTS


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one call proves about one message: RELEASED, PARTIAL, FAILED, or UNKNOWN where it proves nothing."""

    state: State
    code: Code | None = None
    recipients: Recipients = NO_RECIPIENTS
    message_id: MessageId | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """That releases are paused by a person, of an account or of one client of it; callers are shown the reason."""

    reason: str
    by: str
    since: datetime
    operation: OperationId


class RefusalReason(StrEnum):
    """Why a call was provably without effect."""

    CREDENTIALS = "cloudflare_credentials_refused"
    RATE_LIMITED = "cloudflare_rate_limited"
    CALL_REJECTED = "cloudflare_call_rejected"
    UNREACHABLE = "cloudflare_unreachable"
    NO_TIME = "not_enough_time"
    PAUSED = "releases_paused"
    NOT_SEARCHABLE_YET = "message_not_searchable_yet"


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that went out. An id without a verdict has the verdict UNKNOWN; ids not asked for are only counted.

    `rest` in seconds: for how long Cloudflare wants few calls or none. `calls` is how many it took.
    """

    verdicts: Mapping[MessageId, Verdict]
    evidence: Evidence
    unasked: int = 0
    rest: int | None = None
    calls: int = 1


@dataclass(frozen=True, slots=True)
class NoEffect:
    """A call that provably had no effect: it may be made again. `retry_after` in seconds; `calls`: how many it was.

    `stop` is why it was not made, if a person has paused releases.
    """

    reason: RefusalReason
    evidence: Evidence
    retry_after: int | None = None
    calls: int = 1
    stop: Stop | None = None


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """What Cloudflare says of the credential itself: a verified one proves no permission to release."""

    is_accepted: bool | None
    evidence: Evidence
