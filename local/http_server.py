"""The threaded HTTP server that the gateway, embedded AWS and the simulated Cloudflare share."""

from __future__ import annotations

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from local.children import CannotStart

BACKLOG = 256


def listen(port: int = 0) -> socket.socket:
    """A listening socket on 127.0.0.1; port 0 takes a free one."""
    try:
        return socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
    except OSError as error:
        raise CannotStart(f"Port {port} on 127.0.0.1 is not free ({error.strerror}); set PORT to another.") from error


def url_of(listener: socket.socket) -> str:
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


class Server(ThreadingHTTPServer):
    """Serves a socket that listens already, one thread per connection."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, connection: type[Connection]) -> None:
        super().__init__(listener.getsockname(), connection, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.server_name, self.server_port = listener.getsockname()[:2]
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def start(self) -> None:
        """Serve in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """Free the port; requests under way are left to their threads."""
        if self._thread.is_alive():
            self.shutdown()
            self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no event worth a traceback."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Connection(BaseHTTPRequestHandler):
    """One client connection, kept alive from request to request."""

    protocol_version = "HTTP/1.1"
    server_version = "local"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together; http.server flushes after each request

    def handle_expect_100(self) -> bool:
        """Let the client go on at once: it waits for this line before it sends its body."""
        carry_on = super().handle_expect_100()
        self.wfile.flush()
        return carry_on

    def version_string(self) -> str:
        """The Server header."""
        return self.server_version

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on the terminal."""
