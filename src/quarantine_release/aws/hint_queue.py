"""The only SQS user: both ends of the format of a hint.

A hint is `{"v": 1, "request_id": "rq_...", "chunk": 0}`, `chunk` null for the whole request. It holds nothing that
would have to be believed: whoever can write to the queue can have a request looked at, and nothing else.
"""

import json
from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from quarantine_release import telemetry
from quarantine_release.domain.ids import REQUEST_ID, RequestId
from quarantine_release.releasing.ports import Hint

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# SQS developer guide, "Quotas": messages in one call, and the longest delay in seconds.
_BATCH: Final = 10
_LONGEST_DELAY: Final = 900
_LARGEST_CHUNK: Final = 100


class ReleaseQueue:
    """Hints in one SQS queue."""

    def __init__(self, client: "SQSClient", url: str) -> None:
        self._client = client
        self._url = url

    def send(self, hints: Sequence[Hint], delay: float = 0.0) -> None:
        """Send hints that are to arrive after so many seconds; a failure is told in the log and nowhere else."""
        seconds = min(ceil(delay), _LONGEST_DELAY)
        for start in range(0, len(hints), _BATCH):
            entries = [
                {"Id": str(number), "MessageBody": encode(hint), "DelaySeconds": seconds}
                for number, hint in enumerate(hints[start : start + _BATCH])
            ]
            try:
                answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]
                lost = len(answer.get("Failed", []))
            except (ClientError, BotoCoreError):
                lost = len(hints) - start
            if lost:  # the sweep sends them again: nobody needs to wait for a queue that does not answer
                telemetry.hints_lost(lost)
            if lost > len(entries):
                return

    @staticmethod
    def read(event: Mapping[str, Any]) -> dict[str, Hint | None]:
        """Read the hints in an SQS event, each by its message's id; None for a message that is no hint."""
        return {record["messageId"]: decode(record) for record in event["Records"]}


def encode(hint: Hint) -> str:
    """Return the body of a hint's message."""
    return json.dumps({"v": 1, "request_id": hint.request_id, "chunk": hint.chunk})


def decode(record: Mapping[str, Any]) -> Hint | None:
    """Read the hint in a record of an SQS event; None for what is none."""
    try:
        content = json.loads(record["body"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    version, name, chunk = content.get("v"), content.get("request_id"), content.get("chunk")
    request_id = RequestId(name) if isinstance(name, str) and REQUEST_ID.match(name) else None
    is_chunk = chunk is None or (type(chunk) is int and 0 <= chunk < _LARGEST_CHUNK)
    is_ours = type(version) is int and version == 1
    return Hint(request_id, chunk) if is_ours and request_id is not None and is_chunk else None
