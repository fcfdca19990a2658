"""An SQS standard queue in memory: delay, visibility timeout, receive count, dead letters. The time is passed in.

Left out is what nobody here would notice: retention, message attributes, several copies of a message.
"""

from __future__ import annotations

import hashlib
import heapq
import re
import threading
import uuid
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from local.template import ACCOUNT, REGION

RECORD_BYTES = 1024  # what a message is counted as in an event, beside its body
RECEIPT_HANDLE = re.compile(r"([0-9a-f-]{36})\.([0-9]{1,9})")


class ReceiptHandleIsInvalid(Exception):
    """No queue has ever given out such a receipt handle."""


@dataclass(frozen=True, slots=True)
class Received:
    """A message as one receive shows it; the receipt handle belongs to this receive."""

    message_id: str
    receipt_handle: str
    body: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages can be received, come later, and have been received but not deleted."""

    visible: int
    delayed: int
    in_flight: int


@dataclass(slots=True)
class _Message:
    body: str
    sent_at: float
    message_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    size: int = 0
    receives: int = 0
    first_received_at: float = 0.0
    dead_letter_of: str | None = None

    @property
    def receipt_handle(self) -> str:
        return f"{self.message_id}.{self.receives}"

    def as_received(self) -> Received:
        attributes = {
            "ApproximateReceiveCount": str(self.receives),
            "SentTimestamp": str(int(self.sent_at * 1000)),
            "SenderId": ACCOUNT,
            "ApproximateFirstReceiveTimestamp": str(int(self.first_received_at * 1000)),
        }
        if self.dead_letter_of:
            attributes["DeadLetterQueueSourceArn"] = self.dead_letter_of
        return Received(self.message_id, self.receipt_handle, self.body, attributes)


class Queue:
    """Threads may share it. Every call costs the same however long the queue is, but for `counts`."""

    def __init__(self, name: str, *, visibility_seconds: float = 30, delay_seconds: float = 0) -> None:
        self.name = name
        self.arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"
        self.visibility_seconds = visibility_seconds
        self.delay_seconds = delay_seconds
        self.dead_letters: Queue | None = None
        self.max_receives = 0
        self._lock = threading.Lock()
        self._visible: OrderedDict[str, _Message] = OrderedDict()
        self._hidden: dict[str, _Message] = {}
        self._showing: list[tuple[float, str]] = []  # a heap, with what has been deleted since

    def redrive_to(self, dead_letters: Queue, max_receives: int) -> None:
        """Move what was received so often and not deleted, instead of letting it be received once more."""
        self.dead_letters, self.max_receives = dead_letters, max_receives

    def send(self, body: str, now: float, delay_seconds: float | None = None) -> str:
        """Add a message; return its id."""
        message = _Message(body, sent_at=now, size=len(body.encode()))
        delay = self.delay_seconds if delay_seconds is None else delay_seconds
        with self._lock:
            if delay > 0:
                self._hide(message, now + delay)
            else:
                self._visible[message.message_id] = message
        return message.message_id

    def receive(
        self, limit: int, now: float, *, visibility_seconds: float | None = None, max_bytes: int | None = None
    ) -> list[Received]:
        """Take up to `limit` messages, the longest visible first, and hide them for the visibility timeout.

        With `max_bytes` it stops before the message that would make the event too large.
        """
        hidden_until = now + (self.visibility_seconds if visibility_seconds is None else visibility_seconds)
        received: list[Received] = []
        size = 0
        with self._lock:
            self._show(now)
            while self._visible and len(received) < limit:
                message = next(iter(self._visible.values()))
                if self.dead_letters and message.receives >= self.max_receives:
                    self._visible.popitem(last=False)
                    self.dead_letters._take_in(message, self.arn)
                    continue
                size += message.size + RECORD_BYTES
                if max_bytes is not None and size > max_bytes:
                    break
                self._visible.popitem(last=False)
                message.first_received_at = message.first_received_at or now
                message.receives += 1
                self._hide(message, hidden_until)
                received.append(message.as_received())
        return received

    def delete(self, receipt_handle: str) -> None:
        """Delete a received message. The handle of an earlier receive changes nothing; see DeleteMessage in SQS's API.

        Raises `ReceiptHandleIsInvalid`.
        """
        handle = RECEIPT_HANDLE.fullmatch(receipt_handle)
        if not handle:
            raise ReceiptHandleIsInvalid(receipt_handle)
        with self._lock:
            for messages in (self._hidden, self._visible):
                message = messages.get(handle[1])
                if message and message.receives == int(handle[2]):
                    del messages[handle[1]]

    def purge(self) -> None:
        """Delete every message."""
        with self._lock:
            self._visible.clear()
            self._hidden.clear()
            self._showing.clear()

    def counts(self, now: float) -> Counts:
        with self._lock:
            self._show(now)
            delayed = sum(message.receives == 0 for message in self._hidden.values())
            return Counts(len(self._visible), delayed, len(self._hidden) - delayed)

    def _take_in(self, message: _Message, source_arn: str) -> None:
        """Accept a dead letter: it keeps its id, the time it was sent at and its receive count."""
        message.dead_letter_of = source_arn
        with self._lock:
            self._visible[message.message_id] = message

    def _hide(self, message: _Message, until: float) -> None:
        self._hidden[message.message_id] = message
        heapq.heappush(self._showing, (until, message.message_id))

    def _show(self, now: float) -> None:
        while self._showing and self._showing[0][0] <= now:
            _, message_id = heapq.heappop(self._showing)
            if message := self._hidden.pop(message_id, None):
                self._visible[message_id] = message


def md5_of(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


def declared_queues(declared: Sequence[Mapping[str, Any]]) -> dict[str, Queue]:
    """The queues of a template by name, from their CloudFormation properties."""
    queues = {
        each["QueueName"]: Queue(
            each["QueueName"],
            visibility_seconds=float(each.get("VisibilityTimeout", 30)),
            delay_seconds=float(each.get("DelaySeconds", 0)),
        )
        for each in declared
    }
    for each in declared:
        if redrive := each.get("RedrivePolicy"):
            dead_letters = queues[redrive["deadLetterTargetArn"].rpartition(":")[2]]
            queues[each["QueueName"]].redrive_to(dead_letters, int(redrive["maxReceiveCount"]))
    return queues
