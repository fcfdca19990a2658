"""The local stack behaves as API Gateway and Lambda do: true events, checked answers, one event a process at a time."""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from local.children import CHECKOUT, CannotStart
from local.gateway import Gateway, Refused
from local.handlers import HandlerFailed, HandlerPool
from local.http_server import listen, url_of
from local.options import PLACEHOLDER_ACCOUNT, Options
from local.proxy_event import MalformedAnswer, http_answer
from local.schedule import Schedule
from local.stack import Stack
from local.template import Function, Template
from quarantine_release.config.clients import parse_clients
from quarantine_release.config.settings import Settings, SettingsInvalid

TIMEOUT = 15
HANDLER = """
    import json, os, time

    def lambda_handler(event, context):
        query = event["queryStringParameters"] or {}
        started = time.monotonic()
        if "note" in query:
            with open(query["note"] + ".tmp", "w") as note:
                note.write(str(os.getpid()))
            os.rename(query["note"] + ".tmp", query["note"])
        if "sleep" in query:
            time.sleep(float(query["sleep"]))
        if "exit" in query:
            os._exit(3)
        if "raise" in query:
            raise ValueError("a secret detail")
        if "answer" in query:
            return json.loads(query["answer"])
        seen = {
            "event": event,
            "pid": os.getpid(),
            "span": [started, time.monotonic()],
            "environment": dict(os.environ),
            "context": [
                context.function_name, context.memory_limit_in_mb, context.invoked_function_arn, context.aws_request_id
            ],
            "left": context.get_remaining_time_in_millis(),
        }
        print("handled", context.aws_request_id)
        return {"statusCode": 201, "headers": {"Content-Type": "application/json"}, "body": json.dumps(seen)}

    def reconcile(event, context):
        started = time.monotonic()
        time.sleep(0.15)
        seen = {"event": event, "pid": os.getpid(), "span": [started, time.monotonic()], "name": context.function_name}
        print("scheduled", json.dumps(seen))
"""
TEMPLATE = """
    Globals:
      Function:
        Timeout: 2
        MemorySize: 256
        Environment:
          Variables: {TABLE_NAME: !Ref Ledger, LEASE_SECONDS: "90", CLOUDFLARE_API_BASE_URL: https://example.com}
    Resources:
      WebhookFunction:
        Type: AWS::Serverless::Function
        Properties: {Handler: stub.lambda_handler}
      ReconcilerFunction:
        Type: AWS::Serverless::Function
        Properties: {Handler: stub.reconcile}
      Ledger:
        Type: AWS::DynamoDB::Table
        Properties:
          BillingMode: PAY_PER_REQUEST
          KeySchema: [{AttributeName: pk, KeyType: HASH}]
          AttributeDefinitions: [{AttributeName: pk, AttributeType: S}]
      CloudflareSecret: {Type: AWS::SecretsManager::Secret}
      ClientsSecret: {Type: AWS::SecretsManager::Secret}
      Api:
        Type: AWS::Serverless::Api
        Properties:
          DefinitionBody:
            x-amazon-apigateway-gateway-responses:
              DEFAULT_5XX:
                responseParameters: {gatewayresponse.header.Content-Type: "'application/problem+json'"}
                responseTemplates: {application/json: '{"code": "gateway_error", "request_id": "$context.requestId"}'}
              DEFAULT_4XX:
                responseTemplates: {application/json: '{"code": "gateway_refused", "request_id": "$context.requestId"}'}
              REQUEST_TOO_LARGE:
                responseTemplates: {application/json: '{"code": "body_too_large", "request_id": "$context.requestId"}'}
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "stub.py").write_text(textwrap.dedent(HANDLER))
    (folder / "template.yaml").write_text(textwrap.dedent(TEMPLATE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_PROFILE", "of-the-person")
        patch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
        patch.setenv("CLOUDFLARE_API_TOKEN", "of-the-person")
        stack = Stack(
            {"PORT": "0", "LEASE_SECONDS": "3", "RECONCILE_EVERY_SECONDS": "0.1"},
            folder=folder,
            template=folder / "template.yaml",
            code=folder,
            processes=3,
        )
        stack.__enter__()
    yield stack
    stack.stop()


def test_the_event_is_that_of_a_rest_api(stack: Stack) -> None:
    seen = _raw(
        stack,
        "POST",
        "/v1/messages/4Njp%2DP0?ids=a&ids=b%2Cc&name=%C3%A9+x&empty=",
        body=b'["x"]',
        headers=[("X-Twice", "1"), ("X-Twice", "2"), ("X-Forwarded-For", "192.0.2.1"), ("Connection", "keep-alive")],
    )["event"]

    assert (seen["resource"], seen["path"], seen["httpMethod"]) == ("/{proxy+}", "/v1/messages/4Njp%2DP0", "POST")
    assert seen["pathParameters"] == {"proxy": "v1/messages/4Njp%2DP0"}
    assert seen["stageVariables"] is None
    assert seen["queryStringParameters"] == {"ids": "b,c", "name": "é x", "empty": ""}
    assert seen["multiValueQueryStringParameters"] == {"ids": ["a", "b,c"], "name": ["é x"], "empty": [""]}
    assert (seen["headers"]["X-Twice"], seen["multiValueHeaders"]["X-Twice"]) == ("2", ["1", "2"])
    assert seen["headers"]["X-Forwarded-For"] == "192.0.2.1, 127.0.0.1"
    assert re.fullmatch(r"Root=1-[0-9a-f]{8}-[0-9a-f]{24}", seen["headers"]["X-Amzn-Trace-Id"])
    assert "Connection" not in seen["headers"]
    assert (seen["body"], seen["isBase64Encoded"]) == ('["x"]', False)
    context = seen["requestContext"]
    assert (context["stage"], context["path"]) == ("live", "/v1/messages/4Njp%2DP0")
    assert (context["identity"]["sourceIp"], context["protocol"]) == ("127.0.0.1", "HTTP/1.1")
    assert abs(context["requestTimeEpoch"] / 1000 - time.time()) < TIMEOUT
    assert all(context[name] for name in ("requestId", "extendedRequestId", "apiId", "accountId", "domainName"))


def test_what_is_empty_is_null(stack: Stack) -> None:
    seen = _raw(stack, "GET", "/")["event"]

    assert seen["resource"] == "/"
    names = ("pathParameters", "queryStringParameters", "multiValueQueryStringParameters", "body")
    assert [seen[name] for name in names] == [None] * 4


def test_a_call_to_the_apis_own_address_has_the_stage_in_its_context_only(stack: Stack) -> None:
    seen = _raw(stack, "GET", "/live/v1/health")["event"]

    assert (seen["path"], seen["requestContext"]["path"]) == ("/v1/health", "/live/v1/health")


def test_a_body_that_is_not_utf8_arrives_as_text(stack: Stack) -> None:
    seen = _raw(stack, "POST", "/", body=b"\xff[]")["event"]

    assert (seen["body"], seen["isBase64Encoded"]) == ("�[]", False)


def test_a_chunked_body_arrives_whole(stack: Stack) -> None:
    answer = requests.post(stack.base_url, data=iter([b"[1,", b"2]"]), timeout=TIMEOUT)

    assert answer.json()["event"]["body"] == "[1,2]"


def test_the_processes_see_what_the_template_says_and_nothing_of_the_person(stack: Stack) -> None:
    seen = _raw(stack, "GET", "/")
    environment = seen["environment"]

    expected = {
        "TABLE_NAME": "Ledger",
        "LEASE_SECONDS": "3",
        "CLOUDFLARE_API_BASE_URL": f"{stack.simulator_url}/client/v4",
        "AWS_ENDPOINT_URL": stack.aws_url,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_LAMBDA_FUNCTION_NAME": "WebhookFunction",
    }
    assert {name: environment.get(name) for name in expected} == expected
    assert not {"AWS_PROFILE", "HTTP_PROXY", "CLOUDFLARE_API_TOKEN"} & environment.keys()
    assert seen["context"][:2] == ["WebhookFunction", 256]
    assert seen["context"][2].endswith(":function:WebhookFunction")
    assert seen["context"][3] in stack.log_path.read_text()


def test_each_process_takes_one_event_at_a_time(stack: Stack) -> None:
    with ThreadPoolExecutor(12) as threads:
        seen = list(threads.map(lambda _: _raw(stack, "GET", "/?sleep=0.05"), range(12)))

    spans: dict[int, list[list[float]]] = {}
    for each in seen:
        spans.setdefault(each["pid"], []).append(each["span"])
    assert len(spans) > 1
    for own in spans.values():
        own.sort()
        assert all(earlier[1] <= later[0] for earlier, later in pairwise(own))


def test_the_remaining_time_counts_down_from_the_timeout(stack: Stack) -> None:
    assert 0 < _raw(stack, "GET", "/?sleep=0.3")["left"] < 1710


@pytest.mark.parametrize("failure", ["raise=1", "exit=1", "sleep=9"])
def test_a_handler_that_fails_is_a_502_and_the_next_request_succeeds(stack: Stack, failure: str) -> None:
    answer = requests.get(f"{stack.base_url}/?{failure}", timeout=TIMEOUT)

    request_id = answer.headers["x-amzn-RequestId"]
    assert (answer.status_code, answer.json()) == (502, {"code": "gateway_error", "request_id": request_id})
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.elapsed.total_seconds() < 9
    assert _raw(stack, "GET", "/")["pid"]


def test_a_process_killed_while_idle_costs_no_request(stack: Stack) -> None:
    for pid in {_raw(stack, "GET", "/?sleep=0.02")["pid"] for _ in range(9)}:
        os.kill(pid, signal.SIGKILL)

    assert _raw(stack, "GET", "/")["pid"]


def test_a_process_killed_at_work_is_a_502_and_is_replaced(stack: Stack, tmp_path: Path) -> None:
    note = tmp_path / "at-work"

    with ThreadPoolExecutor(1) as threads:
        slow = threads.submit(requests.get, stack.base_url, {"note": str(note), "sleep": "9"}, timeout=TIMEOUT)
        _wait_until(note.exists)
        at_work = int(note.read_text())
        with suppress(ProcessLookupError):  # on a busy machine it may have run out of time already
            os.kill(at_work, signal.SIGKILL)
        assert slow.result().status_code == 502

    _wait_until(lambda: at_work not in stack.pids("webhook") and len(stack.pids("webhook")) == 3)
    assert _raw(stack, "GET", "/")["pid"] != at_work


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {},
        {"statusCode": "200"},
        {"statusCode": True},
        {"statusCode": 99},
        {"statusCode": 200, "body": {}},
        {"statusCode": 200, "isBase64Encoded": "no"},
        {"statusCode": 200, "headers": []},
        {"statusCode": 200, "headers": {"X": None}},
        {"statusCode": 200, "headers": {"X": "a\r\nY: b"}},
        {"statusCode": 200, "headers": {"X": "\u2028"}},
        {"statusCode": 200, "multiValueHeaders": {"X": "a"}},
        {"statusCode": 200, "cookies": []},
        {"statusCode": 200, "body": "x" * (6 * 1024 * 1024 + 1)},
    ],
    ids=lambda answer: json.dumps(answer)[:40],
)
def test_a_malformed_answer_is_told_apart(answer: Any) -> None:
    with pytest.raises(MalformedAnswer):
        http_answer(answer)


def test_a_malformed_answer_is_a_502(stack: Stack) -> None:
    assert requests.get(stack.base_url, {"answer": '{"status": 200}'}, timeout=TIMEOUT).status_code == 502


def test_headers_of_the_answer_are_passed_on_or_renamed_as_api_gateway_does(stack: Stack) -> None:
    function_answer = {
        "statusCode": 401,
        "headers": {"WWW-Authenticate": "Bearer", "X-Number": 7},
        "multiValueHeaders": {"X-List": ["a", "b"]},
        "body": None,
    }

    answer = requests.get(stack.base_url, {"answer": json.dumps(function_answer)}, timeout=TIMEOUT)

    assert (answer.status_code, answer.content) == (401, b"")
    assert answer.headers["x-amzn-Remapped-WWW-Authenticate"] == "Bearer"
    assert (answer.headers["X-Number"], answer.headers["X-List"]) == ("7", "a, b")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["x-amzn-RequestId"]


def test_a_connection_serves_request_after_request(stack: Stack) -> None:
    connection = http.client.HTTPConnection(urlsplit(stack.base_url).netloc, timeout=TIMEOUT)
    sockets = set()
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        connection.request(method, "/?raise=1" if method == "GET" else "/")
        answer = connection.getresponse()
        assert bool(answer.read()) == (method != "HEAD")
        sockets.add(connection.sock)
    connection.close()

    assert len(sockets) == 1


def test_too_large_a_body_is_the_gateways_413(stack: Stack) -> None:
    answer = requests.post(stack.base_url, b"x" * (10 * 1024 * 1024 + 1), timeout=TIMEOUT)

    request_id = answer.headers["x-amzn-RequestId"]
    assert (answer.status_code, answer.json()) == (413, {"code": "body_too_large", "request_id": request_id})


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: ten\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"BREW / HTTP/1.1\r\n\r\n",
    ],
)
def test_what_cannot_be_read_is_refused(stack: Stack, request_bytes: bytes) -> None:
    parts = urlsplit(stack.base_url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=TIMEOUT) as connection:
        connection.sendall(request_bytes)
        answer = connection.recv(65536)

    assert re.match(rb"HTTP/1\.1 (4\d\d|501) ", answer)
    head, _, body = answer.decode().partition("\r\n\r\n")
    request_id = re.findall(r"x-amzn-RequestId: (\S{36})", head)[0]
    assert json.loads(body) == {"code": "gateway_refused", "request_id": request_id}


def test_no_variable_is_left_in_what_the_gateway_says_by_itself() -> None:
    responses = Template.read(CHECKOUT / "template.yaml").gateway_responses()
    gateway = Gateway(listen(), lambda _event: Future(), responses)
    gateway.socket.close()

    for kind in responses:
        answer = gateway.own_answer(Refused(400, kind), "the-id")
        assert json.loads(answer.body)["request_id"] == "the-id"
        assert "$" not in f"{answer.headers}{answer.body.decode()}"


def test_no_answer_in_time_is_a_504_and_what_has_not_begun_is_not_done_any_more() -> None:
    never: Future[Any] = Future()
    gateway = Gateway(listen(), lambda _event: never, {}, timeout_seconds=0.2)
    gateway.start()
    try:
        answer = requests.get(url_of(gateway.socket), timeout=TIMEOUT)
    finally:
        gateway.stop()

    assert answer.status_code == 504
    assert never.cancelled()


def test_the_reconciler_gets_scheduled_events_in_a_process_of_its_own(stack: Stack) -> None:
    first, second = _scheduled(stack, 2)[:2]

    event = first["event"]
    assert set(event) == {
        "version", "id", "detail-type", "source", "account", "time", "region", "resources", "detail",
    }  # fmt: skip
    assert (event["version"], event["detail-type"], event["source"]) == ("0", "Scheduled Event", "aws.events")
    assert (event["detail"], event["region"], event["account"]) == ({}, "us-east-1", "123456789012")
    assert re.fullmatch(r"arn:aws:events:us-east-1:123456789012:rule/\S+", event["resources"][0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", event["time"])
    assert event["id"] != second["event"]["id"]
    assert first["name"] == "ReconcilerFunction"
    assert first["pid"] not in stack.pids("webhook")


def test_of_the_reconciler_no_two_are_at_work_at_once(stack: Stack) -> None:
    spans = [each["span"] for each in _scheduled(stack, 4)]

    assert all(earlier[1] <= later[0] for earlier, later in pairwise(spans))


def test_a_reconciler_killed_at_work_is_replaced_and_gets_the_next_event(stack: Stack) -> None:
    (killed,) = stack.pids("reconciler")

    os.kill(killed, signal.SIGKILL)

    before = len(_scheduled(stack, 1))
    assert _scheduled(stack, before + 2)[-1]["pid"] != killed


def test_an_event_that_falls_due_while_another_is_at_work_is_left_out() -> None:
    submitted: list[Future[Any]] = []

    def submit(_event: object) -> Future[Any]:
        submitted.append(Future())
        return submitted[-1]

    schedule = Schedule("rule", submit, 0.05)
    try:
        _wait_until(lambda: submitted)
        time.sleep(0.3)
        assert len(submitted) == 1
        submitted[0].set_exception(HandlerFailed())
        _wait_until(lambda: len(submitted) == 2)
        began = time.monotonic()
    finally:
        schedule.stop()

    assert time.monotonic() - began < 5
    submitted[1].set_result(None)
    time.sleep(0.1)
    assert len(submitted) == 2


def test_the_reconciler_of_make_run_is_as_often_at_work_as_the_deployed_one() -> None:
    template = yaml.load((CHECKOUT / "template.yaml").read_text("utf-8"), yaml.BaseLoader)  # noqa: S506
    events = template["Resources"]["ReconcilerFunction"]["Properties"]["Events"]

    (schedule,) = (event["Properties"]["Schedule"] for event in events.values() if event["Type"] == "Schedule")

    assert schedule == "rate(1 minute)"
    assert Options.from_environment({}).reconcile_every_seconds == 60


def test_the_token_is_its_owners_only(stack: Stack) -> None:
    assert stack.token_path.read_text() == stack.token
    assert stat.S_IMODE(stack.token_path.stat().st_mode) == 0o600


@pytest.mark.parametrize("is_ready", [True, False])
def test_processes_that_are_stopped_leave_no_word_in_the_log(tmp_path: Path, is_ready: bool) -> None:
    (tmp_path / "stub.py").write_text(textwrap.dedent(HANDLER))
    function = Function("Idle", "stub.lambda_handler", timeout_seconds=2, memory_mb=128, environment={})
    log = tmp_path / "handlers.log"
    pool = HandlerPool("idle", function, environment={}, code=tmp_path, log=log, size=2)
    if is_ready:
        pool.wait_until_ready()
    else:
        time.sleep(0.1)

    pool.stop()

    assert log.read_text() == ""
    assert pool.pids() == []


def test_a_handler_that_cannot_be_loaded_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "stub.py").write_text("raise RuntimeError('not today')")
    (tmp_path / "template.yaml").write_text(textwrap.dedent(TEMPLATE))

    stack = Stack({"PORT": "0"}, folder=tmp_path, template=tmp_path / "template.yaml", code=tmp_path, processes=2)
    with pytest.raises(CannotStart, match=r"The webhook handler could not be loaded; the reason is in .*handlers\.log"):
        stack.__enter__()

    assert "not today" in stack.log_path.read_text()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"PORT": "x"}, "PORT must be"),
        ({"PORT": "70000"}, "PORT must be"),
        (
            {"CLOUDFLARE_API_BASE_URL": "https://api.cloudflare.com/client/v4"},
            "CLOUDFLARE_ACCOUNT_ID and CLOUDFLARE_API_TOKEN",
        ),
        ({"CLOUDFLARE_API_BASE_URL": "https://x.org", "CLOUDFLARE_API_TOKEN": "t"}, "set CLOUDFLARE_ACCOUNT_ID too"),
        ({"CLOUDFLARE_API_BASE_URL": "https://x.org", "CLOUDFLARE_ACCOUNT_ID": "a" * 32}, "set CLOUDFLARE_API_TOKEN"),
        ({"CLOUDFLARE_API_BASE_URL": "http://x.org"}, "https"),
        ({"CLOUDFLARE_API_BASE_URL": "x.org"}, "http or https"),
        ({"CLOUDFLARE_API_BASE_URL": "http://127.0.0.1:port"}, "http or https"),
        ({"CLOUDFLARE_API_BASE_URL": "https://me:secret@x.org"}, "without a password"),
        ({"CLOUDFLARE_ACCOUNT_ID": "abc"}, "32 hexadecimal"),
        ({"CLOUDFLARE_API_EMAIL": "a@b.c"}, "CLOUDFLARE_API_KEY is missing"),
        ({"CLOUDFLARE_API_KEY": "k"}, "CLOUDFLARE_API_EMAIL is missing"),
        ({"CLOUDFLARE_API_TOKEN": "t", "CLOUDFLARE_API_KEY": "k"}, "not both"),
        ({"QUARANTINE_RELEASE_TOKEN": "two words"}, "QUARANTINE_RELEASE_TOKEN must"),
        (
            {"QUARANTINE_RELEASE_SIGNING_SECRET": "short"},
            r"QUARANTINE_RELEASE_SIGNING_SECRET must be whsec_ and base64 of 24 to 64 bytes\.",
        ),
        ({"LEASE_SECONDS": "0"}, "LEASE_SECONDS must be a whole number between 1 and 99999"),
        ({"LEASE_SECONDS": "1.5"}, "LEASE_SECONDS must be"),
        ({"SETTLE_SECONDS": "x"}, "SETTLE_SECONDS must be a whole number"),
        ({"SETTLE_SECONDS": "100000"}, "SETTLE_SECONDS must be"),
        ({"EXPIRE_AFTER": "24"}, "EXPIRE_AFTER must be a number of hours or seconds, such as 24h or 90s"),
        ({"CLOUDFLARE_WIRE_FORM": "list"}, "CLOUDFLARE_WIRE_FORM must be auto, array or object"),
        ({"RECONCILE_EVERY_SECONDS": "0"}, r"RECONCILE_EVERY_SECONDS must be a number between 0\.1 and 99999"),
        ({"RECONCILE_EVERY_SECONDS": "0.09"}, "RECONCILE_EVERY_SECONDS must be"),
        ({"RECONCILE_EVERY_SECONDS": "nan"}, "RECONCILE_EVERY_SECONDS must be"),
        ({"RECONCILE_EVERY_SECONDS": "1e3"}, "RECONCILE_EVERY_SECONDS must be"),
        ({"RECONCILE_EVERY_SECONDS": "-5"}, "RECONCILE_EVERY_SECONDS must be"),
        ({"RECONCILE_EVERY_SECONDS": "99999.5"}, "RECONCILE_EVERY_SECONDS must be"),
    ],
)
def test_what_is_missing_or_wrong_is_said_in_one_sentence(environment: dict[str, str], words: str) -> None:
    with pytest.raises(CannotStart, match=words) as refusal:
        Options.from_environment(environment)

    assert str(refusal.value).count(". ") == 0
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        (
            "CLOUDFLARE_API_BASE_URL",
            (
                "https://api.cloudflare.com/client/v4", "https://127.0.0.1", "https://x.org:8443", "HTTPS://X.org",
                "http://localhost:9", "http://LOCALHOST", "http://127.0.0.1", "http://[::1]:9/client/v4",
                "http://127.9.9.9", "http://[::2]", "http://[0:0:0:0:0:0:0:1]", "http://localhost.x.org", "http://x.org",
                "http://127.0.0.1.x.org", "http://0.0.0.0", "http://2130706433", "http://localhost.", "ftp://x.org",
                "https://", "https:///x", "https:x.org", "x.org", "http://[::1", "file:///etc/passwd", "https://é.org",
            ),
        ),
        ("CLOUDFLARE_WIRE_FORM", ("auto", "array", "object", "Auto", "none")),
        ("LEASE_SECONDS", ("1", "90", "99999", "100000", "0", "007", "-1", "1.5", "1_0", "٣", "x")),
        ("SETTLE_SECONDS", ("1", "90", "99999", "100000", "0", "007", "-1", "1.5", "1_0", "٣", "x")),
        ("EXPIRE_AFTER", ("1h", "999h", "1000h", "99999s", "100000s", "0h", "07s", "-1h", "1.5h", "24", "1m", "x")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_the_functions_take_is_taken_and_nothing_else(name: str, values: tuple[str, ...]) -> None:
    credential = {"CLOUDFLARE_ACCOUNT_ID": "a" * 32, "CLOUDFLARE_API_TOKEN": "t"}
    functions = Template.read(CHECKOUT / "template.yaml").functions()
    deployed = functions["WebhookFunction"].environment

    def is_taken(read: Callable[[dict[str, str]], object], environment: dict[str, str]) -> bool:
        try:
            read(environment)
        except (CannotStart, SettingsInvalid):
            return False
        return True

    def both(value: str) -> tuple[bool, bool]:
        here = is_taken(Options.from_environment, {**credential, name: value})
        return here, is_taken(Settings.from_env, {**deployed, name: value})

    taken = {value: both(value) for value in values}
    assert {value: here for value, (here, _) in taken.items()} == {value: there for value, (_, there) in taken.items()}
    assert {here for here, _ in taken.values()} == {True, False}


@pytest.mark.parametrize(("text", "seconds"), [("", 60), ("0.1", 0.1), ("2.5", 2.5), ("99999", 99999)])
def test_the_reconciler_runs_as_often_as_told(text: str, seconds: float) -> None:
    assert Options.from_environment({"RECONCILE_EVERY_SECONDS": text}).reconcile_every_seconds == seconds


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_an_upstream_on_this_machine_gets_placeholders(host: str) -> None:
    options = Options.from_environment({"CLOUDFLARE_API_BASE_URL": f"http://{host}:9/client/v4", "PORT": ""})

    assert json.loads(options.cloudflare_secret()) == {
        "account_id": PLACEHOLDER_ACCOUNT,
        "api_token": "simulator-token",
    }
    assert options.port == 8080


def test_either_credential_goes_into_the_secret_and_neither_into_the_repr() -> None:
    by_key = {"CLOUDFLARE_API_EMAIL": "a@b.c", "CLOUDFLARE_API_KEY": "a-global-key"}
    options = Options.from_environment(
        {**by_key, "CLOUDFLARE_ACCOUNT_ID": "a" * 32, "QUARANTINE_RELEASE_TOKEN": "my-own-token"}
    )

    assert json.loads(options.cloudflare_secret()) == {
        "account_id": "a" * 32,
        "api_email": "a@b.c",
        "api_key": "a-global-key",
    }
    assert "a-global-key" not in repr(options)
    assert "my-own-token" not in repr(options)


def test_with_a_signing_secret_the_client_must_sign() -> None:
    secret = "whsec_" + "QUJD" * 8
    options = Options.from_environment({"QUARANTINE_RELEASE_SIGNING_SECRET": secret})
    (client,) = parse_clients(options.clients_secret()).clients
    assert (client.requires_signature, client.signing_keys) == (True, (b"ABC" * 8,))
    assert secret not in repr(options)


class TestMakeRun:
    """`python -m local` as a person meets it, with the real template and handlers."""

    def test_it_says_how_to_use_it_and_stops_cleanly(self, tmp_path: Path) -> None:
        with _Running(tmp_path, {"CLOUDFLARE_API_TOKEN": "never-to-be-printed"}) as (process, printed):
            release, trace = (shlex.split(line) for line in printed.splitlines() if line.startswith("  curl "))
            children = _children_of(process.pid)
            answer = _as_curl(release)
            assert (answer.status_code, answer.json()["outcome"]) == (200, "released")
            assert _as_curl(trace).json()["state"] == "RELEASED"
            assert (tmp_path / "token").read_text() in printed
            assert _count(children, "local.handler_process webhook") == 8
            assert _count(children, "local.handler_process reconciler") == 1

            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the whole group
            rest = process.communicate(timeout=TIMEOUT)[0]

        assert process.returncode == 0
        assert rest == ""
        assert "never-to-be-printed" not in printed
        logs = "".join(path.read_text() for path in tmp_path.iterdir())
        assert "never-to-be-printed" not in logs
        assert "Traceback" not in logs
        assert "ended without an answer" not in logs
        _wait_until_gone(children)
        listen(urlsplit(release[-1]).port or 0).close()

    def test_it_stops_on_sigterm_while_a_request_hangs(self, tmp_path: Path) -> None:
        with _Running(tmp_path, {}, "2") as (process, printed):
            control = re.findall(r"control: ([^)]+)", printed)[0]
            requests.post(f"{control}/script", json={"behaviour": "hang"}, timeout=TIMEOUT)
            release = next(shlex.split(line) for line in printed.splitlines() if line.startswith("  curl "))
            with ThreadPoolExecutor(1) as threads:
                hanging = threads.submit(_as_curl, release)
                time.sleep(0.5)
                process.terminate()
                assert process.communicate(timeout=TIMEOUT)[0] == ""
                with suppress(requests.RequestException):
                    hanging.result()

        assert process.returncode == 0

    def test_nothing_survives_its_parent(self, tmp_path: Path) -> None:
        with _Running(tmp_path, {}, "2") as (process, _):
            children = _children_of(process.pid)
            process.kill()
            process.communicate(timeout=TIMEOUT)

        assert len(children) == 8
        _wait_until_gone(children)

    def test_a_port_in_use_is_said_in_one_sentence(self, tmp_path: Path) -> None:
        with listen() as listener:
            port = listener.getsockname()[1]
            ended = subprocess.run(
                [sys.executable, "-m", "local", str(tmp_path)],
                cwd=CHECKOUT,
                env={**os.environ, "PORT": str(port)},
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )

        assert (ended.returncode, ended.stdout) == (1, "")
        assert re.fullmatch(rf"Port {port} on 127\.0\.0\.1 is not free .*; set PORT to another\.\n", ended.stderr)

    def test_the_demo_comes_out_as_expected(self) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "local.demo"], cwd=CHECKOUT, capture_output=True, text=True, timeout=120, check=False
        )

        assert (ended.returncode, ended.stderr) == (0, "")
        assert ended.stdout.endswith("All as expected.\n")


def _scheduled(stack: Stack, count: int) -> list[dict[str, Any]]:
    """What the stub saw of the scheduled events, once it has seen so many."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        lines = stack.log_path.read_text().splitlines()
        seen = [json.loads(line.removeprefix("scheduled ")) for line in lines if line.startswith("scheduled ")]
        if len(seen) >= count:
            return seen
        assert time.monotonic() < deadline, f"{len(seen)} scheduled events instead of {count}"
        time.sleep(0.05)


class _Running:
    """`python -m local` on a free port, with what it has printed when it was ready."""

    def __init__(self, folder: Path, environment: dict[str, str], *processes: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "local", str(folder), *processes],
            cwd=CHECKOUT,
            env={**os.environ, "PORT": "0", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> tuple["subprocess.Popen[str]", str]:
        assert self._process.stdout is not None
        printed = ""
        while "Ctrl-C" not in printed:
            line = self._process.stdout.readline()
            assert line, printed
            printed += line
        return self._process, printed

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _raw(
    stack: Stack, method: str, target: str, *, body: bytes | None = None, headers: list[tuple[str, str]] | None = None
) -> dict[str, Any]:
    """What the stub saw of a request that is sent exactly like this."""
    connection = http.client.HTTPConnection(urlsplit(stack.base_url).netloc, timeout=TIMEOUT)
    connection.putrequest(method, target)
    for name, value in headers or []:
        connection.putheader(name, value)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    assert answer.status == 201, text
    seen: dict[str, Any] = json.loads(text)
    return seen


def _as_curl(line: list[str]) -> requests.Response:
    """Do what curl does with the printed line."""
    header = line[line.index("-H") + 1].partition(": ")
    data = line[line.index("-d") + 1] if "-d" in line else None
    return requests.request(
        "POST" if data else "GET", line[-1], headers={header[0]: header[2]}, data=data, timeout=TIMEOUT
    )


def _children_of(pid: int) -> list[int]:
    listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    pairs = [tuple(map(int, line.split())) for line in listing.splitlines()]
    return [child for child, parent in pairs if parent == pid]


def _count(pids: list[int], words: str) -> int:
    listing = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return sum(words in line and int(line.split()[0]) in pids for line in listing.splitlines())


def _wait_until_gone(pids: list[int]) -> None:
    _wait_until(lambda: not _count(pids, " -m local."))


def _wait_until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not is_so():
        assert time.monotonic() < deadline, "this takes too long"
        time.sleep(0.02)
