"""Lambda's SQS event source: feeds a function batches from a queue, and deletes what the function has dealt with.

The queue is in the embedded AWS process. Only this end may take more than ten messages at once: it asks over the pipe.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any

from local.children import ChildDied
from local.handlers import HandlerFailed
from local.services import Service
from local.sqs_queue import RECORD_BYTES, Queue, md5_of
from local.template import REGION, QueueEvents

MAX_EVENT_BYTES = 6 * 1024 * 1024
LOOK_AGAIN_SECONDS = 0.05

Record = Mapping[str, Any]


class RemoteQueue:
    """One queue of the embedded AWS process, as its event source sees it."""

    def __init__(self, aws: Service, name: str) -> None:
        self._aws = aws
        self._name = name

    def receive(self, limit: int, max_bytes: int) -> list[Record]:
        """Take up to so many messages as records of an event; raises `ChildDied`."""
        received: list[Record] = self._ask({"receive": limit, "max_bytes": max_bytes})
        return received

    def delete(self, receipt_handles: Sequence[str]) -> None:
        """Delete what was received; raises `ChildDied`."""
        self._ask({"delete": receipt_handles})

    def _ask(self, question: Mapping[str, Any]) -> Any:
        return json.loads(self._aws.ask(json.dumps({"queue": self._name, **question}).encode()))


def serve_event_source(queues: Mapping[str, Queue], question: bytes) -> bytes:
    """Answer a `RemoteQueue`."""
    asked = json.loads(question)
    queue = queues[asked["queue"]]
    for receipt_handle in asked.get("delete", ()):
        queue.delete(receipt_handle)
    received = queue.receive(asked.get("receive", 0), time.time(), max_bytes=asked.get("max_bytes"))
    records = [
        {
            "messageId": message.message_id,
            "receiptHandle": message.receipt_handle,
            "body": message.body,
            "attributes": message.attributes,
            "messageAttributes": {},
            "md5OfBody": md5_of(message.body),
            "eventSource": "aws:sqs",
            "eventSourceARN": queue.arn,
            "awsRegion": REGION,
        }
        for message in received
    ]
    return json.dumps(records).encode()


class EventSource:
    """Collects batches and submits them until `stop`, never more at once than the mapping's maximum concurrency."""

    def __init__(
        self, queue: RemoteQueue, events: QueueEvents, submit: Callable[[Mapping[str, Any]], Future[Any]]
    ) -> None:
        """Begin. It ends by itself when the queue's process has died."""
        self._queue = queue
        self._events = events
        self._submit = submit
        self._stopping = threading.Event()
        self._free = threading.Semaphore(events.maximum_concurrency)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Submit no more; the batches under way are left to their function."""
        self._stopping.set()
        self._free.release()
        self._thread.join()

    def _run(self) -> None:
        with suppress(ChildDied):
            while batch := self._next_batch():
                outcome = self._submit({"Records": batch})
                outcome.add_done_callback(partial(self._settle, batch))

    def _next_batch(self) -> list[Record]:
        """Up to a full batch, or what has come by the end of the window since the first message; empty when stopped."""
        self._free.acquire()  # before any receive: what waits for a process would lose its visibility timeout
        batch: list[Record] = []
        left_bytes, ends_at = MAX_EVENT_BYTES, 0.0
        while not self._stopping.is_set():
            more = self._queue.receive(self._events.batch_size - len(batch), left_bytes)
            left_bytes -= sum(len(record["body"].encode()) + RECORD_BYTES for record in more)
            now = time.monotonic()
            ends_at = ends_at if batch else now + self._events.window_seconds
            batch += more
            if len(batch) == self._events.batch_size or (batch and now >= ends_at):
                return batch
            self._stopping.wait(min(LOOK_AGAIN_SECONDS, ends_at - now) if batch else LOOK_AGAIN_SECONDS)
        return []

    def _settle(self, batch: Sequence[Record], outcome: Future[Any]) -> None:
        """Delete what was dealt with. What is left becomes visible again after its visibility timeout."""
        with suppress(HandlerFailed, CancelledError, ChildDied):
            answer = outcome.result()
            failed: Set[str] = set()
            if self._events.reports_failures:
                failed = failed_ids(answer, {record["messageId"] for record in batch})
            self._queue.delete([record["receiptHandle"] for record in batch if record["messageId"] not in failed])
        self._free.release()


def failed_ids(answer: Any, message_ids: Set[str]) -> Set[str]:
    """The messages of a batch that a partial batch response names as failed; all of them if it is malformed.

    https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-errorhandling.html: null and empty are complete success,
    an identifier that is no message's of the batch is complete failure.
    """
    if answer is None or (isinstance(answer, dict) and answer.get("batchItemFailures") is None):
        return set()
    if not isinstance(answer, dict) or not isinstance(answer["batchItemFailures"], list):
        return message_ids
    failures = answer["batchItemFailures"]
    named: list[Any] = [failure.get("itemIdentifier") if isinstance(failure, dict) else None for failure in failures]
    return set(named) if all(isinstance(each, str) and each in message_ids for each in named) else message_ids
