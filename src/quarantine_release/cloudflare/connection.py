"""HTTP with a total deadline, and the knowledge whether a single byte of the request went out.

urllib3 limits each read, not the whole: a peer that trickles its status line holds the caller for ever. Here a timer
shuts the connection down at the deadline. Name resolution is outside the deadline: nothing can interrupt it.

`requests` is not used: all but its adapter, a thin layer over urllib3, would have to be switched off (redirects whose
body it reads, cookies, which are credentials, proxies, .netrc), and it costs a tenth of a cold start.
"""

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from threading import Timer
from typing import Any, Final

from urllib3 import PoolManager, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util.connection import create_connection

from quarantine_release.cloudflare.reply import Reply

CONNECT_SECONDS: Final = 2.0
# A frozen Lambda environment finds its connections dead, and a POST lost that way is ambiguous.
IDLE_SECONDS: Final = 5.0
ANSWER_LIMIT: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class NoReply:
    """A call without an answer. Unless `was_sent`, not a byte of the request left: it may be made again."""

    was_sent: bool
    failure: str


class DeadlineSession:
    """One connection kept for the next call, with one preloaded TLS context. Not for several threads at once."""

    def __init__(self, context: ssl.SSLContext, wall_clock: Callable[[], float] = time.time) -> None:
        self._wall_clock = wall_clock
        self._link = _Link()
        self._pools = _pools(context, self._link)
        self._last_used = 0.0

    def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Reply | NoReply:
        """Send one request, follow nothing, repeat nothing, and be done within so many seconds."""
        if seconds <= 0:
            return NoReply(False, "deadline")
        # The wall clock, since the monotonic one may stand still while an environment is frozen.
        if not 0 <= self._wall_clock() - self._last_used <= IDLE_SECONDS:
            self.close()
        self._link.begin(seconds)
        timer = Timer(seconds, self._link.cut)
        timer.daemon = True
        timer.start()
        try:
            reply = self._exchange(method, url, headers, body, seconds)
        except (OSError, HTTPError, ValueError) as error:  # ValueError: urllib3 lets some nonsense in chunks through
            reply = NoReply(self._link.was_sent, "deadline" if self._link.left() <= 0 else _failure(error))
        finally:
            timer.cancel()
            timer.join()  # a timer that is just going off must not cut the next call
            self._last_used = self._wall_clock()
        if self._link.was_cut:
            reply = NoReply(self._link.was_sent, "deadline")
        if isinstance(reply, NoReply):
            self.close()
        return reply

    def close(self) -> None:
        """Give the connection up; the next call opens another."""
        self._pools.clear()
        self._link.close()

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Reply | NoReply:
        common = {"Accept": "application/json", "Accept-Encoding": "identity"}
        response = self._pools.urlopen(
            method,
            url,
            redirect=False,
            headers={**common, **headers},
            body=body,
            retries=False,
            timeout=Timeout(connect=CONNECT_SECONDS, read=seconds),
            preload_content=False,
        )
        try:
            if response.status < 200:  # 100 is skipped below us; after any other the answer proper still comes
                return NoReply(True, "interim_answer")
            received = bytearray()
            for chunk in response.stream(65536):
                received += chunk
                if len(received) > ANSWER_LIMIT:
                    return NoReply(True, "answer_too_large")
        except ProtocolError:
            return NoReply(True, "truncated_answer")
        finally:
            response.close()  # what was read to its end has given its connection back by then
        return Reply(
            response.status, {name.lower(): response.headers[name] for name in response.headers}, bytes(received)
        )


class _Link:
    """The connection under the call now running, as far as the timer and the proof of sending need it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._ends_at = 0.0
        self.was_sent = False
        self.was_cut = False

    def begin(self, seconds: float) -> None:
        self._ends_at = time.monotonic() + seconds
        self.was_sent = self.was_cut = False

    def left(self) -> float:
        return self._ends_at - time.monotonic()

    def connect(self, connection: HTTPConnection) -> socket.socket:
        """Try each address, each for 2 s, until the deadline."""
        try:
            addresses = socket.getaddrinfo(connection.host, connection.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameResolutionError(connection.host, connection, socket.gaierror(str(error))) from error
        last: OSError | None = None
        for *_, address in addresses:
            seconds = min(CONNECT_SECONDS, self.left())
            if seconds <= 0:
                break
            try:
                connected = create_connection(
                    (str(address[0]), connection.port), seconds, None, connection.socket_options
                )
            except OSError as error:
                last = error
                continue
            self._watch(connected)
            return connected
        if last is None or isinstance(last, TimeoutError):
            raise ConnectTimeoutError(connection, "no connection in time") from last
        raise NewConnectionError(connection, "no connection") from last

    def _watch(self, connected: socket.socket) -> None:
        self.close()
        # A duplicate: wrapping the socket in TLS takes the original away.
        self._socket = connected.dup()
        if self.was_cut:
            self.cut()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def cut(self) -> None:
        self.was_cut = True
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class _Watched(HTTPConnection):
    """A connection that its link can cut, and that tells it when the first byte goes out."""

    link: _Link

    def _new_conn(self) -> socket.socket:
        return self.link.connect(self)

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        self.link.was_sent = True
        super().send(data)


class _WatchedTls(_Watched, HTTPSConnection):
    """The same over TLS; its handshake is done before anything is sent."""


def _pools(context: ssl.SSLContext, link: _Link) -> PoolManager:
    """Build the one pool of one connection."""
    pools = PoolManager(num_pools=1, maxsize=1, ssl_context=context)
    linked = {"link": link}
    plain = type("Plain", (HTTPConnectionPool,), {"ConnectionCls": type("Plain", (_Watched,), linked)})
    tls = type("Tls", (HTTPSConnectionPool,), {"ConnectionCls": type("Tls", (_WatchedTls,), linked)})
    pools.pool_classes_by_scheme = {"http": plain, "https": tls}
    return pools


def _failure(error: Exception) -> str:
    inner: BaseException | None = error
    while inner is not None:
        for kind, name in _FAILURES:
            if isinstance(inner, kind):
                return name
        reason = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
        inner = reason if isinstance(reason, BaseException) else inner.__cause__
    return "connection_lost"


_FAILURES: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (NameResolutionError, "name_not_resolved"),
    (NewConnectionError, "connection_refused"),
    (ConnectTimeoutError, "connect_timeout"),
    (SSLError, "tls_failure"),
    (ReadTimeoutError, "no_answer_in_time"),
    (DecodeError, "undecodable_answer"),
)
