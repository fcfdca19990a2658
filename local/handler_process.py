"""One execution environment: loads a Lambda handler and gives it one event at a time, as Lambda's runtime does."""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from local.children import BEGUN, READY, Parent
from local.template import ACCOUNT, REGION

Handler = Callable[[dict[str, Any], object], Any]


@dataclass(frozen=True)
class LambdaContext:
    """What Lambda passes beside the event; Powertools asks for all of it."""

    function_name: str
    memory_limit_in_mb: int
    deadline: float
    function_version: str = "$LATEST"
    log_group_name: str = ""
    log_stream_name: str = "local"
    identity: None = None
    client_context: None = None
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def invoked_function_arn(self) -> str:
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.function_name}"

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self.deadline - time.monotonic()) * 1000))


def main() -> None:
    """Serve the parent's events with the handler named by `_HANDLER`, until the parent closes the pipe."""
    parent = Parent()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # whole lines, since eight processes share the log
    module, _, function = os.environ["_HANDLER"].rpartition(".")
    handler: Handler = getattr(importlib.import_module(module), function)
    parent.send(READY)
    while True:
        call = json.loads(parent.receive())
        parent.send(BEGUN)
        context = LambdaContext(
            function_name=os.environ["AWS_LAMBDA_FUNCTION_NAME"],
            memory_limit_in_mb=int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
            deadline=time.monotonic() + call["timeout_seconds"],
            log_group_name=f"/aws/lambda/{os.environ['AWS_LAMBDA_FUNCTION_NAME']}",
        )
        parent.send(_run(handler, call["event"], context))
        sys.stdout.flush()


def _run(handler: Handler, event: dict[str, Any], context: LambdaContext) -> bytes:
    """The answer, or the error that Lambda would report: it goes to the log, the caller sees none of it."""
    try:
        return json.dumps({"answer": handler(event, context)}).encode()
    except Exception as error:  # noqa: BLE001  # the runtime's own boundary
        traceback.print_exc()
        return json.dumps({"error": type(error).__name__}).encode()


if __name__ == "__main__":
    main()
