"""Who is calling: (request, clients, now) to an AuthenticatedRequest or Unauthenticated. Pure.

This happens before parsing and routing. Every refusal is the same exception after the same work; its reason is only
logged.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, auto
from typing import Final

from quarantine_release.api.event import HttpRequest
from quarantine_release.api.signature import Signed, check_signature
from quarantine_release.config.clients import Client

# A token in a URL ends up in access logs, proxies and browser histories. Refusing it shows the caller the mistake.
_QUERY_CREDENTIALS: Final = frozenset(
    {"token", "access_token", "auth_token", "api_token", "apikey", "api_key", "api-key", "x-api-key", "authorization"}
)


class Reason(StrEnum):
    """Why a caller is not authenticated; for logs and metrics."""

    NO_TOKEN = auto()
    TWO_TOKENS = auto()
    TOKEN_IN_QUERY = auto()
    UNKNOWN_TOKEN = auto()
    EXPIRED_TOKEN = auto()
    CLIENT_DISABLED = auto()
    NOT_SIGNED = auto()
    SIGNED_LONG_AGO = auto()
    WRONG_SIGNATURE = auto()


_REASONS: Final = {
    Signed.NO: Reason.NOT_SIGNED,
    Signed.LONG_AGO: Reason.SIGNED_LONG_AGO,
    Signed.WRONG: Reason.WRONG_SIGNATURE,
}


# The owner of an unknown token.
_NOBODY: Final = Client("", (), frozenset())


class Unauthenticated(Exception):
    """The caller is not a known client. `client` owns the token, if anybody does."""

    def __init__(self, reason: Reason, client: str | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.client = client


@dataclass(frozen=True, slots=True)
class AuthenticatedRequest:
    """A request of a known caller: the only thing that may be parsed. `signed_id` is None if it was not signed."""

    client: Client
    http: HttpRequest
    signed_id: str | None = None


def authenticate(request: HttpRequest, clients: Sequence[Client], now: datetime) -> AuthenticatedRequest:
    """Find the client whose token was sent, as Bearer or in x-api-key, and check its signature. Raises Unauthenticated.

    The same token in both is one token; two different ones, or one in the query string, are none. A client that has
    signing keys may sign, and one that is required to must. A signature that was sent must be right.
    """
    tokens = _sent_tokens(request.headers)
    token = next(iter(tokens)) if len(tokens) == 1 else None
    # All of the work comes before the first refusal: how long a refusal takes tells nothing.
    client, is_valid = _holder(token, clients, now)
    signed, signed_id = check_signature(request.headers, request.body, client.signing_keys, now)
    name = client.name or None
    if _is_in_query(token, request.query):
        raise Unauthenticated(Reason.TOKEN_IN_QUERY, name)
    if not token:
        raise Unauthenticated(Reason.TWO_TOKENS if len(tokens) > 1 else Reason.NO_TOKEN, None)
    if client is _NOBODY:
        raise Unauthenticated(Reason.UNKNOWN_TOKEN, None)
    if not is_valid:
        raise Unauthenticated(Reason.EXPIRED_TOKEN, name)
    if client.is_disabled:
        raise Unauthenticated(Reason.CLIENT_DISABLED, name)
    if _lacks_signature(client, signed):
        raise Unauthenticated(_REASONS[signed], name)
    return AuthenticatedRequest(client, request, signed_id or None)


def _sent_tokens(headers: Mapping[str, tuple[str, ...]]) -> set[str | None]:
    """Return the different tokens, None for an Authorization header that holds none."""
    return {_bearer(value) for value in headers.get("authorization", ())} | set(headers.get("x-api-key", ()))


def _bearer(value: str) -> str | None:
    scheme, _, token = value.strip(" ").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else None


def _holder(token: str | None, clients: Sequence[Client], now: datetime) -> tuple[Client, bool]:
    """Return who owns a token, and whether it is still valid. Every known token is compared, in constant time."""
    digest = hashlib.sha256((token or "").encode(errors="surrogatepass")).digest()
    holder, is_valid = _NOBODY, False
    for client in clients:
        for known in client.tokens:
            if hmac.compare_digest(known.sha256, digest) and token:
                holder = client
                is_valid = known.expires_at is None or now < known.expires_at
    return holder, is_valid


def _is_in_query(token: str | None, query: Mapping[str, tuple[str, ...]]) -> bool:
    return any(name.lower() in _QUERY_CREDENTIALS or token in values for name, values in query.items())


def _lacks_signature(client: Client, signed: Signed) -> bool:
    """Return whether a signature is missing or wrong. What a client without keys sends as one is its own business."""
    if not client.signing_keys or signed is Signed.YES:
        return False
    return client.requires_signature or signed is not Signed.NO
