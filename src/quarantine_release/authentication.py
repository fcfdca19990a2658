"""Who is calling: (headers, raw bytes, clients, now) to an AuthenticatedPayload or Unauthenticated. Pure.

Comes before parsing and routing. Every refusal is the same exception after the same work, and says nothing of why.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from quarantine_release.clients import Client

# A token in a URL ends in access logs, proxies and browser histories, so a caller who sends one is told at once.
_QUERY_CREDENTIALS: Final = frozenset(
    {"token", "access_token", "auth_token", "api_token", "apikey", "api_key", "api-key", "x-api-key", "authorization"}
)


class Unauthenticated(Exception):
    """The caller is nobody known."""


@dataclass(frozen=True, slots=True)
class AuthenticatedPayload:
    """Bytes of a known caller: the only thing that may be parsed. `body` is None if the event's base64 was not."""

    client: Client
    headers: Mapping[str, tuple[str, ...]] = field(repr=False)
    body: bytes | None = field(repr=False)


def authenticate(
    headers: Mapping[str, tuple[str, ...]],
    query: Mapping[str, tuple[str, ...]],
    body: bytes | None,
    clients: Sequence[Client],
    now: datetime,
) -> AuthenticatedPayload:
    """Find the client whose token was sent, as Bearer or in x-api-key. Raises Unauthenticated.

    The same token in both is one token; two different ones, or one in the query string, are none.
    """
    candidates = {_bearer(value) for value in headers.get("authorization", ())} | set(headers.get("x-api-key", ()))
    token = candidates.pop() if len(candidates) == 1 else None
    digest = hashlib.sha256((token or "").encode("utf-8", "surrogatepass")).digest()
    found = None
    for client in clients:
        for known in client.tokens:
            is_same = hmac.compare_digest(known.sha256, digest)
            is_valid = known.expires_at is None or now < known.expires_at
            if is_same and is_valid:
                found = client
    in_query = any(name.lower() in _QUERY_CREDENTIALS or token in values for name, values in query.items())
    if found is None or not token or in_query:
        raise Unauthenticated
    return AuthenticatedPayload(found, headers, body)


def _bearer(value: str) -> str | None:
    scheme, _, token = value.strip(" ").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else None
