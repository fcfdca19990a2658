"""An API Gateway event as a request: every header value, raw bytes, the path from /v1/ on, wherever it was called."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.api.event import HttpRequest, read_event

HOST = "abc123.execute-api.us-east-1.amazonaws.com"


def event(path: str = "/v1/releases", **members: Any) -> dict[str, Any]:
    context = {"path": f"/live{path}", "domainName": HOST, "requestId": "gateway-1"}
    return {"path": path, "httpMethod": "POST", "requestContext": context, "isBase64Encoded": False} | members


def test_a_whole_event_is_read() -> None:
    whole = event(
        headers={"Content-Type": "application/json"},
        multiValueHeaders={"Content-Type": ["application/json"]},
        queryStringParameters={"ids": "b"},
        multiValueQueryStringParameters={"ids": ["a", "b"]},
        body='["ä"]',
    )
    assert read_event(whole) == HttpRequest(
        method="POST",
        path="/v1/releases",
        headers={"content-type": ("application/json",)},
        query={"ids": ("a", "b")},
        body='["ä"]'.encode(),
        base_url=f"https://{HOST}/live",
        gateway_request_id="gateway-1",
    )


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"requestContext": None, "headers": None, "multiValueHeaders": None, "body": None, "path": None},
        {"queryStringParameters": None, "multiValueQueryStringParameters": None, "httpMethod": None},
    ],
)
def test_an_event_without_anything_is_an_empty_request(members: dict[str, Any]) -> None:
    assert read_event(members) == HttpRequest("", "", {}, {}, b"", "https://localhost", "")


@pytest.mark.parametrize(
    ("path", "seen_path", "ours", "base_url"),
    [
        ("/v1/releases", "/live/v1/releases", "/v1/releases", f"https://{HOST}/live"),
        ("/live/v1/releases", "/live/v1/releases", "/v1/releases", f"https://{HOST}/live"),
        ("/mail/v1/releases", "/mail/v1/releases", "/v1/releases", f"https://{HOST}/mail"),
        ("/v1/v1/releases", "/v1/v1/releases", "/v1/releases", f"https://{HOST}/v1"),
        ("/v1/releases", "/v1/releases", "/v1/releases", f"https://{HOST}"),
        ("/mail/v1/releases", None, "/v1/releases", f"https://{HOST}/mail"),
        ("/v1/releases/", "/live/v1/releases/", "/v1/releases", f"https://{HOST}/live"),
        ("/v1/messages/a%2Fv1%2Fb", "/live/v1/messages/a%2Fv1%2Fb", "/v1/messages/a%2Fv1%2Fb", f"https://{HOST}/live"),
        ("/v1", "/live/v1", "/v1", f"https://{HOST}"),
        ("/", "/live/", "/", f"https://{HOST}"),
    ],
)
def test_a_stage_or_a_base_path_may_stand_before_the_path(
    path: str, seen_path: str | None, ours: str, base_url: str
) -> None:
    request = read_event(event(path, requestContext={"path": seen_path, "domainName": HOST}))
    assert (request.path, request.base_url) == (ours, base_url)


def test_without_a_domain_name_the_host_header_tells_the_address() -> None:
    headers = {"Host": ["127.0.0.1:8080"], "X-Forwarded-Proto": ["http"]}
    assert read_event(event(requestContext={}, multiValueHeaders=headers)).base_url == "http://127.0.0.1:8080"


def test_every_value_of_a_header_counts_whatever_the_case_of_its_name() -> None:
    multiple = {"X-Api-Key": ["one", "two"], "x-api-key": ["three"], "Empty": [], "Null": None, "Nulls": [None, "n"]}
    request = read_event(event(headers={"X-Api-Key": "two", "Only-Single": "s"}, multiValueHeaders=multiple))
    assert request.headers == {
        "x-api-key": ("one", "two", "three"),
        "only-single": ("s",),
        "empty": (),
        "null": (),
        "nulls": ("n",),
    }


def test_query_parameters_keep_the_case_of_their_names() -> None:
    assert read_event(event(queryStringParameters={"Ids": "a", "ids": "b"})).query == {"Ids": ("a",), "ids": ("b",)}


@given(st.binary())
def test_a_base64_body_is_the_bytes_that_were_sent(raw: bytes) -> None:
    encoded = base64.b64encode(raw).decode()
    assert read_event(event(body=encoded, isBase64Encoded=True)).body == raw


@pytest.mark.parametrize("body", ["a", "????", "WyJh Il0=", "WyJhIl0", "ä===", "WyJhIl0=\n"])
def test_a_body_that_is_not_the_base64_it_is_marked_as_is_none(body: str) -> None:
    assert read_event(event(body=body, isBase64Encoded=True)).body is None


@given(st.text(st.characters(), max_size=20))
def test_any_text_is_bytes(text: str) -> None:
    assert read_event(event(body=text)).body == text.encode("utf-8", "surrogatepass")


def test_a_request_shows_neither_headers_nor_query_nor_body() -> None:
    request = read_event(event(headers={"A": "canary"}, queryStringParameters={"q": "canary"}, body="canary"))
    assert "canary" not in repr(request)
