"""HTTP to API Gateway's REST proxy event (version 1) and back, without any I/O."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qsl

from local.template import ACCOUNT, REGION

API_ID = "local00000"
STAGE = "live"
# https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-known-issues.html
DROPPED_FROM_REQUESTS = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
FORWARDED = {"x-forwarded-for", "x-forwarded-port", "x-forwarded-proto"}
REMAPPED_IN_ANSWERS = {"authorization", "connection", "content-length", "date", "server", "www-authenticate"}
ANSWER_KEYS = {"statusCode", "headers", "multiValueHeaders", "body", "isBase64Encoded"}
MAX_ANSWER_BYTES = 6 * 1024 * 1024  # Lambda's limit for a synchronous answer
IDENTITY_KEYS = (
    "accessKey", "accountId", "caller", "cognitoAuthenticationProvider", "cognitoAuthenticationType",
    "cognitoIdentityId", "cognitoIdentityPoolId", "principalOrgId", "user", "userArn",
)  # fmt: skip


class MalformedAnswer(Exception):
    """The function answered something that API Gateway turns into 502."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as it came off the wire; `target` is the undecoded path with its query."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    source_ip: str
    port: int
    received_at: datetime

    def header(self, name: str) -> str | None:
        return next((value for each, value in self.headers if each.lower() == name), None)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def proxy_event(request: HttpRequest, request_id: str) -> dict[str, Any]:
    """The event of a REST API without binary media types: the path stays percent-encoded, the query is decoded.

    A path that begins with the stage is a call to the API's own address, and the event's `path` lacks the stage; any
    other is a call through a custom domain. `requestContext.path` is what the client sees in both. A body that is not
    UTF-8 arrives as text with U+FFFD in it, since without binary media types nothing is ever base64-encoded.
    """
    seen_path, _, query = request.target.partition("?")
    path = seen_path.removeprefix(f"/{STAGE}") if f"{seen_path}/".startswith(f"/{STAGE}/") else seen_path
    path = path or "/"
    headers = _headers(request)
    parameters = _grouped(parse_qsl(query, keep_blank_values=True, errors="replace"))
    resource = "/" if path == "/" else "/{proxy+}"
    return {
        "resource": resource,
        "path": path,
        "httpMethod": request.method,
        "headers": _last(headers),
        "multiValueHeaders": headers,
        "queryStringParameters": _last(parameters) or None,
        "multiValueQueryStringParameters": parameters or None,
        "pathParameters": {"proxy": path.lstrip("/")} if resource != "/" else None,
        "stageVariables": None,
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": API_ID,
            "domainName": request.header("host") or f"{API_ID}.execute-api.{REGION}.amazonaws.com",
            "domainPrefix": API_ID,
            "extendedRequestId": base64.b64encode(secrets.token_bytes(11)).decode(),
            "httpMethod": request.method,
            "identity": {
                **dict.fromkeys(IDENTITY_KEYS),
                "sourceIp": request.source_ip,
                "userAgent": request.header("user-agent"),
            },
            "path": seen_path,
            "protocol": "HTTP/1.1",
            "requestId": request_id,
            "requestTime": request.received_at.astimezone(UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "requestTimeEpoch": int(request.received_at.timestamp() * 1000),
            "resourceId": "local0" if resource == "/" else "local1",
            "resourcePath": resource,
            "stage": STAGE,
        },
        "body": request.body.decode("utf-8", "replace") if request.body else None,
        "isBase64Encoded": False,
    }


def http_answer(answer: Any) -> HttpAnswer:
    """Check a function's answer as API Gateway does; raise `MalformedAnswer` where it would answer 502."""
    if not isinstance(answer, dict) or not answer.keys() <= ANSWER_KEYS:
        raise MalformedAnswer("the answer is not a proxy answer")
    status, body = answer.get("statusCode"), answer.get("body")
    if isinstance(status, bool) or not isinstance(status, int) or not 100 <= status <= 599:
        raise MalformedAnswer("statusCode is not an HTTP status")
    if not isinstance(body, str | None):
        raise MalformedAnswer("body is not a string")
    if not isinstance(answer.get("isBase64Encoded", False), bool):
        raise MalformedAnswer("isBase64Encoded is not a boolean")
    # Without binary media types a base64 body is handed on as the text that it is.
    encoded = (body or "").encode()
    if len(encoded) > MAX_ANSWER_BYTES:
        raise MalformedAnswer("the answer is larger than Lambda allows")
    return HttpAnswer(status, tuple(_answer_headers(answer)), encoded)


def _answer_headers(answer: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    given = answer.get("headers"), answer.get("multiValueHeaders")
    if not all(isinstance(each, dict | None) for each in given):
        raise MalformedAnswer("headers are not an object")
    single, multiple = given[0] or {}, given[1] or {}
    if not all(isinstance(values, list) for values in multiple.values()):
        raise MalformedAnswer("multiValueHeaders are not lists")
    merged = {name: [value] for name, value in single.items()} | multiple
    if not any(name.lower() == "content-type" for name in merged):
        merged["Content-Type"] = ["application/json"]
    for name, values in merged.items():
        for value in values:
            text = f"{name}{value}"
            if not isinstance(value, str | int | float) or not text.isascii() or "\r" in text or "\n" in text:
                raise MalformedAnswer("a header is not text")
            yield (f"x-amzn-Remapped-{name}" if name.lower() in REMAPPED_IN_ANSWERS else name), str(value)


def _headers(request: HttpRequest) -> dict[str, list[str]]:
    """What the client sent, and what API Gateway adds about where it came from."""
    dropped = DROPPED_FROM_REQUESTS | FORWARDED
    headers = _grouped((name, value) for name, value in request.headers if name.lower() not in dropped)
    forwarded_for = [value for name, value in request.headers if name.lower() == "x-forwarded-for"]
    headers["X-Forwarded-For"] = [", ".join([*forwarded_for, request.source_ip])]
    headers["X-Forwarded-Port"] = [str(request.port)]  # 443 in AWS; the truth here, so that absolute links work
    headers["X-Forwarded-Proto"] = ["http"]
    if request.header("x-amzn-trace-id") is None:
        headers["X-Amzn-Trace-Id"] = [f"Root=1-{int(request.received_at.timestamp()):08x}-{secrets.token_hex(12)}"]
    return headers


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return grouped


def _last(values: Mapping[str, list[str]]) -> dict[str, str]:
    return {name: each[-1] for name, each in values.items()}
