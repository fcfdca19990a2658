"""The *clients* secret: who may call, with which tokens, for what. Pure.

An invalid entry disables that client alone; only a document that cannot be read disables everybody. A member whose
name resembles a known one makes its entry invalid, because it would otherwise silently mean "no limit".
"""

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from quarantine_release.config.secret import SecretMalformed
from quarantine_release.domain.ids import ACCOUNT_ID, AccountId
from quarantine_release.domain.policy import Policy, parse_policy
from quarantine_release.domain.resemblance import check_names

# Signing secrets of one client: the one in use, and the next.
KEYS_LIMIT: Final = 2

_NAME: Final = re.compile(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_SHA256: Final = re.compile(r"\A[0-9a-f]{64}\Z")

_MEMBERS: Final = (
    "name",
    "tokens",
    "scopes",
    "accounts",
    "max_ids",
    "signing_secrets",
    "require_signature",
    "policy",
    "disabled",
)
_TOKEN_MEMBERS: Final = ("sha256", "expires_at")
# Other names for a limit, and limits at the wrong place: without a limit the entry would still work.
_MEANT: Final = {
    "account_id": "accounts",
    "account_ids": "accounts",
    "expires_at": "expires_at of a token",
    "expires": "expires_at of a token",
    "enabled": "disabled",
    **{name: f"{name} of policy" for name in ("dispositions", "max_age_days", "recipient_domains", "strict")},
}

# A name that holds one of these may be meant for it: `allowed_accounts`, `is_disabled`.
_LIMITS: Final = ("scopes", "accounts", "max_ids", "require_signature", "policy", "disabled", *_MEANT)

_TOKEN_MEANT: Final = dict.fromkeys(("expires", "expiry", "expiration", "expiration_date", "valid_until"), "expires_at")


class Scope(StrEnum):
    """What a client may do."""

    RELEASE = "release"
    READ = "read"
    READ_ALL = "read:all"
    FORCE = "force"
    OVERRIDE = "override"


@dataclass(frozen=True, slots=True)
class Token:
    """The SHA-256 of a token, never the token; valid until `expires_at`, for ever if None."""

    sha256: bytes
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Client:
    """A caller. `accounts` None: every configured one; `max_ids` None: as many as anybody.

    `policy` adds to the deployment's. `signing_keys`: with each of them its requests may be signed;
    `requires_signature`: they must be. `is_disabled`: it may do nothing, and its queued work waits.
    """

    name: str
    tokens: tuple[Token, ...]
    scopes: frozenset[Scope]
    accounts: frozenset[AccountId] | None = None
    max_ids: int | None = None
    signing_keys: tuple[bytes, ...] = field(default=(), repr=False)
    requires_signature: bool = False
    policy: Policy | None = None
    is_disabled: bool = False

    def may_act_for(self, account_id: AccountId) -> bool:
        return self.accounts is None or account_id in self.accounts


@dataclass(frozen=True, slots=True)
class Clients:
    """Everybody who may call, and what is wrong with the entries that were left out, by name."""

    clients: tuple[Client, ...]
    problems: Mapping[str, str]


def parse_clients(document: str) -> Clients:
    """Read the *clients* secret. Unknown members that resemble no known one are ignored. Raises SecretMalformed."""
    clients: dict[str, Client] = {}
    problems: dict[str, str] = {}
    for position, entry in enumerate(_entries(document)):
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not _NAME.match(name):
            problems[f"clients[{position}]"] = (
                "name: must be 1 to 64 of A-Z a-z 0-9 . _ -, beginning with one of A-Z a-z 0-9"
            )
            continue
        try:
            client = _client(name, entry)
        except ValueError as error:
            problems[name] = str(error)
            continue
        if name in clients or name in problems:
            problems[f"clients[{position}]"] = "name: another client has it"
        elif _share_a_token(client, clients.values()):
            problems[name] = "tokens: another client has one of them"
        else:
            clients[name] = client
    return Clients(tuple(clients.values()), problems)


def _entries(document: str) -> list[Any]:
    try:
        content = json.loads(document)
    except (ValueError, RecursionError):
        raise SecretMalformed("is not JSON") from None
    if content == {}:
        raise SecretMalformed("is empty: it was never set")
    entries = content.get("clients") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise SecretMalformed("clients: must be a list")
    return entries


def _share_a_token(client: Client, others: Iterable[Client]) -> bool:
    taken = {token.sha256 for other in others for token in other.tokens}
    return not taken.isdisjoint(token.sha256 for token in client.tokens)


def _client(name: str, entry: dict[str, Any]) -> Client:
    check_names(entry, _MEMBERS, _MEANT, limits=_LIMITS)
    keys = (
        tuple(_signing_key(secret) for secret in _list(entry, "signing_secrets")) if "signing_secrets" in entry else ()
    )
    if len(keys) > KEYS_LIMIT:
        raise ValueError(f"signing_secrets: must be at most {KEYS_LIMIT}")
    required = _flag(entry, "require_signature")
    if required and not keys:
        raise ValueError("require_signature: needs signing_secrets")
    return Client(
        name,
        tuple(_token(token) for token in _list(entry, "tokens")),
        frozenset(_scope(scope) for scope in _list(entry, "scopes")),
        frozenset(_account(account) for account in _list(entry, "accounts")) if "accounts" in entry else None,
        _max_ids(entry.get("max_ids")),
        keys,
        required,
        _policy(entry.get("policy")),
        _flag(entry, "disabled"),
    )


def _flag(entry: dict[str, Any], member: str) -> bool:
    value = entry.get(member, False)
    if not isinstance(value, bool):
        raise ValueError(f"{member}: must be true or false")
    return value


def _policy(value: Any) -> Policy | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("policy: must be an object")
    return parse_policy(value)


def _list(entry: dict[str, Any], member: str) -> list[Any]:
    value = entry.get(member)
    if not isinstance(value, list) or not value:
        raise ValueError(f"{member}: must be a list with at least one entry")
    return value


def _token(token: Any) -> Token:
    digest = token.get("sha256") if isinstance(token, dict) else None
    if not isinstance(digest, str) or not _SHA256.match(digest):
        raise ValueError("tokens: sha256 must be 64 lower-case hexadecimal digits")
    check_names(token, _TOKEN_MEMBERS, _TOKEN_MEANT, "tokens: ", ("expires_at", *_TOKEN_MEANT))
    if token.get("expires_at") is None:
        return Token(bytes.fromhex(digest))
    try:
        expires_at = datetime.fromisoformat(token["expires_at"])
    except (TypeError, ValueError):
        expires_at = None
    if expires_at is None or expires_at.tzinfo is None:
        raise ValueError("tokens: expires_at must be an ISO 8601 time with its offset from UTC")
    return Token(bytes.fromhex(digest), expires_at)


def _signing_key(secret: Any) -> bytes:
    """Read a secret as Standard Webhooks writes it: `whsec_` and base64 of 24 to 64 bytes."""
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (AttributeError, TypeError, ValueError):
        key = b""
    if not (isinstance(secret, str) and secret.startswith("whsec_") and 24 <= len(key) <= 64):
        raise ValueError("signing_secrets: must be whsec_ and base64 of 24 to 64 bytes each")
    return key


def _scope(scope: Any) -> Scope:
    try:
        return Scope(scope)
    except ValueError:
        raise ValueError(f"scopes: must be of {', '.join(Scope)}") from None


def _account(account: Any) -> AccountId:
    if not isinstance(account, str) or not ACCOUNT_ID.match(account):
        raise ValueError("accounts: must be 32 lower-case hexadecimal digits each")
    return AccountId(account)


def _max_ids(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ValueError("max_ids: must be a whole number of at least 1")
