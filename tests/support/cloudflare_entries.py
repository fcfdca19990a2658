"""Ids, entries and action logs as Cloudflare tells of them, and what it may send instead."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from quarantine_release.cloudflare.entries import RELEASE, parse_details
from quarantine_release.domain.details import Details
from quarantine_release.domain.ids import MessageId, postfix_part
from quarantine_release.domain.lookup import Question
from quarantine_release.domain.request_options import Narrowing
from quarantine_release.domain.verdicts import ReadBackTarget, Seen
from tests.support.shapes import family, postfix_ids
from tests.support.stand_ins import NOON

BASE_52 = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
RELEASED, QUARANTINED, UNCLEAR = Seen.RELEASED, Seen.QUARANTINED, Seen.UNCLEAR
HELD: Mapping[str, Any] = {"is_quarantined": True}
FREED: Mapping[str, Any] = {"is_quarantined": False, "post_delivery_operations": [RELEASE]}


def queue_id(at: datetime, name: str = "z0000000") -> MessageId:
    """Make the id that Postfix gives a message that arrives then."""
    seconds, digits = int(at.timestamp()), ""
    for _ in range(6):
        seconds, digit = divmod(seconds, 52)
        digits = BASE_52[digit] + digits
    return MessageId(digits + name)


def full_id(at: datetime, digits: str = "12345678") -> MessageId:
    return MessageId(f"{queue_id(at)}-{at:%Y-%m-%dT%H:%M:%S}-{digits}")


def want(message_id: str, since: datetime | None = None) -> ReadBackTarget:
    known = MessageId(message_id)
    return ReadBackTarget(postfix_part(known), known, since)


words = st.sampled_from([RELEASE, "RELEASE", "quarantined", "delivered", "quarantine_release", "2026-11-22T12:00:00Z"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | words | family
members = st.sampled_from(
    [
        *("id", "postfix_id", "is_quarantined", "post_delivery_operations", "delivery_status", "properties"),
        *("allowlisted_pattern_type", "action_log", "operation", "success", "started_at"),
    ]
)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(members | st.text(max_size=3), inner, max_size=5),
    max_leaves=12,
)
likely = st.fixed_dictionaries(
    {"id": family},
    optional={
        "postfix_id": postfix_ids,
        "is_quarantined": st.booleans(),
        "post_delivery_operations": st.lists(words, max_size=2) | scalars,
        "delivery_status": st.lists(words, max_size=2),
        "properties": anything,
    },
)


def action(**members: Any) -> dict[str, Any]:
    return {"operation": RELEASE, "success": True, "started_at": "2026-11-22T12:00:00Z", **members}


# One entry of the search with all that it may tell.
HEADER = MessageId("<20261122.1200@news.example>")
AT = NOON - timedelta(hours=3)
ENTRY: dict[str, Any] = {
    "id": full_id(AT),
    "postfix_id": queue_id(AT),
    "message_id": HEADER,
    "is_quarantined": True,
    "final_disposition": "SPAM",
    "delivery_mode": "DIRECT",
    "scanned_at": "2026-11-22T09:00:07Z",
    "ts": "2026-11-22T08:00:00Z",
    "client_recipients": ["ann@example.com"],
    "envelope_to": ["list@example.com"],
    "from": "News <news@news.example>",
    "envelope_from": "bounce-17@mailer.example",
    "subject": "Your order",
    "post_delivery_operations": [],
}


def read(**members: Any) -> Details:
    details = parse_details(ENTRY | members, NOON)
    assert details is not None
    return details


def lacking(*names: str) -> Details:
    details = parse_details({name: value for name, value in ENTRY.items() if name not in names}, NOON)
    assert details is not None
    return details


def asking(header: MessageId = HEADER, start: datetime = NOON - timedelta(days=30), **narrowing: Any) -> Question:
    return Question(header, Narrowing(**narrowing), start)
