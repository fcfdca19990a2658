"""Runs one handler as Lambda does, in a process started for it, and tells what that cost. Imports nothing of ours.

Arguments: the folder of the package, the handler's module. Each line of the input is an event, each line of the output
JSON: first of the init phase, then of each event.
"""

import _frozen_importlib
import _frozen_importlib_external
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any


class Parts:
    """CPU seconds by what they went into: a part that is begun within another one ends the count of that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._part, self._since = "rest", time.process_time()

    def switch(self, part: str) -> str:
        """Count for this part from now on; return the one before."""
        now, before = time.process_time(), self._part
        self.seconds[before] = self.seconds.get(before, 0.0) + now - self._since
        self._part, self._since = part, now
        return before

    def counted(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return a call whose time counts for this part."""

        def counting(*args: Any, **kwargs: Any) -> Any:
            before = self.switch(part)
            try:
                return call(*args, **kwargs)
            finally:
                self.switch(before)

        return counting

    def take(self) -> dict[str, float]:
        """Return what was counted since this was last asked."""
        self.switch(self._part)
        taken, self.seconds = self.seconds, {}
        return taken


def watch(parts: Parts, entry: str) -> None:
    """Count the loading of modules, their compilation, and CA bundles; what the entry's own lines do is the rest."""
    bootstrap: Any = _frozen_importlib
    loader: Any = _frozen_importlib_external.SourceLoader
    loading = parts.counted("modules", bootstrap._find_and_load)
    entering = parts.counted("rest", bootstrap._find_and_load)

    def find_and_load(name: str, import_: Any) -> Any:
        module = entering(name, import_) if name == entry else loading(name, import_)
        if name == "ssl":
            module.SSLContext.load_verify_locations = parts.counted(
                "CA bundles", module.SSLContext.load_verify_locations
            )
        return module

    bootstrap._find_and_load = find_and_load
    loader.source_to_code = parts.counted("compilation", loader.source_to_code)


class Context:
    """The invocation."""

    function_name, function_version, memory_limit_in_mb = "webhook", "1", 512
    invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:webhook"
    aws_request_id = "8f5e1c1e-0000-4000-8000-000000000000"

    def get_remaining_time_in_millis(self) -> int:
        """Return how much time is left."""
        return 20_000


class Log:
    """Standard output as CloudWatch gets it: only its size is kept."""

    size = 0

    def write(self, text: str) -> int:
        """Take text."""
        self.size += len(text)
        return len(text)

    def flush(self) -> None:
        """Keep nothing back."""


def peak_kb() -> int:
    """Return the most memory that this process had; getrusage would tell that of its parent if it was more."""
    try:
        with open("/proc/self/status") as status:
            return int(next(line for line in status if line.startswith("VmHWM")).split()[1])
    except FileNotFoundError:  # another system than Linux, whose unit is the byte
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main(folder: str, entry: str) -> None:
    """Load the handler, then hand it events."""
    told = os.fdopen(os.dup(1), "w")
    log: Any = Log()
    sys.stdout = log
    sys.path.insert(0, folder)
    parts = Parts()
    watch(parts, entry)

    def tell(began: tuple[float, float], **more: Any) -> None:
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        known = {"wall": wall, "cpu": cpu, "parts": parts.take(), "log": log.size, "modules": len(sys.modules)}
        known["peak_kb"] = peak_kb()
        print(json.dumps(known | more), file=told, flush=True)
        log.size = 0

    began = time.perf_counter(), time.process_time()
    parts.take()
    module = __import__(entry, fromlist=["lambda_handler"])
    tell(began)
    for line in sys.stdin:
        event = json.loads(line)
        parts.take()
        began = time.perf_counter(), time.process_time()
        answer = module.lambda_handler(event, Context())
        tell(began, status=answer["statusCode"], body=answer["body"])


if __name__ == "__main__":
    main(*sys.argv[1:])
