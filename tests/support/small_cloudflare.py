"""A small Cloudflare: a real HTTP server that keeps what it receives and answers as it is told."""

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

RECIPIENT = "ann.canary@example.com"


@dataclass(frozen=True)
class Sent:
    """One request as Cloudflare received it; header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def ids(self) -> list[str]:
        content = json.loads(self.body)
        return list(content["ids"] if isinstance(content, dict) else content)


@dataclass(frozen=True)
class Reply:
    """What Cloudflare answers."""

    status: int = 200
    result: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    error_code: int = 10000

    @property
    def body(self) -> bytes:
        ok = self.status < 400
        errors = [] if ok else [{"code": self.error_code, "message": f"of {RECIPIENT}"}]
        return json.dumps({"success": ok, "errors": errors, "messages": [], "result": self.result}).encode()


NO_REPLY = None
"""The connection is closed after the request was read."""


def delivered(sent: Sent, **lists: list[str]) -> Reply:
    """Answer a release as Cloudflare does: by default everything is delivered."""
    lists = lists or {"delivered": [RECIPIENT], "undelivered": [], "failed": []}
    return Reply(result=[{"id": each, "postfix_id": each.split("-")[0], **lists} for each in sent.ids])


class Upstream:
    """A real HTTP server in Cloudflare's place. Answers what it is told to, then releases whatever is asked for."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.requests: list[Sent] = []
        self.answers: deque[Reply | Callable[[Sent], Reply] | None] = deque()

    def answer(self, sent: Sent) -> Reply | None:
        """Keep the request and choose the answer."""
        self.requests.append(sent)
        if self.answers:
            answer = self.answers.popleft()
            return answer(sent) if callable(answer) else answer
        return delivered(sent) if sent.method == "POST" else Reply(result={"status": "active"})

    @property
    def releases(self) -> list[Sent]:
        """Return the release calls received."""
        return [sent for sent in self.requests if sent.method == "POST"]


@contextmanager
def serve_upstream() -> Iterator[Upstream]:
    """Serve on a free port of this machine."""

    class Connection(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length", 0)))
            reply = upstream.answer(Sent(self.command, self.path, headers, body))
            if reply is None:
                return
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Connection)
    upstream = Upstream(f"http://127.0.0.1:{server.server_port}/client/v4")
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield upstream
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
