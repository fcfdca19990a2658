"""EventBridge's part in the local stack: sends a function its scheduled event, again and again."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any

from local.template import ACCOUNT, PSEUDO_PARAMETERS, REGION


class Schedule:
    """Submits an event every so many seconds until `stop`; one that falls due while another is at work is left out."""

    def __init__(self, rule: str, submit: Callable[[Mapping[str, Any]], Future[Any]], every_seconds: float) -> None:
        """Begin: the first event is due after `every_seconds`. A failure needs no care, since the next one follows."""
        self._rule = rule
        self._submit = submit
        self._every_seconds = every_seconds
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Submit no more; the event under way is left to its function."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        outcome: Future[Any] | None = None
        due = time.monotonic() + self._every_seconds
        while not self._stopping.wait(max(0.0, due - time.monotonic())):
            if outcome is None or outcome.done():
                outcome = self._submit(scheduled_event(self._rule, datetime.now(UTC)))
            due = max(due + self._every_seconds, time.monotonic())


def scheduled_event(rule: str, now: datetime) -> dict[str, Any]:
    """The event of an EventBridge rule with a schedule; its time is in whole seconds."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": ACCOUNT,
        "time": now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": REGION,
        "resources": [f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{PSEUDO_PARAMETERS['AWS::StackName']}-{rule}"],
        "detail": {},
    }
