"""The handler processes of one function: each takes one event at a time, so that they meet only in the ledger."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from local.children import BEGUN, CHECKOUT, CannotStart, Child, ChildDied
from local.template import Function

INIT_TIMEOUT_SECONDS = 30.0  # Lambda allows 10 s, but there no eight processes share two cores
MAX_HAND_OVERS = 3
IDLE_CHECK_SECONDS = 0.2  # how soon a process that died while idle is replaced


class HandlerFailed(Exception):
    """The handler raised, ran out of time, or its process died; what became of the event is not known."""


class HandlerPool:
    """`size` processes of one function, started again when they die."""

    def __init__(
        self, short_name: str, function: Function, *, environment: Mapping[str, str], code: Path, log: Path, size: int
    ) -> None:
        """`environment` is added to what the template says; `code` is the folder that holds the handler's package."""
        self._short_name = short_name
        self._function = function
        self._log = log
        self._environment = {
            **function.environment,
            **environment,
            "_HANDLER": function.handler,
            "AWS_LAMBDA_FUNCTION_NAME": function.name,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "PYTHONPATH": f"{code}:{CHECKOUT}",
            "TZ": ":UTC",
        }
        self._events: queue.SimpleQueue[tuple[bytes, Future[Any]]] = queue.SimpleQueue()
        self._started: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._children: dict[int, Child] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._threads = [threading.Thread(target=self._serve, args=(slot,), daemon=True) for slot in range(size)]
        for thread in self._threads:
            thread.start()

    def wait_until_ready(self) -> None:
        """Return once every process has loaded its handler; raise `CannotStart` if one could not."""
        if not all([self._started.get() for _ in self._threads]):
            raise CannotStart(f"The {self._short_name} handler could not be loaded; the reason is in {self._log}.")

    def submit(self, event: Mapping[str, Any]) -> Future[Any]:
        """Queue an event for the next free process; the result is the handler's answer, or `HandlerFailed`."""
        call = {"event": event, "timeout_seconds": self._function.timeout_seconds}
        outcome: Future[Any] = Future()
        self._events.put((json.dumps(call).encode(), outcome))
        return outcome

    def pids(self) -> list[int]:
        """The processes that run now."""
        with self._lock:
            return [child.pid for child in self._children.values() if child.is_alive]

    def stop(self) -> None:
        """End every process; events under way fail."""
        with self._lock:
            self._stopping = True
            for child in self._children.values():
                child.kill()
        for thread in self._threads:
            thread.join()
        while not self._events.empty():
            self._events.get()[1].cancel()

    def _serve(self, slot: int) -> None:
        """Keep one process running and hand it event after event."""
        self._started.put(self._start(slot).is_alive)
        while not self._stopping:
            try:
                call, outcome = self._events.get(timeout=IDLE_CHECK_SECONDS)
            except queue.Empty:
                self._running(slot)
                continue
            if not outcome.set_running_or_notify_cancel():
                continue  # nobody waits for it any more
            try:
                outcome.set_result(self._finish(self._begin(slot, call)))
            except (ChildDied, HandlerFailed) as failure:
                outcome.set_exception(HandlerFailed(str(failure)))
        self._children[slot].stop()

    def _start(self, slot: int) -> Child:
        """A process that has loaded the handler, or a dead one if it could not."""
        with self._lock:
            if old := self._children.get(slot):
                old.stop()
            child = Child("local.handler_process", self._short_name, environment=self._environment, log=self._log)
            self._children[slot] = child
            if self._stopping:
                child.kill()
        try:
            child.wait_until_ready(INIT_TIMEOUT_SECONDS)
        except ChildDied as failure:
            if not self._stopping:
                child.write_log(str(failure))
            child.kill()
        return child

    def _running(self, slot: int) -> Child:
        child = self._children[slot]
        return child if child.is_alive else self._start(slot)

    def _begin(self, slot: int, call: bytes) -> Child:
        """Hand over an event. A process that dies before it says that it begins has not run it, so another may."""
        for _ in range(MAX_HAND_OVERS):
            child = self._running(slot)
            with suppress(ChildDied):
                child.send(call)
                if child.receive(INIT_TIMEOUT_SECONDS) == BEGUN:
                    return child
            child.kill()
        raise HandlerFailed("no process could take the event")

    def _finish(self, child: Child) -> Any:
        """Wait for the answer as long as Lambda would."""
        answer = child.receive(self._function.timeout_seconds)
        if answer is None:
            child.kill()
            child.write_log(f"Task timed out after {self._function.timeout_seconds:.2f} seconds")
            raise HandlerFailed("the handler ran out of time")
        outcome = json.loads(answer)
        if "error" in outcome:
            raise HandlerFailed(f"the handler raised {outcome['error']}")
        return outcome["answer"]
