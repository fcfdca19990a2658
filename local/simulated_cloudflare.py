"""A Cloudflare on 127.0.0.1: Email Security's calls for one account over real HTTP, and a control API.

The control API (JSON in and out):
    POST /_simulator/script     {"behaviour", "id": postfix id or "*", "on": endpoint, "times", ...parameters}
    POST /_simulator/messages   {"id", "recipients": list or number, "quarantined", "disposition", "scanned_at", ...},
                                or a list of such
    POST /_simulator/settings   any of `cloudflare_account.Settings`
    POST /_simulator/reset      {}
    GET  /_simulator            totals, faults, settings, messages
    GET  /_simulator/calls      every call received, `?endpoint=release` for some; credentials masked
    GET  /_simulator/messages/{id}
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any, NoReturn
from urllib.parse import unquote

from local.children import PARENT_VARIABLE, READY, CannotStart, Parent, inherited_listener
from local.cloudflare_account import Settings
from local.cloudflare_answers import Call, SimulatedCloudflare
from local.cloudflare_script import Answer, Step, new_cf_ray
from local.http_server import Connection, Server, listen, url_of
from local.options import PLACEHOLDER_ACCOUNT, PLACEHOLDER_TOKEN

CONTROL = "/_simulator"
RESETS = ("reset_after_reading", "reset_after_effect", "lost")
FOREVER_SECONDS = 3600.0


class Simulator(Server):
    """The HTTP server around one `SimulatedCloudflare`."""

    def __init__(self, listener: socket.socket, settings: Settings) -> None:
        super().__init__(listener, _ApiConnection)
        self.cloudflare = SimulatedCloudflare(settings)


class _ApiConnection(Connection):
    server: Simulator
    server_version = "cloudflare"

    def handle_one_request(self) -> None:
        """Look at the next request before reading it: a scripted reset comes first."""
        first_line, _, rest = self.connection.recv(65536, socket.MSG_PEEK).partition(b"\r\n")
        if len(parts := first_line.decode("latin-1").split(" ")) == 3 and not parts[1].startswith(CONTROL):
            body = rest.partition(b"\r\n\r\n")[2]
            call = Call(parts[0], parts[1], {}, body, datetime.now(UTC))
            if step := self.server.cloudflare.script.take_unread(call.endpoint, call.named_ids()):
                self.server.cloudflare.record(call, step, None, "")
                self._reset()
        super().handle_one_request()

    def do_GET(self) -> None:
        """Answer any method: which of them exist is the routes' business."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path.partition("?")[0].startswith(CONTROL):
            self._write(self._control(body))
            return
        call = Call(self.command, self.path, dict(self.headers.items()), body, datetime.now(UTC))
        answer, step = self.server.cloudflare.answer(call)
        cf_ray = new_cf_ray()
        self.server.cloudflare.record(call, step, None if step and step.behaviour in RESETS else answer, cf_ray)
        answer = Answer(answer.status, answer.body, {"cf-ray": cf_ray, **answer.headers})
        if step is None:
            self._write(answer)
        else:
            self._misbehave(step, answer)

    do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = do_GET

    def _misbehave(self, step: Step, answer: Answer) -> None:
        """Do to the answer, or to the connection, what the script wants."""
        wanted = step.parameters
        if step.behaviour in RESETS:
            self._reset()
        elif step.behaviour == "hang":
            select.select([self.connection], [], [], wanted.get("seconds", FOREVER_SECONDS))
            self._hang_up()
        elif step.behaviour == "half_status_line":
            self.wfile.write(wanted.get("text", "HTTP/1.1 200").encode())
            self._hang_up()
        elif step.behaviour == "truncated":
            self._write(answer, body=answer.body[: len(answer.body) // 2])
            self._hang_up()
        elif step.behaviour == "trickle":
            self._trickle(answer, wanted.get("part", "head"), wanted.get("seconds_per_byte", 0.2))
        elif step.behaviour == "huge":
            padding = b'{"padding":"' + b"x" * int(wanted.get("megabytes", 50) * 1_000_000) + b'",'
            self._write(Answer(answer.status, padding + answer.body[1:], answer.headers))
        else:
            self._write(answer)

    def _write(self, answer: Answer, body: bytes | None = None) -> None:
        self._write_head(answer)
        self.wfile.write(answer.body if body is None else body)

    def _write_head(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()

    def _trickle(self, answer: Answer, part: str, seconds_per_byte: float) -> None:
        """Send the head, or only the body, byte by byte."""
        if part == "head":
            slow = f"HTTP/1.1 {answer.status} OK\r\nContent-Length: {len(answer.body)}\r\n\r\n".encode() + answer.body
        else:
            self._write_head(answer)
            slow = answer.body
        for position in range(len(slow)):
            self.wfile.write(slow[position : position + 1])
            self.wfile.flush()
            time.sleep(seconds_per_byte)

    def _hang_up(self) -> NoReturn:
        """Close the connection in the ordinary way."""
        raise ConnectionAbortedError

    def _reset(self) -> NoReturn:
        """Close the connection with RST, which is what SO_LINGER with no time means."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise ConnectionAbortedError

    def _control(self, body: bytes) -> Answer:
        path = unquote(self.path.partition("?")[0].removeprefix(CONTROL))
        try:
            document = json.loads(body) if body else {}
            result = self._post(path, document) if self.command == "POST" else self._get(path)
        except (ValueError, TypeError) as problem:
            return Answer(400, json.dumps({"error": str(problem)}).encode())
        if result is None:
            return Answer(404, json.dumps({"error": f"nothing at {self.command} {CONTROL}{path}"}).encode())
        return Answer(200, json.dumps(result).encode())

    def _post(self, path: str, document: Any) -> Any:
        cloudflare, now = self.server.cloudflare, datetime.now(UTC)
        if path == "/script":
            steps = [Step.parse(each) for each in (document if isinstance(document, list) else [document])]
            for step in steps:
                cloudflare.script.add(step)
            return {"added": len(steps)}
        if path == "/messages":
            if isinstance(document, list):
                return {"changed": sum(cloudflare.quarantine.change(each, now) is not None for each in document)}
            message = cloudflare.quarantine.change(document, now)
            return message.summary(now) if message else None
        if path == "/settings":
            cloudflare.settings.change(document)
            return cloudflare.settings.shown()
        if path == "/reset":
            cloudflare.reset()
            return {}
        return None

    def _get(self, path: str) -> Any:
        cloudflare, now = self.server.cloudflare, datetime.now(UTC)
        if path == "/calls":
            endpoint = self.path.partition("?endpoint=")[2]
            return [call for call in cloudflare.calls if endpoint in ("", call["endpoint"])]
        if path.startswith("/messages/"):
            message = cloudflare.quarantine.find(path.removeprefix("/messages/"), now)
            return message.summary(now) if message else None
        return cloudflare.overview() if path in ("", "/") else None


def main() -> None:
    """Serve for a parent that sends the settings, or on its own: `python -m local.simulated_cloudflare [port]`."""
    if PARENT_VARIABLE in os.environ:
        parent = Parent()
        Simulator(inherited_listener(), Settings(**json.loads(parent.receive()))).start()
        parent.send(READY)
        threading.Event().wait()
    try:
        listener = listen(int(sys.argv[1]) if len(sys.argv) > 1 else 8090)
    except CannotStart as problem:
        sys.exit(str(problem))
    print(f"The simulated Cloudflare listens on {url_of(listener)}/client/v4 and takes the token {PLACEHOLDER_TOKEN}.")
    simulator = Simulator(listener, Settings(account_id=PLACEHOLDER_ACCOUNT, tokens=[PLACEHOLDER_TOKEN]))
    try:
        simulator.serve_forever()
    except KeyboardInterrupt:
        simulator.server_close()


if __name__ == "__main__":
    main()
