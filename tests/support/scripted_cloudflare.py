"""An independent Cloudflare for whole-system tests: search rows, action logs and answers exactly as a test sets them.

Unlike the simulator it knows nothing of a message: a test may show one in several contradicting rows, hide it from the
search, or log a failed release. It serves HTTP on a free port; `deployed` runs the local stack in front of it.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

import boto3
import requests

from local.options import SCOPES
from local.stack import Stack

TIMEOUT: Final = 60
ACCOUNT: Final = "0123456789abcdef0123456789abcdef"
API_TOKEN: Final = "scripted-token-of-forty-characters-000000"
Row = dict[str, Any]


def row(message_id: str, /, **members: Any) -> Row:
    """Make a row of the search as Cloudflare shows a spam mail in quarantine; members replace or add to it."""
    postfix_id, _, rest = message_id.partition("-")
    known: Row = {
        "id": message_id,
        "postfix_id": postfix_id,
        "alert_id": f"{postfix_id}-{rest[:19]}",
        "message_id": f"<{postfix_id}@example.net>",
        "is_quarantined": True,
        "client_recipients": ["ann@example.com"],
        "delivery_mode": "DIRECT",
        "delivery_status": ["quarantined"],
        "final_disposition": "SPAM",
        "from": "newsletter@example.net",
        "subject": "Your order",
        "post_delivery_operations": [],
        "properties": {},
        "scanned_at": f"{rest[:19]}Z",
    }
    return {**known, **members}


def action(*, success: bool | None = True, **members: Any) -> Row:
    """Make an entry of a message's action log: a release, by default one that worked."""
    status = "SUCCESS" if success else "FAILED"
    entry = {"operation": "QUARANTINE_RELEASE", "started_at": "2026-01-01T00:00:00Z", "status": status}
    return {**entry, "success": success, "properties": {"requested_by": "someone@example.com"}, **members}


@dataclass
class ScriptedCloudflare:
    """What the server knows and what it was asked. A test sets the members; `reset` forgets everything.

    `rows` feed lists, searches and single reads; `paths` replaces what a single read of an id answers, by a list of
    rows or an HTTP status. `page_size` cuts lists and action logs into pages; without `knows_pages` every page of
    a log is the first. `on_release` answers a release call with
    the entries of `result`, or with a status; by default every id is delivered to one recipient. `retry_after` is what
    a 429 says, in seconds. `on_read` is called with the path and query of every read before it is answered, and may
    block.
    """

    rows: list[Row] = field(default_factory=list)
    paths: dict[str, list[Row] | int] = field(default_factory=dict)
    logs: dict[str, list[Row]] = field(default_factory=dict)
    page_size: int = 1000
    knows_pages: bool = True
    on_release: Callable[[list[str]], list[Row] | int] | None = None
    retry_after: int = 2
    on_list: Callable[[Mapping[str, str]], int | None] | None = None
    on_read: Callable[[str], None] | None = None
    releases: list[list[str]] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def reset(self) -> None:
        """Forget everything, also what is set to be answered."""
        fresh = ScriptedCloudflare()
        for name in (each.name for each in fields(self) if each.name != "lock"):
            setattr(self, name, getattr(fresh, name))

    def released(self, part: str) -> int:
        """Return how many release calls held an id that begins with this."""
        return sum(each.startswith(part) for ids in self.releases for each in ids)

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        """Answer one request: status and JSON content."""
        url = urlsplit(target)
        path, query = unquote(url.path), dict(parse_qsl(url.query))
        rest = path.partition("/investigate")[2]
        if method == "POST" and rest == "/release":
            return self._release(json.loads(body))
        with self.lock:
            self.reads.append(target)
        if self.on_read is not None:
            self.on_read(target)
        if "/investigate" not in path:
            return 200, envelope({"status": "active"})
        if rest == "":
            return self._list(query)
        if rest.endswith("/action_log"):
            log = self.logs.get(rest.removesuffix("/action_log").strip("/"), [])
            if not self.knows_pages:
                return 200, envelope(log[: int(query["per_page"])])
            return 200, self._page(log, query)
        return self._message(rest.strip("/"))

    def _release(self, content: Any) -> tuple[int, Any]:
        ids = list(content["ids"] if isinstance(content, dict) else content)
        with self.lock:
            self.releases.append(ids)
        if self.on_release is None:
            return 200, envelope([{"id": each, "delivered": ["ann@example.com"]} for each in ids])
        result = self.on_release(ids)
        return (result, refusal(result)) if isinstance(result, int) else (200, envelope(result))

    def _list(self, query: Mapping[str, str]) -> tuple[int, Any]:
        if self.on_list is not None and (status := self.on_list(query)) is not None:
            return status, refusal(status)
        return 200, self._page([each for each in self.rows if _matches(each, query)], query)

    def _page(self, found: list[Row], query: Mapping[str, str]) -> Any:
        size = min(self.page_size, int(query.get("per_page", 20)))
        start = int(query.get("cursor") or (int(query.get("page", 1)) - 1) * size)
        following = str(start + size) if start + size < len(found) else None
        info = {"count": len(found[start : start + size]), "per_page": size, "next": following, "previous": None}
        return {**envelope(found[start : start + size]), "result_info": info}

    def _message(self, message_id: str) -> tuple[int, Any]:
        answer = self.paths.get(message_id, [each for each in self.rows if each.get("id") == message_id])
        if isinstance(answer, int) or not answer:
            status = answer if isinstance(answer, int) else 404
            return status, refusal(status)
        return 200, envelope(answer[0] if len(answer) == 1 else answer)


def envelope(result: Any) -> dict[str, Any]:
    """Wrap a result as Cloudflare does."""
    return {"success": True, "errors": [], "messages": [], "result": result}


def refusal(status: int) -> dict[str, Any]:
    """Make the body of an error."""
    return {"success": False, "errors": [{"code": 1000 + status, "message": "no"}], "messages": [], "result": None}


def _matches(each: Row, query: Mapping[str, str]) -> bool:
    at = str(each.get("scanned_at") or "9")
    return (
        query.get("start", "") <= at <= query.get("end", "9999")
        and query.get("alert_id", each.get("alert_id")) == each.get("alert_id")
        and query.get("message_id", each.get("message_id")) == each.get("message_id")
        and ("delivery_status" not in query or query["delivery_status"] in (each.get("delivery_status") or ()))
    )


@contextmanager
def serve_scripted() -> Iterator[tuple[ScriptedCloudflare, str]]:
    """Serve on a free port of this machine; give the server's state and its base address."""

    class Connection(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, content = scripted.answer(self.command, self.path, self.rfile.read(length))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if status == 429:
                self.send_header("Retry-After", str(scripted.retry_after))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Keep quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    scripted = ScriptedCloudflare()
    server = Server(("127.0.0.1", 0), Connection)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield scripted, f"http://127.0.0.1:{server.server_port}/client/v4"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass
class Deployed:
    """The local stack with a scripted Cloudflare behind it, and what a caller does with it over HTTP."""

    stack: Stack
    cloudflare: ScriptedCloudflare

    def clients(self, *others: Mapping[str, Any]) -> None:
        """Set the *clients* secret: the stack's own client and others, each an entry with its token in plain `token`.

        `token_members` are added to the entry of its token.
        Every process keeps a copy for 300 s, but fetches the secret again, at most once in 30 s, for an unknown token.
        """
        own = {"name": "local", "token": self.stack.token, "scopes": list(SCOPES)}
        entries = [
            {
                **{name: value for name, value in entry.items() if name not in ("token", "token_members")},
                "tokens": [{**_digest(entry["token"]), **entry.get("token_members", {})}],
            }
            for entry in (own, *others)
        ]
        self._put_secret("CLIENTS_SECRET_ID", {"clients": entries})

    def accounts(self, *others: str, **members: Any) -> None:
        """Set the *cloudflare* secret: the stack's account first, then others; `members` are added to each entry.

        Every process keeps a copy for 300 s, but fetches the secret again, at most once in 30 s, for an account that
        is not in it.
        """
        entries = [{"account_id": each, "api_token": API_TOKEN, **members} for each in (ACCOUNT, *others)]
        self._put_secret("CLOUDFLARE_SECRET_ID", {"accounts": entries})

    def _put_secret(self, variable: str, content: Any) -> None:
        self.put_secret(variable, json.dumps(content))

    def put_secret(self, variable: str, document: str) -> None:
        """Set the secret that this variable of the functions names, as it is."""
        self._aws("secretsmanager").put_secret_value(SecretId=self._environment[variable], SecretString=document)

    def item(self, key: str) -> dict[str, Any]:
        """Read a row of the ledger as DynamoDB keeps it; empty if there is none."""
        found = self._aws("dynamodb").get_item(
            TableName=self._environment["TABLE_NAME"], Key={"pk": {"S": key}}, ConsistentRead=True
        )
        return dict(found.get("Item", {}))

    def put_item(self, item: Mapping[str, Any]) -> None:
        """Write a row of the ledger over whatever is there, past the product's code."""
        self._aws("dynamodb").put_item(TableName=self._environment["TABLE_NAME"], Item=dict(item))

    @property
    def _environment(self) -> dict[str, str]:
        return dict(json.loads(self.stack.environment_path.read_text()))

    def _aws(self, service: Any) -> Any:
        return boto3.client(
            service,
            endpoint_url=self.stack.aws_url,
            region_name=self._environment["AWS_DEFAULT_REGION"],
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )

    def post(self, body: Any, path: str = "/v1/releases", **headers: str) -> requests.Response:
        """Post JSON with the stack's token, unless `Authorization` is given; `_` in a header's name stands for `-`."""
        return requests.post(f"{self.stack.base_url}{path}", json=body, headers=self._headers(headers), timeout=TIMEOUT)

    def get(self, path: str, **headers: str) -> requests.Response:
        """Get a path with the stack's token, unless `Authorization` is given."""
        return requests.get(f"{self.stack.base_url}{path}", headers=self._headers(headers), timeout=TIMEOUT)

    def ended(self, answer: requests.Response, seconds: float = 60) -> dict[str, Any]:
        """Poll until a request has ended and return its answer."""
        until = time.monotonic() + seconds
        while answer.status_code == 202 and time.monotonic() < until:
            time.sleep(0.2)
            answer = self.get(f"/v1/releases/{answer.json()['request_id']}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def results(self, body: Any, **headers: str) -> list[dict[str, Any]]:
        """Post, wait for the end, and return the result of each id."""
        return list(self.ended(self.post(body, **headers))["results"])

    def _headers(self, others: Mapping[str, str]) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in others.items()}
        return {"Authorization": f"Bearer {self.stack.token}", **named}


def _digest(token: str) -> dict[str, str]:
    return {"sha256": sha256(token.encode()).hexdigest()}


@contextmanager
def deployed(environment: Mapping[str, str] | None = None, *, processes: int = 2) -> Iterator[Deployed]:
    """Run the local stack in front of a scripted Cloudflare; `environment` adds settings of `make run`."""
    with serve_scripted() as (scripted, url):
        known = {
            "PORT": "0",
            "CLOUDFLARE_API_BASE_URL": url,
            "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
            "CLOUDFLARE_API_TOKEN": API_TOKEN,
            "RECONCILE_EVERY_SECONDS": "1",
        }
        with Stack({**known, **(environment or {})}, processes=processes) as stack:
            yield Deployed(stack, scripted)
