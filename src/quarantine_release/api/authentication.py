"""Who is calling: (headers, raw bytes, clients, now) to an AuthenticatedPayload or Unauthenticated. Pure.

Comes before parsing and routing. Every refusal is the same exception after the same work; why is for the log alone.
"""

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum, auto
from typing import Final

from quarantine_release.api.signature import Signed, check_signature
from quarantine_release.config.clients import Client

# A token in a URL ends in access logs, proxies and browser histories, so a caller who sends one is told at once.
_QUERY_CREDENTIALS: Final = frozenset(
    {"token", "access_token", "auth_token", "api_token", "apikey", "api_key", "api-key", "x-api-key", "authorization"}
)


class Reason(StrEnum):
    """Why nobody is known; for logs and metrics."""

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


class Unauthenticated(Exception):
    """The caller is nobody known. `client` is whose token it was, if anybody's."""

    def __init__(self, reason: Reason, client: str | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.client = client


@dataclass(frozen=True, slots=True)
class AuthenticatedPayload:
    """Bytes of a known caller: the only thing that may be parsed. `body` is None if the event's base64 was not.

    `signed_id` is the id that was signed along with them, None if nothing was.
    """

    client: Client
    headers: Mapping[str, tuple[str, ...]] = field(repr=False)
    body: bytes | None = field(repr=False)
    signed_id: str | None = None


def authenticate(
    headers: Mapping[str, tuple[str, ...]],
    query: Mapping[str, tuple[str, ...]],
    body: bytes | None,
    clients: Sequence[Client],
    now: datetime,
) -> AuthenticatedPayload:
    """Find the client whose token was sent, as Bearer or in x-api-key, and check its signature. Raises Unauthenticated.

    The same token in both is one token; two different ones, or one in the query string, are none. A client that has
    signing keys may sign, and one that is required to must: what is signed must be signed right.
    """
    candidates = {_bearer(value) for value in headers.get("authorization", ())} | set(headers.get("x-api-key", ()))
    token = candidates.pop() if len(candidates) == 1 else None
    digest = hashlib.sha256((token or "").encode(errors="surrogatepass")).digest()
    found, is_valid = None, False
    for client in clients:
        for known in client.tokens:
            if hmac.compare_digest(known.sha256, digest):
                found = client
                is_valid = known.expires_at is None or now < known.expires_at
    in_query = any(name.lower() in _QUERY_CREDENTIALS or token in values for name, values in query.items())
    signed, signed_id = check_signature(headers, body, found.signing_keys if found else (), now)
    if in_query:
        reason = Reason.TOKEN_IN_QUERY
    elif not token:
        reason = Reason.TWO_TOKENS if candidates else Reason.NO_TOKEN
    elif found is None:
        reason = Reason.UNKNOWN_TOKEN
    elif not is_valid:
        reason = Reason.EXPIRED_TOKEN
    elif found.is_disabled:
        reason = Reason.CLIENT_DISABLED
    elif not found.signing_keys:
        return AuthenticatedPayload(found, headers, body)
    elif signed is Signed.YES:
        return AuthenticatedPayload(found, headers, body, signed_id)
    elif signed is Signed.NO and not found.requires_signature:
        return AuthenticatedPayload(found, headers, body)
    else:
        reason = _REASONS[signed]
    raise Unauthenticated(reason, found.name if found and token else None)


def _bearer(value: str) -> str | None:
    scheme, _, token = value.strip(" ").partition(" ")
    return token.strip(" ") if scheme.lower() == "bearer" else None
