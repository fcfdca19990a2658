"""What stands for a row that cannot be read: it is there, and nobody may act on it. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

from quarantine_release.domain.ids import AccountId, AttemptId, MessageId, PostfixPart, RequestId
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.states import State


def unreadable(account_id: AccountId, part: PostfixPart) -> MessageRow:
    """Return what stands for a message whose row cannot be read: it is not absent, and nobody may claim it."""
    never = datetime(1970, 1, 1, tzinfo=UTC)
    return MessageRow(
        account_id=account_id,
        part=part,
        state=State.UNREADABLE,
        attempt=AttemptId(""),
        message_id=MessageId(part),
        updated_at=never,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRequest:
    """A request whose row cannot be read. Whose it is as far as the row still tells."""

    request_id: RequestId
    client: str | None
    account_id: AccountId | None
