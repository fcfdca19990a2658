"""Who may call the simulated Cloudflare and how often: settings, the check of credentials, the rate limit."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from local.cloudflare_script import Answer, error

TOKEN = re.compile(r"[A-Za-z0-9_-]{40,80}")
GLOBAL_KEY = re.compile(r"[0-9a-f]{37}")
SECRET_HEADERS = ("authorization", "x-auth-key", "x-auth-email")


@dataclass(slots=True)
class Settings:
    """Everything about the upstream that is unknown or differs between accounts; the control API changes it."""

    account_id: str
    tokens: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)  # global key by e-mail address
    tokens_belong_to: str = "any"  # whose verify call knows them: user, account, any
    permission: str = "write"  # write, read, none
    body_forms: list[str] = field(default_factory=lambda: ["array", "object"])
    ids_in_answers: str = "investigate"  # investigate, or as_asked
    postfix_ids_in_answers: bool = True
    reads_by_postfix_id: bool = False
    searches_pending: int = 0  # how often a search is answered 202 with a Location before it is done
    read_delay_seconds: float = 0.0  # how long after a release the reads still say "quarantined"
    ratelimit_headers: bool = True
    rate_limit: dict[str, float] | None = field(
        default_factory=lambda: {"calls": 1200.0, "window_seconds": 300.0, "block_seconds": 300.0}
    )

    def change(self, changes: Mapping[str, Any]) -> None:
        """Set what is named; `ValueError` for a setting that does not exist."""
        names = {each.name for each in fields(self)}
        if unknown := set(changes) - names:
            raise ValueError(f"no such setting: {', '.join(sorted(unknown))}")
        for name, value in changes.items():
            setattr(self, name, value)

    def shown(self) -> dict[str, Any]:
        """All settings but the credentials."""
        return {name: value for name, value in asdict(self).items() if name not in ("tokens", "keys")}


class RateLimit:
    """Cloudflare's own: so many calls in a window, and after one more every call is refused for a while."""

    def __init__(self) -> None:
        self._calls: deque[float] = deque()
        self._blocked_until = 0.0

    def count(self, settings: Settings, now: float) -> tuple[Answer | None, dict[str, str]]:
        """Count a call: the refusal, if the limit is used up, and the headers that every answer carries."""
        limit = settings.rate_limit
        if limit is None:
            return None, {}
        while self._calls and self._calls[0] <= now - limit["window_seconds"]:
            self._calls.popleft()
        if now >= self._blocked_until and len(self._calls) >= limit["calls"]:
            self._blocked_until = now + limit["block_seconds"]
            self._calls.clear()
        if now < self._blocked_until:
            refusal = error(429)
            wait = {"Retry-After": str(round(self._blocked_until - now) or 1)}
            return Answer(429, refusal.body, wait), {}
        self._calls.append(now)
        left, reset = int(limit["calls"]) - len(self._calls), int(self._calls[0] + limit["window_seconds"] - now)
        headers = {
            "Ratelimit": f'"default";r={left};t={reset}',
            "Ratelimit-Policy": f'"burst";q={int(limit["calls"])};w={int(limit["window_seconds"])}',
        }
        return None, headers if settings.ratelimit_headers else {}


def refuse_credentials(settings: Settings, headers: Mapping[str, str], endpoint: str) -> Answer | None:
    """The documented refusal of a call, or None if it may go on. `headers` has lower-case names."""
    bearer, key, email = (headers.get(name) for name in SECRET_HEADERS)
    if bearer is not None and (key is not None or email is not None):
        # What Cloudflare does with both is not documented; here it is a fault, so that a test notices.
        return error(400, 6003, "Invalid request headers", error_chain=[{"code": 6003, "message": "Two credentials"}])
    if bearer is not None:
        refusal = _refuse_token(settings, bearer, endpoint)
    elif key is not None and email is not None:
        refusal = _refuse_key(settings, email, key, endpoint)
    else:
        refusal = error(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")
    if refusal is None and endpoint not in ("verify", "user"):
        allowed = ("write",) if endpoint == "release" else ("write", "read")
        return None if settings.permission in allowed else error(403, 10000, "Authentication error")
    return refusal


def masked(name: str, value: str) -> str:
    """A header's value as the record of calls may show it: the form of a credential, never the credential."""
    if name.lower() not in SECRET_HEADERS:
        return value
    scheme, _, secret = value.partition(" ")
    return f"{scheme} ***" if secret else "***"


def _refuse_token(settings: Settings, bearer: str, endpoint: str) -> Answer | None:
    scheme, _, token = bearer.partition(" ")
    if scheme.lower() == "bearer" and token in settings.tokens:
        return None
    if scheme.lower() != "bearer" or not TOKEN.fullmatch(token):
        return _malformed(6111, "Authorization")
    return error(401, 1000, "Invalid API Token") if endpoint == "verify" else error(403, 9109, "Invalid access token")


def _refuse_key(settings: Settings, email: str, key: str, endpoint: str) -> Answer | None:
    if endpoint == "verify":
        return error(401, 1000, "Invalid API Token")
    if settings.keys.get(email) == key:
        return None
    if not GLOBAL_KEY.fullmatch(key):
        return _malformed(6103, "X-Auth-Key")
    return error(403, 9103, "Unknown X-Auth-Key or X-Auth-Email")


def _malformed(code: int, header: str) -> Answer:
    chain = [{"code": code, "message": f"Invalid format for {header} header"}]
    return error(400, 6003, "Invalid request headers", error_chain=chain)
