"""The handler at its edge: what bad input gets, who is let in, what a failure around us is answered and logged as."""

import json
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quarantine_release import telemetry, wiring
from quarantine_release.config.clients import Clients
from quarantine_release.webhook import lambda_handler
from tests.support.deployment import (
    ACCOUNT,
    CLOUDFLARE_SECRET,
    INVESTIGATE_ID,
    MESSAGE,
    Context,
    Deployment,
    client_entry,
    proxy_event,
    set_clock,
    token_of,
)
from tests.support.stand_ins import Clock

BEARER = f"Bearer {token_of('soar')}"
REASON = {"ids": MESSAGE, "force": True, "reason": "false positive"}
KEY = [("Idempotency-Key", "key-1")]
CANARY = "zzcanary"


def test_a_request_releases_the_message_and_leaves_a_trace(deployment: Deployment) -> None:
    answer = deployment.post()
    assert answer.status == 200
    assert answer.body["ok"] is True
    assert [sent.ids for sent in deployment.upstream.releases] == [[MESSAGE]]
    assert {row["pk"]["S"][0] for row in deployment.rows()} == {"R", "M", "T", "A"}
    assert deployment.hints == []


def test_the_largest_body_is_read(deployment: Deployment) -> None:
    assert deployment.post(json.dumps([MESSAGE]).ljust(65_536)).status == 200


def test_a_key_reused_for_another_payload_writes_and_sends_nothing_more(deployment: Deployment) -> None:
    deployment.post([MESSAGE], headers=KEY)
    rows = [deployment.rows(kind) for kind in "RMT"]
    answer = deployment.post([INVESTIGATE_ID], headers=KEY)
    assert (answer.status, answer.code, answer.body["field"]) == (400, "idempotency_key_reused", "Idempotency-Key")
    assert [deployment.rows(kind) for kind in "RMT"] == rows
    assert len(deployment.upstream.requests) == 1
    assert deployment.hints == []


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/releases", "POST, GET"),
        ("OPTIONS", "/v1/releases", "POST, GET"),
        ("", "/v1/releases", "POST, GET"),
        ("POST", "/v1/releases/rq_x", "GET"),
        ("PUT", f"/v1/messages/{MESSAGE}", "GET"),
        ("HEAD", "/v1/health", "GET"),
        ("GET", "/v1/releases/rq_x/cancel", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(deployment: Deployment, method: str, path: str, allow: str) -> None:
    answer = deployment.send(method, path, [MESSAGE])
    assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "method_not_allowed", allow)
    assert deployment.is_untouched


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "",
        "/v1",
        "/v1/",
        "/v2/releases",
        "/v1/release",
        "/V1/releases",
        "/v1/releases/a/b",
        "/v1/releases//cancel",
        "/v1/releases/a/cancel/b",
        "/v1/releases/a/Cancel",
        "/v1/messages/",
        "/v1//releases",
    ],
)
def test_an_unknown_route_is_not_found(deployment: Deployment, path: str) -> None:
    answer = deployment.send("POST", path, [MESSAGE])
    assert (answer.status, answer.code) == (404, "not_found")
    assert deployment.is_untouched


def test_a_stranger_is_not_told_which_routes_there_are(deployment: Deployment) -> None:
    for method, path in (("GET", "/v1/nothing"), ("DELETE", "/v1/releases"), ("GET", "/v1/health")):
        assert deployment.send(method, path, client=None).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        [("Authorization", BEARER)],
        [("authorization", BEARER)],
        [("AUTHORIZATION", BEARER.replace("Bearer", "bearer"))],
        [("X-Api-Key", token_of("soar"))],
        [("Authorization", BEARER), ("x-api-key", token_of("soar"))],
    ],
)
def test_a_token_may_come_in_either_header_however_it_is_written(
    deployment: Deployment, headers: list[tuple[str, str]]
) -> None:
    assert deployment.post(client=None, headers=headers).status == 200


def test_any_content_type_but_multipart_is_read_as_json(deployment: Deployment) -> None:
    for content_type in ("text/plain", "application/x-www-form-urlencoded", ""):
        assert deployment.post(headers=[("Content-Type", content_type)]).status == 200


def test_a_body_may_come_as_base64(deployment: Deployment) -> None:
    body = b64encode(json.dumps([MESSAGE]).encode()).decode()
    assert deployment.post(body, is_base64=True).status == 200


@pytest.mark.parametrize(
    ("path", "stage", "location"),
    [
        ("/v1/releases", "/live", "https://abc123.execute-api.us-east-1.amazonaws.com/live/v1/releases/"),
        ("/live/v1/releases", "", "https://abc123.execute-api.us-east-1.amazonaws.com/live/v1/releases/"),
        ("/mail/v1/releases/", "", "https://abc123.execute-api.us-east-1.amazonaws.com/mail/v1/releases/"),
        ("/v1/releases", "", "https://abc123.execute-api.us-east-1.amazonaws.com/v1/releases/"),
    ],
)
def test_a_stage_or_base_path_in_the_path_leads_to_the_same_place_and_back(
    deployment: Deployment, path: str, stage: str, location: str
) -> None:
    deployment.upstream.answers.append(None)
    answer = deployment.send("POST", path, [MESSAGE], stage=stage)
    assert answer.status == 202
    assert answer.headers["Location"] == location + answer.body["request_id"]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that the deployment goes by."""
    return set_clock(monkeypatch)


def test_a_new_token_is_known_at_once_and_the_old_one_until_the_cache_has_passed(
    deployment: Deployment, now: Clock
) -> None:
    old, new = token_of("soar"), "soar-secret-canary-of-today"
    assert deployment.post().status == 200
    deployment.put_secret("clients", {"clients": [client_entry("soar", new)]})
    assert deployment.post(headers=[("Authorization", f"Bearer {old}")], client=None).status == 200
    assert deployment.post(headers=[("Authorization", f"Bearer {new}")], client=None).status == 200
    now.move(seconds=301)
    assert deployment.post(headers=[("Authorization", f"Bearer {old}")], client=None).status == 401
    assert deployment.post(headers=[("Authorization", f"Bearer {new}")], client=None).status == 200


def test_while_two_tokens_are_valid_no_request_is_dropped(deployment: Deployment, now: Clock) -> None:
    second = "soar-secret-canary-of-tomorrow"
    deployment.put_secret("clients", {"clients": [client_entry("soar", token_of("soar"), second)]})
    for token in (token_of("soar"), second):
        assert deployment.post(headers=[("x-api-key", token)], client=None).status == 200
    now.move(seconds=301)
    assert deployment.post(headers=[("x-api-key", second)], client=None).status == 200


def test_wrong_tokens_make_the_secret_be_fetched_at_most_once_in_30_seconds(
    deployment: Deployment, now: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetches = []
    parse = wiring._parse_clients

    def parse_and_count(document: str) -> Clients:
        fetches.append(document)
        return parse(document)

    monkeypatch.setattr(wiring, "_parse_clients", parse_and_count)
    for _ in range(20):
        assert deployment.post(client="nobody").status == 401
    assert len(fetches) == 2
    now.move(seconds=31)
    assert deployment.post(client="nobody").status == 401
    assert len(fetches) == 3


@pytest.mark.parametrize("name", ["cloudflare", "clients"])
def test_the_log_says_which_secret_is_missing(deployment: Deployment, name: str) -> None:
    deployment.delete_secret(name)
    answer = deployment.post()
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "secrets_unavailable", "10")
    (logged,) = deployment.events("secret_unusable")
    assert (logged["secret"], logged["problem"]) == (name, "cannot be fetched: ResourceNotFoundException")
    assert deployment.is_untouched


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("clients", "{}", "is empty: it was never set"),
        ("clients", f"{{{CANARY}", "is not JSON"),
        ("clients", {CANARY: []}, "clients: must be a list"),
        ("cloudflare", "{}", "is empty: it was never set"),
        ("cloudflare", f'["{CANARY}"]', "is not a JSON object"),
        ("cloudflare", {"account_id": CANARY}, "account_id: must be 32 lower-case hexadecimal digits"),
        ("cloudflare", CLOUDFLARE_SECRET | {"api_token": f"{CANARY} "}, "api_token: must be 1 to 1024 printable ASCII"),
    ],
)
def test_the_log_says_which_secret_is_wrong_and_how_and_not_its_value(
    deployment: Deployment, name: str, content: Any, problem: str
) -> None:
    deployment.put_secret(name, content)
    answer = deployment.post()
    assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, f"{name}_not_configured", "60")
    assert answer.body["retryable"] is True
    (logged,) = deployment.events("secret_unusable")
    assert logged["secret"] == name
    assert logged["problem"].startswith(problem)
    assert CANARY not in deployment.log
    assert CANARY not in str(answer)
    assert deployment.is_untouched


def test_an_invalid_client_is_disabled_logged_by_name_and_counted_and_the_others_work(
    deployment: Deployment, capsys: pytest.CaptureFixture[str]
) -> None:
    invalid = client_entry("other", scopes=[CANARY])
    deployment.put_secret("clients", {"clients": [client_entry("soar"), invalid]})
    assert deployment.post().status == 200
    assert '"ClientDisabled":[1.0]' in capsys.readouterr().out
    (logged,) = deployment.events("client_disabled")
    assert logged["client"] == "other"
    assert logged["problem"].startswith("scopes: must be of ")
    assert deployment.post(client="other").status == 401
    assert CANARY not in deployment.log


def test_a_ledger_out_of_reach_is_told_with_its_error_code_in_the_log_alone(deployment: Deployment) -> None:
    deployment.delete_table()
    answer = deployment.post()
    assert (answer.status, answer.code, answer.body["retryable"]) == (503, "ledger_unavailable", True)
    assert answer.headers["Retry-After"] == "10"
    assert [event["code"] for event in deployment.events("ledger_unavailable")] == ["ResourceNotFoundException"]
    assert "ResourceNotFound" not in str(answer)
    assert not deployment.upstream.requests


def test_an_environment_that_is_not_complete_is_told_by_name_in_the_log(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TABLE_NAME")
    with pytest.raises(telemetry.Unhandled, match=r"^SettingsInvalid$"):
        deployment.post()
    (logged,) = deployment.events("unhandled")
    assert (logged["error_type"], logged["settings"]) == ("SettingsInvalid", "TABLE_NAME is not set")


def test_what_nobody_foresaw_is_raised_and_logged_without_its_text(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> Any:
        raise RuntimeError(CANARY)

    monkeypatch.setattr(wiring, "clients", fail)
    with pytest.raises(telemetry.Unhandled, match=r"^RuntimeError$") as raised:
        deployment.post()
    assert raised.value.__suppress_context__
    assert raised.value.__cause__ is None
    (logged,) = deployment.events("unhandled")
    assert logged["error_type"] == "RuntimeError"
    assert logged["at"][0].startswith("webhook.py:")
    assert CANARY not in deployment.log


def test_an_event_that_is_no_event_is_an_unforeseen_error_like_any_other(deployment: Deployment) -> None:
    with pytest.raises(telemetry.Unhandled):
        lambda_handler({"headers": [CANARY]}, Context(20))
    assert CANARY not in deployment.log


def test_every_request_is_counted(deployment: Deployment, capsys: pytest.CaptureFixture[str]) -> None:
    deployment.post()
    deployment.post(client=None)
    counted = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [metrics["Requests"] for metrics in counted] == [[1.0], [1.0]]
    assert [metrics.get("Declined") for metrics in counted] == [None, [1.0]]
    assert counted[0]["Released"] == [1.0]


def test_a_release_is_logged_once_and_for_the_siem_to_read(deployment: Deployment) -> None:
    answer = deployment.post({"ids": MESSAGE, "ticket": "INC-1", "reason": CANARY, "requested_by": CANARY})
    deployment.post()
    (logged,) = deployment.events("release_outcome")
    expected = {
        "message_key": f"M#{ACCOUNT}#{MESSAGE}",
        "outcome": "RELEASED",
        "client": "soar",
        "ticket": "INC-1",
        "request": answer.body["request_id"],
    }
    assert expected.items() <= logged.items()
    assert CANARY not in deployment.log


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(["put", "drop", "set"]), st.integers(0, 10_000), st.integers(0, 255)), max_size=4
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    MUTATIONS,
    st.sampled_from(["POST", "GET", "PUT"]),
    st.sampled_from(["/v1/releases", "/v1/releases/", "/v1/messages/%FF", "/v1/health", "/"]),
    st.lists(
        st.tuples(st.sampled_from(["Idempotency-Key", "Content-Type", "X-Api-Key"]), st.text(max_size=8)), max_size=2
    ),
    st.booleans(),
)
def test_whatever_a_stranger_sends_is_answered_401_and_touches_nothing(
    deployment: Deployment,
    mutations: list[tuple[str, int, int]],
    method: str,
    path: str,
    headers: list[tuple[str, str]],
    is_base64: bool,
) -> None:
    body = mutated(json.dumps({"ids": [MESSAGE]}).encode(), mutations)
    text = b64encode(body).decode() if is_base64 else body.decode("latin-1")
    answer = deployment.handle(proxy_event(method, path, headers=headers, body=text, is_base64=is_base64))
    assert answer.status == 401
    assert deployment.is_untouched
    assert set(deployment.aws_calls) <= {"GetSecretValue"}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MUTATIONS)
def test_whatever_a_client_sends_is_answered_without_an_error_of_ours(
    deployment: Deployment, mutations: list[tuple[str, int, int]]
) -> None:
    valid = {"ids": [MESSAGE], "reason": "false positive", "force": "false", "fail_on": "never", "note": {"a": []}}
    answer = deployment.post(mutated(json.dumps(valid).encode(), mutations))
    assert answer.status in (200, 400, 403)


def mutated(body: bytes, mutations: list[tuple[str, int, int]]) -> bytes:
    """Return the body with bytes put in, dropped and set."""
    for how, position, value in mutations:
        at = position % (len(body) + 1)
        put = b"" if how == "drop" else bytes([value])
        body = body[:at] + put + body[at + (how != "put") :]
    return body
