"""The API Gateway of the local stack: hands each HTTP request to the webhook's processes as a proxy event."""

from __future__ import annotations

import re
import socket
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from datetime import UTC, datetime
from email.message import Message
from typing import Any

from local.handlers import HandlerFailed
from local.http_server import Connection, Server
from local.proxy_event import HttpAnswer, HttpRequest, MalformedAnswer, http_answer, proxy_event

INTEGRATION_TIMEOUT_SECONDS = 29.0
MAX_BODY_BYTES = 10 * 1024 * 1024
MAX_DISCARDED_BYTES = 10 * MAX_BODY_BYTES
IDLE_CONNECTION_SECONDS = 60
CHUNK_SIZE = re.compile(rb"[0-9A-Fa-f]+")
CONTEXT_VARIABLE = re.compile(r"\$context\.([A-Za-z]+(?:\.[A-Za-z]+)*)")

Invoke = Callable[[Mapping[str, Any]], Future[Any]]
GatewayResponses = Mapping[str, tuple[Mapping[str, str], str]]  # headers and body by response type


class Refused(Exception):
    """The gateway answers this request itself."""

    def __init__(self, status: int, kind: str) -> None:
        super().__init__(kind)
        self.status, self.kind = status, kind


class Gateway(Server):
    """Serves until `stop`; `invoke` queues an event and returns its future answer."""

    def __init__(
        self,
        listener: socket.socket,
        invoke: Invoke,
        responses: GatewayResponses,
        timeout_seconds: float = INTEGRATION_TIMEOUT_SECONDS,
    ) -> None:
        super().__init__(listener, _ClientConnection)
        self.invoke = invoke
        self.responses = responses
        self.timeout_seconds = timeout_seconds

    def own_answer(self, refusal: Refused, request_id: str) -> HttpAnswer:
        """What the template says that the gateway answers by itself, the request's id in the place of its variable."""
        headers, body = self.responses.get(refusal.kind, ({}, '{"message": null}'))
        context = {"requestId": request_id}
        body = CONTEXT_VARIABLE.sub(lambda variable: context.get(variable[1], variable[0]), body)
        return HttpAnswer(refusal.status, tuple({"Content-Type": "application/json", **headers}.items()), body.encode())


class _ClientConnection(Connection):
    server: Gateway
    timeout = IDLE_CONNECTION_SECONDS

    def do_GET(self) -> None:
        """Answer any method: `ANY` routes leave it to the function which of them it takes."""
        request_id = str(uuid.uuid4())
        try:
            answer = self._function_answer(request_id)
        except Refused as refusal:
            answer = self.server.own_answer(refusal, request_id)
            self.close_connection = self.close_connection or refusal.status in (400, 413)
        self._send(answer, request_id)

    do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = do_GET

    def _function_answer(self, request_id: str) -> HttpAnswer:
        outcome = self.server.invoke(proxy_event(self._request(), request_id))
        try:
            return http_answer(outcome.result(self.server.timeout_seconds))
        except TimeoutError:
            outcome.cancel()  # not begun: nobody would hear the answer
            raise Refused(504, "DEFAULT_5XX") from None
        except (HandlerFailed, MalformedAnswer, CancelledError):
            raise Refused(502, "DEFAULT_5XX") from None

    def _request(self) -> HttpRequest:
        return HttpRequest(
            method=self.command,
            target=self.path,
            headers=tuple(self.headers.items()),
            body=self._body(self.headers),
            source_ip=self.client_address[0],
            port=self.server.server_port,
            received_at=datetime.now(UTC),
        )

    def _body(self, headers: Message) -> bytes:
        if "chunked" in headers.get("Transfer-Encoding", "").lower():
            return self._chunks()
        length = headers.get("Content-Length", "0")
        if not (length.isascii() and length.isdigit()):
            raise Refused(400, "DEFAULT_4XX")
        return self._read(int(length))

    def _chunks(self) -> bytes:
        body = b""
        while True:
            size_line = self.rfile.readline(100).partition(b";")[0].strip()
            if not CHUNK_SIZE.fullmatch(size_line):
                raise Refused(400, "DEFAULT_4XX")
            size = int(size_line, 16)
            body += self._read(size, already=len(body))
            if size == 0:
                while self.rfile.readline(65537).strip():
                    pass  # trailers
                return body
            self.rfile.readline(3)

    def _read(self, size: int, already: int = 0) -> bytes:
        if size + already > MAX_BODY_BYTES:
            self._discard(size)
            raise Refused(413, "REQUEST_TOO_LARGE")
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionResetError("the client left in the middle of its body")
        return data

    def _discard(self, size: int) -> None:
        """Read what the client is sending, up to a limit: it looks at the answer only when it is done."""
        left = min(size, MAX_DISCARDED_BYTES)
        while left > 0 and (data := self.rfile.read(min(left, 65536))):
            left -= len(data)

    def _send(self, answer: HttpAnswer, request_id: str) -> None:
        self.send_response(answer.status)
        self.send_header("x-amzn-RequestId", request_id)
        for name, value in answer.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """What the server cannot even read is answered as the template says too."""
        self.close_connection = True
        self.command, self.request_version = getattr(self, "command", None) or "", self.protocol_version
        request_id = str(uuid.uuid4())
        self._send(self.server.own_answer(Refused(code, "DEFAULT_4XX"), request_id), request_id)
