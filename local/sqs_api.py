"""SQS's JSON protocol over our own queues: what senders need, and a person with the aws CLI who looks at a queue.

moto's queue slows down with its backlog. Names, limits and errors are those of SQS's service model in botocore.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from local.sqs_queue import Queue, ReceiptHandleIsInvalid, Received, md5_of
from local.template import ACCOUNT

MAX_ENTRIES = 10
MAX_BYTES = 1024 * 1024  # of a message, and of all messages of a batch
MAX_DELAY_SECONDS = 900
MAX_VISIBILITY_SECONDS = 12 * 60 * 60
MAX_WAIT_SECONDS = 20
LOOK_AGAIN_SECONDS = 0.02
ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")
INVALID_CHARACTER = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# The codes of SQS's older protocol, by which SDKs still name these errors; other errors have the same name in both.
OLDER_PREFIX = "AWS.SimpleQueueService."
OLDER_CODES = {
    "BatchEntryIdsNotDistinct": f"{OLDER_PREFIX}BatchEntryIdsNotDistinct",
    "BatchRequestTooLong": f"{OLDER_PREFIX}BatchRequestTooLong",
    "EmptyBatchRequest": f"{OLDER_PREFIX}EmptyBatchRequest",
    "InvalidBatchEntryId": f"{OLDER_PREFIX}InvalidBatchEntryId",
    "QueueDoesNotExist": f"{OLDER_PREFIX}NonExistentQueue",
    "TooManyEntriesInBatchRequest": f"{OLDER_PREFIX}TooManyEntriesInBatchRequest",
    "UnsupportedOperation": f"{OLDER_PREFIX}UnsupportedOperation",
}

Members = Mapping[str, Any]
HttpAnswer = tuple[int, list[tuple[str, str]], bytes]


class Refused(Exception):
    """SQS answers with this error."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name, self.message = name, message
        self.code = OLDER_CODES.get(name, name)


class SqsApi:
    """Answers calls for the queues at `url`."""

    def __init__(self, queues: Mapping[str, Queue], url: str) -> None:
        self._queues = queues
        self._url = url
        self._operations: Mapping[str, Callable[[Members], Members]] = {
            "SendMessage": self._send_message,
            "SendMessageBatch": self._send_message_batch,
            "ReceiveMessage": self._receive_message,
            "DeleteMessage": self._delete_message,
            "DeleteMessageBatch": self._delete_message_batch,
            "GetQueueAttributes": self._get_queue_attributes,
            "GetQueueUrl": self._get_queue_url,
            "ListQueues": self._list_queues,
            "PurgeQueue": self._purge_queue,
        }

    def answer(self, target: str, data: bytes) -> HttpAnswer:
        """Answer a call whose X-Amz-Target header is `target`."""
        headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-RequestId", str(uuid.uuid4()))]
        try:
            operation = self._operations.get(target.removeprefix("AmazonSQS."))
            if operation is None:
                raise Refused("UnsupportedOperation", f"The local queue knows nothing of {target or 'this protocol'}.")
            members = operation(_parsed(data))
        except Refused as refusal:
            headers.append(("x-amzn-query-error", f"{refusal.code};Sender"))
            error = {"__type": f"com.amazonaws.sqs#{refusal.name}", "message": refusal.message}
            return 400, headers, json.dumps(error).encode()
        # SQS leaves an empty list out, so `Messages`, `Successful` and `Failed` may be missing.
        return 200, headers, json.dumps({name: value for name, value in members.items() if value != []}).encode()

    def _send_message(self, members: Members) -> Members:
        queue, body = self._queue(members), _text(members, "MessageBody")
        if len(body) > MAX_BYTES or _size(body) > MAX_BYTES:
            raise Refused("InvalidParameterValue", f"The message must not be longer than {MAX_BYTES} bytes.")
        return self._send(queue, members)

    def _send_message_batch(self, members: Members) -> Members:
        queue, entries = self._queue(members), _entries(members)
        size = sum(_size(entry.get("MessageBody")) for entry in entries)
        if size > MAX_BYTES:
            raise Refused("BatchRequestTooLong", f"{size} bytes in a batch; at most {MAX_BYTES} are allowed.")
        return _each(entries, lambda entry: self._send(queue, entry))

    def _send(self, queue: Queue, members: Members) -> Members:
        body = _text(members, "MessageBody")
        if character := INVALID_CHARACTER.search(body):
            raise Refused("InvalidMessageContents", f"The message holds U+{ord(character[0]):04X}.")
        if members.get("MessageAttributes") or members.get("MessageSystemAttributes"):
            raise Refused("UnsupportedOperation", "The local queue has no message attributes.")
        delay = _number(members, "DelaySeconds", 0, MAX_DELAY_SECONDS)
        return {"MessageId": queue.send(body, time.time(), delay), "MD5OfMessageBody": md5_of(body)}

    def _receive_message(self, members: Members) -> Members:
        queue = self._queue(members)
        limit = _number(members, "MaxNumberOfMessages", 1, MAX_ENTRIES) or 1
        visibility = _number(members, "VisibilityTimeout", 0, MAX_VISIBILITY_SECONDS)
        until = time.monotonic() + (_number(members, "WaitTimeSeconds", 0, MAX_WAIT_SECONDS) or 0)
        wanted = {*(members.get("AttributeNames") or ()), *(members.get("MessageSystemAttributeNames") or ())}
        while not (received := queue.receive(limit, time.time(), visibility_seconds=visibility)):
            if time.monotonic() >= until:
                break
            time.sleep(LOOK_AGAIN_SECONDS)
        return {"Messages": [_message(each, wanted) for each in received]}

    def _delete_message(self, members: Members) -> Members:
        queue, handle = self._queue(members), _text(members, "ReceiptHandle")
        try:
            queue.delete(handle)
        except ReceiptHandleIsInvalid:
            raise Refused("ReceiptHandleIsInvalid", "The receipt handle is not valid.") from None
        return {}

    def _delete_message_batch(self, members: Members) -> Members:
        url = members.get("QueueUrl")
        self._queue(members)
        return _each(_entries(members), lambda entry: self._delete_message({**entry, "QueueUrl": url}))

    def _get_queue_attributes(self, members: Members) -> Members:
        queue = self._queue(members)
        counts = queue.counts(time.time())
        attributes = {
            "ApproximateNumberOfMessages": str(counts.visible),
            "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
            "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
            "DelaySeconds": f"{queue.delay_seconds:g}",
            "MaximumMessageSize": str(MAX_BYTES),
            "QueueArn": queue.arn,
            "VisibilityTimeout": f"{queue.visibility_seconds:g}",
        }
        if queue.dead_letters:
            redrive = {"deadLetterTargetArn": queue.dead_letters.arn, "maxReceiveCount": queue.max_receives}
            attributes["RedrivePolicy"] = json.dumps(redrive)
        wanted = members.get("AttributeNames") or ()
        return {"Attributes": attributes if "All" in wanted else {n: attributes[n] for n in wanted if n in attributes}}

    def _get_queue_url(self, members: Members) -> Members:
        return {"QueueUrl": self._url_of(self._named(_text(members, "QueueName")))}

    def _list_queues(self, members: Members) -> Members:
        prefix = members.get("QueueNamePrefix") or ""
        return {"QueueUrls": [self._url_of(queue) for name, queue in self._queues.items() if name.startswith(prefix)]}

    def _purge_queue(self, members: Members) -> Members:
        self._queue(members).purge()
        return {}

    def _queue(self, members: Members) -> Queue:
        """The queue at `QueueUrl`, whatever host that names: SDKs send to the endpoint they are told."""
        account, _, name = urlsplit(_text(members, "QueueUrl")).path.removeprefix("/").partition("/")
        return self._named(name if account == ACCOUNT else "")

    def _named(self, name: str) -> Queue:
        if name not in self._queues:
            raise Refused("QueueDoesNotExist", "The specified queue does not exist.")
        return self._queues[name]

    def _url_of(self, queue: Queue) -> str:
        return f"{self._url}/{ACCOUNT}/{queue.name}"


def _parsed(data: bytes) -> Members:
    try:
        members = json.loads(data)
    except ValueError:
        members = None
    if not isinstance(members, dict):
        raise Refused("SerializationException", "The request is not a JSON object.")
    return members


def _text(members: Members, name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise Refused("MissingParameter", f"The request must contain the parameter {name}.")
    return value


def _number(members: Members, name: str, least: int, most: int) -> int | None:
    value = members.get(name)
    if value is not None and (type(value) is not int or not least <= value <= most):
        raise Refused("InvalidParameterValue", f"{name} must be a whole number between {least} and {most}.")
    return value


def _size(body: object) -> int:
    return len(body.encode("utf-8", "surrogatepass")) if isinstance(body, str) else 0


def _entries(members: Members) -> list[Members]:
    """The entries of a batch, their number and ids checked: no entry is looked at if one of these is wrong."""
    entries = members.get("Entries") or []
    if not entries:
        raise Refused("EmptyBatchRequest", "The batch has no entry.")
    if len(entries) > MAX_ENTRIES:
        raise Refused("TooManyEntriesInBatchRequest", f"{len(entries)} entries; at most {MAX_ENTRIES} are allowed.")
    ids = [entry.get("Id") for entry in entries]
    if not all(isinstance(each, str) and ENTRY_ID.fullmatch(each) for each in ids):
        raise Refused("InvalidBatchEntryId", "An id has up to 80 letters, digits, hyphens and underscores.")
    if len(set(ids)) < len(ids):
        raise Refused("BatchEntryIdsNotDistinct", "Two entries have the same id.")
    return list(entries)


def _each(entries: Iterable[Members], do: Callable[[Members], Members]) -> Members:
    """Do it for each entry: one that is refused leaves the others alone."""
    successful, failed = [], []
    for entry in entries:
        try:
            successful.append({"Id": entry["Id"], **do(entry)})
        except Refused as refusal:
            reason = {"SenderFault": True, "Code": refusal.code, "Message": refusal.message}
            failed.append({"Id": entry["Id"], **reason})
    return {"Successful": successful, "Failed": failed}


def _message(received: Received, wanted: set[str]) -> Members:
    message: dict[str, Any] = {
        "MessageId": received.message_id,
        "ReceiptHandle": received.receipt_handle,
        "MD5OfBody": md5_of(received.body),
        "Body": received.body,
    }
    shown = {name: value for name, value in received.attributes.items() if name in wanted or "All" in wanted}
    return {**message, "Attributes": shown} if shown else message
