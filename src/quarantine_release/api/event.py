"""An API Gateway v1 proxy event as an HTTP request: raw bytes, every header value, the path from /v1/ on. Pure.

Facts about the event: API Gateway developer guide, "Input format of a Lambda function for proxy integration".
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_ROOT: Final = "/v1/"


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """One request. Header names are in lower case; `body` is None where the event's base64 is not base64."""

    method: str
    path: str
    headers: Mapping[str, tuple[str, ...]] = field(repr=False)
    query: Mapping[str, tuple[str, ...]] = field(repr=False)
    body: bytes | None = field(repr=False)
    base_url: str
    gateway_request_id: str


def read_event(event: Mapping[str, Any]) -> HttpRequest:
    """Read a proxy event; members that are absent or null are empty."""
    context = event.get("requestContext") or {}
    headers = _gather(event.get("multiValueHeaders"), event.get("headers"), lower=True)
    prefix, path = _split(event.get("path") or "")
    staged, _ = _split(context.get("path") or event.get("path") or "")
    host = context.get("domainName") or next(iter(headers.get("host", ())), "localhost")
    scheme = next(iter(headers.get("x-forwarded-proto", ())), "https")
    return HttpRequest(
        method=(event.get("httpMethod") or "").upper(),
        path=path,
        headers=headers,
        query=_gather(event.get("multiValueQueryStringParameters"), event.get("queryStringParameters"), lower=False),
        body=_body(event),
        base_url=f"{scheme}://{host}{staged or prefix}",
        gateway_request_id=context.get("requestId") or "",
    )


def _split(path: str) -> tuple[str, str]:
    """Split what a stage or a base-path mapping put before the path from the path itself."""
    at = path.rfind(_ROOT)
    return (path[:at], path[at:].removesuffix("/")) if at >= 0 else ("", path)


def _gather(multiple: Any, single: Any, *, lower: bool) -> dict[str, tuple[str, ...]]:
    gathered: dict[str, tuple[str, ...]] = {}
    pairs = {name: [value] for name, value in (single or {}).items()} | (multiple or {})
    for name, values in pairs.items():
        key = name.lower() if lower else name
        gathered[key] = gathered.get(key, ()) + tuple(str(value) for value in values or () if value is not None)
    return gathered


def _body(event: Mapping[str, Any]) -> bytes | None:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(body).encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError):
        return None
