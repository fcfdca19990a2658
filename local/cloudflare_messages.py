"""What the simulated Cloudflare knows of its messages: quarantined or released, recipients, action log."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

ANY_ID = re.compile(r"[A-Za-z0-9._:-]{8,128}")
SHAPED_ID = re.compile(
    r"(?P<postfix>[A-Za-z0-9]{10,24})(?:-(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:-(?P<digits>\d+))?)?"
)
# Postfix writes the arrival time as the first six characters of a long queue id, in base 52 over this alphabet.
POSTFIX_ALPHABET = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
EARLIEST_ARRIVAL = datetime(2010, 1, 1, tzinfo=UTC)
# The message of Cloudflare's own examples, whose digits and time do not follow from its postfix id.
PUBLISHED_EXAMPLE = ("4Njp3P0STMz2c02Q", datetime(2024, 1, 5, 10, tzinfo=UTC), "12345678")
PEOPLE = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")
CHANGEABLE = (
    *("quarantined", "disposition", "message_id", "recipients", "sender", "subject", "delivery_mode"),
    "lists_failures",  # whether a failed release is listed in post_delivery_operations
)
DETECTIONS = ("MALICIOUS", "MALICIOUS-BEC", "SUSPICIOUS", "SPOOF", "SPAM", "BULK")


@dataclass(frozen=True, slots=True)
class Release:
    """One release of one message, effective or not, as the action log tells it."""

    at: datetime
    success: bool
    requested_by: str


@dataclass(slots=True)
class Message:
    """One message in or out of quarantine."""

    id: str
    postfix_id: str
    scanned_at: datetime
    recipients: list[str]
    quarantined: bool = True
    disposition: str = "SPAM"
    message_id: str = ""
    sender: str = "newsletter@example.net"
    subject: str = "Your order has been shipped"
    delivery_mode: str = "DIRECT"
    lists_failures: bool = False
    release_calls: int = 0
    releases: list[Release] = field(default_factory=list)

    @property
    def alert_id(self) -> str:
        return f"{self.postfix_id}-{self.scanned_at:%Y-%m-%dT%H:%M:%S}"

    def is_released(self, now: datetime) -> bool:
        return any(release.success and release.at <= now for release in self.releases)

    def details(self, now: datetime) -> dict[str, Any]:
        """The message as the list and the single read show it."""
        is_quarantined = self.quarantined and not self.is_released(now)
        is_listed = self.is_released(now) or (self.lists_failures and bool(self.action_log(now)))
        return {
            "id": self.id,
            "postfix_id": self.postfix_id,
            "alert_id": self.alert_id,
            "message_id": self.message_id or f"<{self.postfix_id}@example.net>",
            "is_quarantined": is_quarantined,
            "is_phish_submission": False,
            "client_recipients": self.recipients,
            "detection_reasons": ["simulated"],
            "delivery_mode": self.delivery_mode,
            "from": self.sender,
            "subject": self.subject,
            "delivery_status": ["quarantined" if is_quarantined else "delivered"],
            "final_disposition": self.disposition,
            "post_delivery_operations": ["QUARANTINE_RELEASE"] if is_listed else [],
            "properties": {},
            "action_log": [],
            "scanned_at": _rfc3339(self.scanned_at),
            "ts": _rfc3339(self.scanned_at),
        }

    def action_log(self, now: datetime) -> list[dict[str, Any]]:
        return [
            {
                "operation": "QUARANTINE_RELEASE",
                "started_at": _rfc3339(release.at),
                "completed_at": _rfc3339(release.at),
                "status": "SUCCESS" if release.success else "FAILED",
                "success": release.success,
                "properties": {"requested_by": release.requested_by},
            }
            for release in self.releases
            if release.at <= now
        ]

    def summary(self, now: datetime) -> dict[str, Any]:
        """What a test wants to know; a release beyond the first is a double release, on purpose or not."""
        effective = sum(release.success for release in self.releases)
        return {
            "id": self.id,
            "postfix_id": self.postfix_id,
            "state": "released" if self.is_released(now) else "quarantined" if self.quarantined else "delivered",
            "recipients": self.recipients,
            "release_calls": self.release_calls,
            "releases": effective,
            "double_releases": max(0, effective - 1),
        }


class Quarantine:
    """All messages of the account; one that nobody has named before is there as soon as somebody names it."""

    def __init__(self) -> None:
        self._messages: dict[str, Message] = {}

    def find(self, message_id: str, now: datetime) -> Message | None:
        """The message that an id of any shape names; None if the id is malformed or contradicts the message."""
        shape = SHAPED_ID.fullmatch(message_id)
        if shape is None and not ANY_ID.fullmatch(message_id):
            return None
        postfix_id = shape["postfix"] if shape else message_id
        if postfix_id not in self._messages:
            try:
                self._messages[postfix_id] = _new_message(message_id, shape, now)
            except ValueError:  # no such day
                return None
        message = self._messages[postfix_id]
        if shape and shape["time"] and message_id not in (message.id, message.alert_id):
            return None
        return message

    def change(self, changes: Mapping[str, Any], now: datetime) -> Message | None:
        """Set attributes of a message; `recipients` may be a number."""
        message = self.find(str(changes.get("id")), now)
        if message is not None:
            for name in CHANGEABLE:
                setattr(message, name, changes.get(name, getattr(message, name)))
            if isinstance(message.recipients, int):
                message.recipients = [f"recipient{number:04}@example.com" for number in range(message.recipients)]
            if "scanned_at" in changes:
                message.scanned_at = datetime.fromisoformat(changes["scanned_at"])
        return message

    def all(self) -> list[Message]:
        return sorted(self._messages.values(), key=lambda message: message.scanned_at, reverse=True)

    def search(self, query: Mapping[str, str], now: datetime) -> Iterable[Message]:
        """What the list call finds, newest first; `ValueError` for a parameter that Cloudflare would refuse."""
        start = _moment(query.get("start"), now - timedelta(days=30))
        end = _moment(query.get("end"), now)
        if start > now:
            raise ValueError("start is in the future")
        if query.get("detections_only", "true") not in ("true", "false"):
            raise ValueError("detections_only is not a boolean")
        if alert_id := query.get("alert_id"):
            self.find(alert_id, now)
        for message in self.all():
            details = message.details(now)
            released = bool(details["post_delivery_operations"])
            if (
                start <= message.scanned_at <= end
                and (query.get("detections_only") == "false" or message.disposition in DETECTIONS)
                and query.get("alert_id", message.alert_id) == message.alert_id
                and query.get("message_id", details["message_id"]) == details["message_id"]
                and ("recipient" not in query or any(_is_of(each, query["recipient"]) for each in message.recipients))
                and ("sender" not in query or _is_of(message.sender, query["sender"]))
                and query.get("delivery_status", details["delivery_status"][0]) in details["delivery_status"]
                and ("message_action" not in query or (query["message_action"] == "QUARANTINE_RELEASED" and released))
            ):
                yield message


def _is_of(address: str, wanted: str) -> bool:
    """Whether an address is the one wanted, or of that domain."""
    return wanted.lower() in (address.lower(), address.rpartition("@")[2].lower())


def postfix_time(postfix_id: str) -> datetime | None:
    """When Postfix took the message in, if its queue id is a long one."""
    seconds = 0
    for letter in postfix_id[:6]:
        digit = POSTFIX_ALPHABET.find(letter)
        if digit < 0:
            return None
        seconds = seconds * len(POSTFIX_ALPHABET) + digit
    return datetime.fromtimestamp(seconds, UTC)


def _new_message(message_id: str, shape: re.Match[str] | None, now: datetime) -> Message:
    if shape is None:
        return Message(message_id, message_id, now, _recipients(message_id))
    postfix_id, arrival = shape["postfix"], postfix_time(shape["postfix"])
    scanned_at = arrival if arrival and EARLIEST_ARRIVAL <= arrival <= now else now - timedelta(hours=1)
    digits = f"{zlib.crc32(postfix_id.encode()) % 10**8:08}"
    if postfix_id == PUBLISHED_EXAMPLE[0]:
        _, scanned_at, digits = PUBLISHED_EXAMPLE
    if shape["time"]:
        scanned_at = datetime.fromisoformat(shape["time"]).replace(tzinfo=UTC)
    scanned_at = scanned_at.replace(microsecond=0)
    investigate_id = f"{postfix_id}-{scanned_at:%Y-%m-%dT%H:%M:%S}-{shape['digits'] or digits}"
    return Message(investigate_id, postfix_id, scanned_at, _recipients(postfix_id))


def _recipients(postfix_id: str) -> list[str]:
    first = zlib.crc32(postfix_id.encode()) % len(PEOPLE)
    return [f"{PEOPLE[(first + step) % len(PEOPLE)]}@example.com" for step in (0, 3)]


def _moment(text: str | None, default: datetime) -> datetime:
    moment = datetime.fromisoformat(text) if text else default
    if moment.tzinfo is None:
        raise ValueError("a time without its zone")
    return moment


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
