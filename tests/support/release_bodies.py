"""Bodies of release requests, and what the parser makes of them."""

import json
from typing import Any

import pytest

from quarantine_release.api.authentication import AuthenticatedRequest
from quarantine_release.api.problems import PROBLEMS, InvalidRequest
from quarantine_release.api.release_request import ReleaseRequest, parse_release_request
from quarantine_release.config.clients import Client, Scope
from tests.support.stand_ins import http_request

CLIENT = Client("soar", (), frozenset({Scope.RELEASE}))
HEADER = "<CAF+b=a,c@mail.example.com>"
NARROWED = {
    "ids": HEADER,
    "recipient": "ann@example.com",
    "sender": "example.org",
    "since": "2026-11-01T02:00:00+02:00",
    "expect_count": 2,
}
Headers = dict[str, tuple[str, ...]]


def parse(content: Any, headers: Headers | None = None, client: Client = CLIENT) -> ReleaseRequest:
    """Parse a body: bytes as they are, anything else as JSON."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return parse_release_request(AuthenticatedRequest(client, http_request(headers or {}, body)))


def invalid(content: Any, headers: Headers | None = None, client: Client = CLIENT) -> tuple[str, str]:
    """Return code and field of the refusal."""
    with pytest.raises(InvalidRequest) as refusal:
        parse(content, headers, client)
    assert PROBLEMS[refusal.value.code].status == 400
    return refusal.value.code, refusal.value.field


def id_number(number: int) -> str:
    return f"4Njp3P0STMz{number:05}"
