"""What the simulated Cloudflare answers to each call, before anything happens to the answer on its way."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from local.cloudflare_account import RateLimit, Settings, masked, refuse_credentials
from local.cloudflare_messages import Message, Quarantine, Release
from local.cloudflare_script import Answer, Script, Step, changed, envelope, error

ROUTES = (
    ("POST", re.compile(r"/accounts/(?P<account>[^/]+)/email-security/investigate/release"), "release"),
    ("GET", re.compile(r"/accounts/(?P<account>[^/]+)/email-security/investigate"), "list"),
    ("GET", re.compile(r"/accounts/(?P<account>[^/]+)/email-security/investigate/(?P<id>[^/]+)"), "message"),
    (
        "GET",
        re.compile(r"/accounts/(?P<account>[^/]+)/email-security/investigate/(?P<id>[^/]+)/action_log"),
        "action_log",
    ),
    ("GET", re.compile(r"/accounts/(?P<account>[^/]+)/tokens/verify"), "verify"),
    ("GET", re.compile(r"/user/tokens/verify"), "verify"),
    ("GET", re.compile(r"/user"), "user"),
)
PREFIX = "/client/v4"


class Call:
    """One call as it was received."""

    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
        self.method, self.headers, self.now = method, {name.lower(): value for name, value in headers.items()}, now
        self.path, _, query = target.partition("?")
        self.query = dict(parse_qsl(query, keep_blank_values=True))
        self.body = _decoded(body)
        self.endpoint, self.account, self.id = "", None, ""
        for route_method, pattern, endpoint in ROUTES:
            if self.method == route_method and (match := pattern.fullmatch(self.path.removeprefix(PREFIX))):
                parts = match.groupdict()
                self.endpoint, self.account, self.id = endpoint, parts.get("account"), unquote(parts.get("id") or "")

    def named_ids(self) -> list[str]:
        """The message ids that the call is about."""
        wanted = self.body.get("ids") if isinstance(self.body, dict) else self.body
        if self.endpoint == "release":
            return [each for each in wanted if isinstance(each, str)] if isinstance(wanted, list) else []
        return [self.id] if self.id else [self.query["alert_id"]] if "alert_id" in self.query else []


class SimulatedCloudflare:
    """The state behind the HTTP server; every method may be called from several threads."""

    def __init__(self, settings: Settings) -> None:
        self._initial = asdict(settings)
        self.settings = settings
        self.script = Script()
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget messages, calls, script and changed settings."""
        with self._lock:
            self.script.clear()
            self.settings.change(json.loads(json.dumps(self._initial)))
            self.calls: list[dict[str, Any]] = []
            self.faults: list[str] = []
            self.quarantine = Quarantine()
            self._rate_limit = RateLimit()

    def record(self, call: Call, step: Step | None, answer: Answer | None, cf_ray: str) -> None:
        entry = {
            "at": call.now.isoformat(),
            "method": call.method,
            "path": call.path,
            "query": call.query,
            "headers": {name: masked(name, value) for name, value in call.headers.items()},
            "body": call.body,
            "endpoint": call.endpoint,
            "behaviour": step.behaviour if step else None,
            "status": answer.status if answer else None,
            "cf_ray": cf_ray,
        }
        with self._lock:
            self.calls.append(entry)

    def answer(self, call: Call) -> tuple[Answer, Step | None]:
        """The answer to a call and the behaviour that still has to happen to it on the wire."""
        with self._lock:
            refusal, headers = self._rate_limit.count(self.settings, time.monotonic())
            refusal = refusal or self._refuse(call)
        step = None if refusal else self.script.for_call(call.endpoint, call.named_ids())
        if step and step.behaviour == "slow":
            time.sleep(step.parameters.get("seconds", 5))
        with self._lock:
            answer = refusal or self._normal_answer(call, step)
        answer = changed(answer, step) if step else answer
        return Answer(answer.status, answer.body, {**headers, **answer.headers}), step

    def overview(self) -> dict[str, Any]:
        now = datetime.now(UTC)
        with self._lock:
            messages = [message.summary(now) for message in self.quarantine.all()]
            return {
                "calls": len(self.calls),
                "release_calls": sum(call["endpoint"] == "release" for call in self.calls),
                "released": sum(message["state"] == "released" for message in messages),
                "double_releases": sum(message["double_releases"] for message in messages),
                "faults": self.faults,
                "settings": self.settings.shown(),
                "messages": messages,
            }

    def _refuse(self, call: Call) -> Answer | None:
        if not call.endpoint or not call.path.startswith(PREFIX):
            return error(404, 7000, "No route for that URI")
        if "authorization" in call.headers and ("x-auth-key" in call.headers or "x-auth-email" in call.headers):
            self.faults.append(f"both credential forms in {call.method} {call.path}")
        if refusal := refuse_credentials(self.settings, call.headers, call.endpoint):
            return refusal
        if call.account not in (None, self.settings.account_id):
            return error(403, 9109, "Unauthorized to access requested resource")
        return None

    def _normal_answer(self, call: Call, step: Step | None) -> Answer:
        seen_at = call.now - timedelta(seconds=self.settings.read_delay_seconds)
        if call.endpoint == "release":
            return self._release(call, step)
        if call.endpoint == "list":
            return self._list(call, seen_at)
        if call.endpoint == "verify":
            owner = "account" if call.account else "user"
            if self.settings.tokens_belong_to not in (owner, "any"):
                return error(401, 1000, "Invalid API Token")
            note = {"code": 10000, "message": "This API Token is valid and active", "type": None}
            return envelope({"id": "0" * 32, "status": "active"}, messages=[note])
        if call.endpoint == "user":
            return envelope({"id": "0" * 32, "email": "analyst@example.com"})
        message = self.quarantine.find(call.id, call.now)
        if message is None or (call.id != message.id and not self._reads_by(message, call.id)):
            return error(404)
        return envelope(message.details(seen_at)) if call.endpoint == "message" else _log(call, message, seen_at)

    def _reads_by(self, message: Message, message_id: str) -> bool:
        return self.settings.reads_by_postfix_id and message_id == message.postfix_id

    def _list(self, call: Call, seen_at: datetime) -> Answer:
        try:
            per_page, offset = int(call.query.get("per_page", "20")), int(call.query.get("cursor") or "0", 16)
            found = [message.details(seen_at) for message in self.quarantine.search(call.query, call.now)]
        except ValueError as problem:
            return error(400, 1004, f"Invalid search parameter: {problem}")
        if not 1 <= per_page <= 1000:
            return error(400, 1004, "Invalid search parameter: per_page")
        polls = int(call.query.get("poll", "0"))
        if polls < self.settings.searches_pending:
            later = urlencode({**call.query, "poll": str(polls + 1)})
            pending = envelope([], result_info={"count": 0, "next": None})
            return Answer(202, pending.body, {"Location": f"{call.path}?{later}"})
        page, following = found[offset : offset + per_page], offset + per_page
        cursor = f"{following:x}" if following < len(found) else None
        info = {"count": len(page), "per_page": per_page, "next": cursor, "previous": None, "total_count": 0, "page": 0}
        return envelope(page, result_info=info)

    def _release(self, call: Call, step: Step | None) -> Answer:
        form = "object" if isinstance(call.body, dict) else "array"
        ids = call.named_ids()
        if form not in self.settings.body_forms or not ids:
            return error(400, 1001, "Invalid request body")
        messages = [self.quarantine.find(message_id, call.now) for message_id in ids]
        for each in {each.id: each for each in messages if each}.values():
            each.release_calls += 1
        entries: list[dict[str, Any]] = []
        done: set[str] = set()
        for asked, message in zip(ids, messages, strict=True):
            if message is None:
                return error(400, 1005, "Unknown message id")
            if message.id not in done:
                entries += self._release_one(call, message, asked, step)
            done.add(message.id)
        return envelope(entries)

    def _release_one(self, call: Call, message: Message, asked: str, step: Step | None) -> list[dict[str, Any]]:
        own = self.script.for_message("release", asked) or Step("delivered" if message.quarantined else "empty_lists")
        if step is None or step.takes_effect:
            late = (step or own).parameters.get("late_seconds", 0)
            success = own.takes_effect and message.quarantined
            requested_by = call.headers.get("x-auth-email", "api-token")
            message.releases.append(Release(call.now + timedelta(seconds=late), success, requested_by))
        entry: dict[str, Any] = {"id": message.id if self.settings.ids_in_answers == "investigate" else asked}
        if self.settings.postfix_ids_in_answers:
            entry["postfix_id"] = message.postfix_id
        entry |= _recipient_lists(own.behaviour, message.recipients)
        if own.behaviour == "omit":
            return []
        if own.behaviour == "other_id":
            return [
                entry,
                {**entry, "id": "4WtWkr6nlBz9sNH-2024-08-28T15:32:35-87654321", "postfix_id": "4WtWkr6nlBz9sNH"},
            ]
        return [entry]


def _log(call: Call, message: Message, seen_at: datetime) -> Answer:
    try:
        number, per_page = int(call.query.get("page", "1")), int(call.query.get("per_page", "20"))
    except ValueError:
        number = per_page = 0
    if number < 1 or not 1 <= per_page <= 1000:
        return error(400, 1004, "Invalid parameter: page or per_page")
    page = message.action_log(seen_at)[(number - 1) * per_page : number * per_page]
    return envelope(page, result_info={"count": len(page), "page": number, "per_page": per_page, "total_count": 0})


def _recipient_lists(behaviour: str, recipients: list[str]) -> dict[str, list[str] | None]:
    lists: dict[str, list[str] | None] = {"delivered": [], "failed": [], "undelivered": []}
    if behaviour == "absent_lists":
        return {}
    if behaviour == "null_lists":
        return dict.fromkeys(lists)
    if behaviour == "partial":
        return {**lists, "delivered": recipients[:-1], "undelivered": recipients[-1:]}
    if behaviour in ("failed", "undelivered"):
        return {**lists, behaviour: recipients}
    return lists if behaviour == "empty_lists" else {**lists, "delivered": recipients}


def _decoded(body: bytes) -> Any:
    """JSON as what it means, anything else as text."""
    try:
        return json.loads(body) if body else None
    except ValueError:
        return body.decode("utf-8", "replace")
