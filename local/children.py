"""Processes of the local stack: each is tied to its parent by a pipe and leaves when the parent is gone."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
PARENT_VARIABLE = "LOCAL_PARENT_FD"
LISTENER_VARIABLE = "LOCAL_LISTENER_FD"
# Nothing else is handed on: no AWS profile, no credential, no proxy of the person who runs the stack.
INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "COVERAGE_PROCESS_CONFIG")
READY = b"ready"
BEGUN = b"begun"


class CannotStart(Exception):
    """The stack cannot run; the message is one sentence for the person who started it."""


class ChildDied(Exception):
    """The process ended before it answered."""


class Child:
    """A Python module in a process of its own, its output appended to a log."""

    def __init__(
        self,
        module: str,
        *arguments: str,
        environment: Mapping[str, str],
        log: Path,
        listener: socket.socket | None = None,
    ) -> None:
        """Start it. A `listener` is handed over: requests wait in its backlog until the child serves them."""
        self.module = module
        self._log = log
        self._connection, theirs = Pipe()
        handed_over = {PARENT_VARIABLE: theirs.fileno()}
        if listener is not None:
            handed_over[LISTENER_VARIABLE] = listener.fileno()
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("ab") as output:
            # A session of its own: Ctrl-C reaches the parent alone, which then ends its children.
            self._process = subprocess.Popen(  # noqa: S603  # our own modules only
                [sys.executable, "-m", module, *arguments],
                cwd=CHECKOUT,
                env={**inherited, **environment, **{name: str(fd) for name, fd in handed_over.items()}},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(handed_over.values()),
                start_new_session=True,
            )
        if listener is not None:
            listener.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def wait_until_ready(self, timeout_seconds: float) -> None:
        """Return once the child has said that it is ready; raise `ChildDied` if it never does."""
        if self.receive(timeout_seconds) != READY:
            raise ChildDied(f"{self.module} did not start within {timeout_seconds:.0f} s")

    def send(self, message: bytes) -> None:
        """Hand over a message; `ChildDied` means that the child has not read the whole of it."""
        try:
            self._connection.send_bytes(message)
        except OSError as error:
            raise ChildDied(f"{self.module} is gone") from error

    def receive(self, timeout_seconds: float) -> bytes | None:
        """The next message, None if there is none in time; raises `ChildDied`."""
        try:
            return self._connection.recv_bytes() if self._connection.poll(timeout_seconds) else None
        except (EOFError, OSError) as error:
            raise ChildDied(f"{self.module} ended without an answer") from error

    def kill(self) -> None:
        """End the process at once; nothing here outlives the stack, so there is nothing to save."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Kill it and close this end of the pipe."""
        self.kill()
        self._connection.close()

    def write_log(self, line: str) -> None:
        with self._log.open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")


class Parent:
    """The child's end of the pipe."""

    def __init__(self) -> None:
        self._connection = Connection(int(os.environ.pop(PARENT_VARIABLE)))
        self._inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def receive(self) -> bytes:
        return self._inbox.get()

    def send(self, message: bytes) -> None:
        self._connection.send_bytes(message)

    def _read(self) -> None:
        """Read in a thread of its own, so that the parent's end is noticed while a handler hangs."""
        while True:
            try:
                self._inbox.put(self._connection.recv_bytes())
            except (EOFError, OSError):
                os._exit(0)


def inherited_listener() -> socket.socket:
    """The listening socket that the parent handed over."""
    return socket.socket(fileno=int(os.environ.pop(LISTENER_VARIABLE)))
