"""Clients of AWS: one botocore session, one TLS context and one pool of connections for all of them.

By itself botocore gives each client a pool of its own, reads the whole CA bundle for every new connection, and sends
on connections that died while Lambda had the environment frozen: a write is then lost, and repeated after a pause.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from botocore.config import Config
from botocore.httpsession import URLLib3Session
from botocore.session import Session
from urllib3.util.ssl_ import create_urllib3_context

# botocore's own 60 s outlive any webhook.
_CONNECT_SECONDS: Final = 1
_READ_SECONDS: Final = 2
# Who closes them when is not published; a new connection costs less than a request that is lost on an old one.
IDLE_SECONDS: Final = 20.0
_CONFIG: Final = Config(
    connect_timeout=_CONNECT_SECONDS,
    read_timeout=_READ_SECONDS,
    retries={"mode": "standard", "total_max_attempts": 3},
    # Every parameter is built here from values that were checked; the service checks again.
    parameter_validation=False,
    # By itself botocore puts it together anew for every request.
    user_agent="quarantine-release/1",
    # The endpoint of the region, not one per account, which the credential would have to name.
    account_id_endpoint_mode="disabled",
)


class AwsClients:
    """One client of each service, made on first use. Not for several threads at once."""

    def __init__(self, session: Session, context: ssl.SSLContext, wall_clock: Callable[[], float] = time.time) -> None:
        bundle = session.get_config_variable("ca_bundle")  # AWS_CA_BUNDLE, as everywhere with AWS
        if bundle:
            context = create_urllib3_context()
            context.load_verify_locations(bundle)
        self._session = session
        self._connections = _Connections(context, wall_clock)
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Return the client of a service."""
        if service not in self._clients:
            made: Any = self._session.create_client(service, config=_CONFIG)
            made._endpoint.http_session.close()
            made._endpoint.http_session = self._connections
            self._clients[service] = made
        return self._clients[service]

    @contextmanager
    def tried_once(self) -> Iterator[None]:
        """Make calls that get no answer fail at once, for whoever can do without one."""
        events = [made.meta.events for made in self._clients.values()]
        for each in events:
            each.register_first("needs-retry", _give_up)
        try:
            yield
        finally:
            for each in events:
                each.unregister("needs-retry", _give_up)

    def close(self) -> None:
        """Give the connections up; the next calls open others."""
        self._connections.close()


class _Connections(URLLib3Session):
    def __init__(self, context: ssl.SSLContext, wall_clock: Callable[[], float]) -> None:
        self._context = context
        self._wall_clock = wall_clock
        self._last_used = 0.0
        super().__init__(
            timeout=(_CONNECT_SECONDS, _READ_SECONDS),  # type: ignore[arg-type]  # the stubs know but one number
            # As botocore has it. Else head and body of a request go out 40 ms apart.
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],  # type: ignore[list-item]
        )

    def send(self, request: Any) -> Any:
        # The wall clock, since the monotonic one may stand still while an environment is frozen.
        if not 0 <= self._wall_clock() - self._last_used <= IDLE_SECONDS:
            self.close()
        try:
            return super().send(request)
        finally:
            self._last_used = self._wall_clock()

    def _get_ssl_context(self) -> ssl.SSLContext:
        return self._context

    def _setup_ssl_cert(self, conn: Any, url: str, verify: Any) -> None:
        """Leave TLS to the context."""


def _give_up(caught_exception: Exception | None = None, **_: Any) -> None:
    if caught_exception is not None:
        raise caught_exception
