"""What the environment of `make run` says: port, upstream, credential, token, shortened waits."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from local.children import CannotStart
from quarantine_release.config.clients import parse_clients

DEFAULT_PORT = "8080"
PLACEHOLDER_ACCOUNT = "0123456789abcdef0123456789abcdef"
PLACEHOLDER_TOKEN = "simulator-token"  # noqa: S105  # only ever sent to this machine
SCOPES = ("release", "read", "read:all", "force", "override")
# Template variables that may be set from outside, as `settings.py` takes them; all others must agree with what the
# stack has made.
SECONDS = re.compile(r"[1-9][0-9]{0,4}"), "a whole number between 1 and 99999"
OVERRIDES = {
    "CLOUDFLARE_WIRE_FORM": (re.compile(r"auto|array|object"), "auto, array or object"),
    "LEASE_SECONDS": SECONDS,
    "SETTLE_SECONDS": SECONDS,
    "EXPIRE_AFTER": (
        re.compile(r"[1-9][0-9]{0,2}h|[1-9][0-9]{0,4}s"),
        "a number of hours or seconds, such as 24h or 90s",
    ),
    "SECRET_SECONDS": SECONDS,
    "BUDGET_INLINE_CALLS": SECONDS,
    "BUDGET_CALLS": SECONDS,
    "SEARCH_LAG_SECONDS": SECONDS,
    "GUARD_MODE": (re.compile(r"standard|strict|off"), "standard, strict or off"),
}
DEFAULT_RECONCILE_EVERY = "60"
FRACTION = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
TOKEN_SHAPE = re.compile(r"[\x21-\x7e]{8,512}")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything a person can choose. The credential does not show in the repr."""

    port: int
    token: str = field(repr=False)
    signing_secret: str | None = field(repr=False)
    upstream_url: str | None
    account_id: str
    credential: Mapping[str, str] = field(repr=False)
    overrides: Mapping[str, str]
    reconcile_every_seconds: float

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Options:
        """Read the variables; an empty one counts as not set. Raises `CannotStart` with one sentence."""
        given = {name: value.strip() for name, value in environment.items() if value.strip()}
        upstream_url = given.get("CLOUDFLARE_API_BASE_URL", "").rstrip("/") or None
        is_here = upstream_url is None or _is_on_this_machine(upstream_url)
        account_id = given.get("CLOUDFLARE_ACCOUNT_ID", PLACEHOLDER_ACCOUNT if is_here else "")
        credential = _credential(given) or ({"api_token": PLACEHOLDER_TOKEN} if is_here else {})
        if not account_id or not credential:
            missing = [] if account_id else ["CLOUDFLARE_ACCOUNT_ID"]
            missing += [] if credential else ["CLOUDFLARE_API_TOKEN (or CLOUDFLARE_API_EMAIL and CLOUDFLARE_API_KEY)"]
            raise CannotStart(f"{upstream_url} is not on this machine, so set {' and '.join(missing)} too.")
        if not re.fullmatch(r"[0-9a-f]{32}", account_id):
            raise CannotStart("CLOUDFLARE_ACCOUNT_ID must be 32 hexadecimal digits in lower case.")
        token = given.get("QUARANTINE_RELEASE_TOKEN") or secrets.token_urlsafe(32)
        if not TOKEN_SHAPE.fullmatch(token):
            raise CannotStart("QUARANTINE_RELEASE_TOKEN must be 8 to 512 visible ASCII characters without spaces.")
        signing_secret = given.get("QUARANTINE_RELEASE_SIGNING_SECRET")
        options = cls(
            port=_port(given.get("PORT", DEFAULT_PORT)),
            token=token,
            signing_secret=signing_secret,
            upstream_url=upstream_url,
            account_id=account_id,
            credential=credential,
            overrides={name: _override(name, given[name]) for name in OVERRIDES if name in given},
            reconcile_every_seconds=_every(given.get("RECONCILE_EVERY_SECONDS", DEFAULT_RECONCILE_EVERY)),
        )
        if parse_clients(options.clients_secret()).problems:
            raise CannotStart("QUARANTINE_RELEASE_SIGNING_SECRET must be whsec_ and base64 of 24 to 64 bytes.")
        return options

    def cloudflare_secret(self) -> str:
        return json.dumps({"account_id": self.account_id, **self.credential})

    def clients_secret(self) -> str:
        tokens = [{"sha256": sha256(self.token.encode("ascii")).hexdigest()}]
        entry: dict[str, Any] = {"name": "local", "tokens": tokens, "scopes": SCOPES}
        if self.signing_secret:
            entry |= {"signing_secrets": [self.signing_secret], "require_signature": True}
        return json.dumps({"clients": [entry]})


def _credential(given: Mapping[str, str]) -> dict[str, str]:
    token, email, key = (given.get(f"CLOUDFLARE_API_{name}") for name in ("TOKEN", "EMAIL", "KEY"))
    if token and (email or key):
        raise CannotStart("Set CLOUDFLARE_API_TOKEN, or CLOUDFLARE_API_EMAIL and CLOUDFLARE_API_KEY, but not both.")
    if token:
        return {"api_token": token}
    if email and key:
        return {"api_email": email, "api_key": key}
    if email or key:
        missing = "CLOUDFLARE_API_KEY" if email else "CLOUDFLARE_API_EMAIL"
        raise CannotStart(f"{missing} is missing: a global key and its e-mail address go together.")
    return {}


def _is_on_this_machine(url: str) -> bool:
    """Whether a placeholder may be sent there; anything else needs https and a credential of its own.

    What `settings.py` refuses is refused here, at the start; and what it would only fail over at the first call.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host or "@" in parts.netloc:
        raise CannotStart("CLOUDFLARE_API_BASE_URL must be an http or https address without a password in it.")
    is_here = host in THIS_MACHINE
    if not is_here and parts.scheme != "https":
        raise CannotStart(
            f"CLOUDFLARE_API_BASE_URL must begin with https:// unless it is at {' or '.join(THIS_MACHINE)}."
        )
    return is_here


def _override(name: str, text: str) -> str:
    shape, rule = OVERRIDES[name]
    if not shape.fullmatch(text):
        raise CannotStart(f"{name} must be {rule}.")
    return text


def _every(text: str) -> float:
    if not FRACTION.fullmatch(text) or not 0.1 <= float(text) <= 99999:
        raise CannotStart("RECONCILE_EVERY_SECONDS must be a number between 0.1 and 99999.")
    return float(text)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise CannotStart("PORT must be a number from 0 (any free port) to 65535.")
    return int(text)
