"""What the headers of a release request say: its idempotency key, its trace id, whether the caller waits. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from quarantine_release.api.problems import InvalidRequest

Headers = Mapping[str, tuple[str, ...]]

_KEY: Final = re.compile(r"\A[\x21-\x7e]{1,255}\Z")
_QUOTED_KEY: Final = re.compile(r'\A"([\x20\x21\x23-\x5b\x5d-\x7e]{1,255})"\Z')
_TRACEPARENT: Final = re.compile(r"\A00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}\Z")
_GATEWAY_TRACE: Final = re.compile(r"\A(?:Self=[^;]{1,64};)?Root=([0-9a-f-]{35})(?:;|\Z)")


def idempotency_key(headers: Headers, signed_id: str | None) -> str | None:
    """Return the key of a request, as sent or as signed. Raises InvalidRequest."""
    key = _sent_key(headers)
    if signed_id is None:
        return key
    # The signed id decides. Otherwise a recorded request, sent again under another key, would be another request.
    if key not in (None, signed_id):
        detail = "The key of a signed request must equal its webhook-id."
        raise InvalidRequest("invalid_idempotency_key", detail, "Idempotency-Key")
    return signed_id


def _sent_key(headers: Headers) -> str | None:
    keys = []
    for name in ("idempotency-key", "webhook-id"):
        values = set(headers.get(name, ()))
        if not values:
            continue
        value = values.pop().strip()
        quoted = _QUOTED_KEY.match(value)
        if values or not (quoted or (_KEY.match(value) and '"' not in value)):
            raise InvalidRequest(
                "invalid_idempotency_key", "The key must be one value of 1 to 255 printable ASCII characters.", name
            )
        keys.append(quoted.group(1) if quoted else value)
    return keys[0] if keys else None


def trace_id(headers: Headers) -> str | None:
    """Return the caller's trace id (W3C Trace Context), or else API Gateway's."""
    for value in headers.get("traceparent", ()):
        traceparent = _TRACEPARENT.match(value)
        if traceparent:
            return traceparent.group(1)
    gateway = _GATEWAY_TRACE.match(next(iter(headers.get("x-amzn-trace-id", ())), ""))
    return gateway.group(1) if gateway else None


def prefers_async(headers: Headers) -> bool:
    """Return whether the caller wants to be answered before the release (RFC 7240, section 4.1)."""
    preferences = ",".join(headers.get("prefer", ())).split(",")
    return any(preference.partition(";")[0].strip().lower() == "respond-async" for preference in preferences)
