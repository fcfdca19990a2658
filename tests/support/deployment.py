"""The functions as deployed, in this process: environment and table of template.yaml, moto as AWS, a small Cloudflare.

Whatever it answers is checked for what every answer must hold, and whatever it logs for what no log may.
"""

import json
import ssl
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import md5, sha256
from io import StringIO
from logging import StreamHandler
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
from aws_lambda_powertools.utilities.typing import LambdaContext
from botocore.session import Session
from moto import mock_aws
from moto.backends import get_backend

from local.template import Template
from quarantine_release import reconciler, telemetry, wiring, worker
from quarantine_release.aws.service_clients import AwsClients
from quarantine_release.webhook import lambda_handler
from tests.support.canaries import SECRET, leaked
from tests.support.small_cloudflare import Upstream
from tests.support.stand_ins import Clock

ACCOUNT = "a" * 32
OTHER_ACCOUNT = "b" * 32
MESSAGE = "4Njp3P0STMz2c02Q"
INVESTIGATE_ID = "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678"
API_TOKEN = f"cloudflare-{SECRET}"
SIGNING_KEY = f"signing-{SECRET}-0123456789".encode()
GATEWAY_REQUEST_ID = "c6af9ac6-7b61-11e6-9a41-93e8deadbeef"
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "ok", "code", "retryable", "request_id"}

_SCOPES = {
    "soar": ["release", "read"],
    "other": ["release", "read"],
    "auditor": ["read", "read:all"],
    "writer": ["release"],
    "reader": ["read"],
    "admin": ["release", "read", "read:all", "force"],
    "guest": ["release", "read"],
    "former": ["release", "read"],
    "signer": ["release", "read"],
}
Event = dict[str, Any]
Pairs = Sequence[tuple[str, str]]


def token_of(client: str) -> str:
    """Return the token of a client."""
    return f"{client}-{SECRET}-0123456789"


def client_entry(name: str, *tokens: str, expires_at: str | None = None, **members: Any) -> dict[str, Any]:
    """Return a client's entry in the clients secret, with these tokens instead of its own."""
    hashes = [sha256(token.encode()).hexdigest() for token in tokens or (token_of(name),)]
    known = [{"sha256": each, "expires_at": expires_at} for each in hashes]
    return {"name": name, "tokens": known, "scopes": _SCOPES[name], **members}


_RESTRICTIONS: dict[str, dict[str, Any]] = {
    "guest": {"accounts": [OTHER_ACCOUNT]},
    "former": {"expires_at": "2026-01-01T00:00:00Z"},
    "signer": {"signing_secrets": [f"whsec_{b64encode(SIGNING_KEY).decode()}"], "require_signature": True},
}
CLOUDFLARE_SECRET = {"account_id": ACCOUNT, "api_token": API_TOKEN}
CLIENTS_SECRET = {"clients": [client_entry(name, **_RESTRICTIONS.get(name, {})) for name in _SCOPES]}


class Context(LambdaContext):
    """An invocation with so many seconds left."""

    _function_name = "webhook"
    _memory_limit_in_mb = 512
    _invoked_function_arn = "arn:aws:lambda:us-east-1:123456789012:function:webhook"
    _aws_request_id = "8f5e1c1e-0000-4000-8000-000000000000"

    def __init__(self, seconds_left: float) -> None:
        self._seconds_left = seconds_left

    def get_remaining_time_in_millis(self) -> int:  # type: ignore[override]  # static there for want of a context
        return int(self._seconds_left * 1000)


@dataclass(frozen=True)
class Answer:
    """What a caller receives."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]

    @classmethod
    def of(cls, raw: dict[str, Any]) -> "Answer":
        """Read what the handler returned, and check what holds for every answer."""
        assert raw.keys() == {"statusCode", "headers", "body", "isBase64Encoded"}
        assert raw["isBase64Encoded"] is False
        answer = cls(raw["statusCode"], raw["headers"], json.loads(raw["body"]))
        assert all(isinstance(value, str) for value in answer.headers.values())
        assert answer.headers["Cache-Control"] == "no-store"
        assert "error" not in answer.body
        assert leaked(json.dumps(raw), SECRET) == []
        assert answer.status < 400 or answer.code == "release_incomplete" or leaked(json.dumps(raw)) == []
        if answer.status < 400:
            assert answer.headers["Content-Type"] == "application/json"
        else:
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.body.keys() >= PROBLEM_MEMBERS
            assert answer.body["status"] == answer.status
            assert answer.body["ok"] is False
            assert answer.body["detail"]
        assert ("Retry-After" in answer.headers) == (answer.status in (202, 503))
        return answer

    @property
    def code(self) -> str:
        return str(self.body["code"])

    @property
    def result(self) -> dict[str, Any]:
        """Return the only result."""
        (result,) = self.body["results"]
        return dict(result)


def path_of(answer: Answer) -> str:
    """Return where the request of an answer can be looked up."""
    return f"/v1/releases/{answer.body['request_id']}"


def proxy_event(
    method: str,
    path: str,
    *,
    headers: Pairs = (),
    query: Pairs = (),
    body: str | None = None,
    is_base64: bool = False,
    stage: str = "",
) -> Event:
    """Return an API Gateway v1 event, as a REST API sends it; a stage stands only in the path that the caller used."""
    values, parameters = _grouped(headers), _grouped(query)
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": {name: each[-1] for name, each in values.items()} or None,
        "multiValueHeaders": values or None,
        "queryStringParameters": {name: each[-1] for name, each in parameters.items()} or None,
        "multiValueQueryStringParameters": parameters or None,
        "pathParameters": {"proxy": path.lstrip("/")},
        "stageVariables": None,
        "requestContext": {
            "path": f"{stage}{path}",
            "domainName": "abc123.execute-api.us-east-1.amazonaws.com",
            "requestId": GATEWAY_REQUEST_ID,
            "httpMethod": method,
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": body,
        "isBase64Encoded": is_base64,
    }


def sqs_record(body: str, message_id: str) -> Event:
    """Return one record of an SQS event, as Lambda's event source makes it."""
    return {
        "messageId": message_id,
        "receiptHandle": f"receipt of {message_id}",
        "body": body,
        "attributes": {
            "ApproximateReceiveCount": "1",
            "SentTimestamp": "1795348800000",
            "SenderId": "AROAEXAMPLE:webhook",
            "ApproximateFirstReceiveTimestamp": "1795348801000",
        },
        "messageAttributes": {},
        "md5OfBody": md5(body.encode(), usedforsecurity=False).hexdigest(),
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:quarantine-release-hints",
        "awsRegion": "us-east-1",
    }


class Deployment:
    """The functions, their table, their queue, their secrets, their log."""

    def __init__(self, upstream: Upstream, environment: Mapping[str, str], logs: StringIO) -> None:
        self.upstream = upstream
        self.environment = environment
        self.aws_calls: list[str] = []
        self.hints: list[dict[str, Any]] = []
        self.leaks: list[str] = []
        self._logs = logs
        self._secrets = boto3.client("secretsmanager")
        self._dynamodb = boto3.client("dynamodb")
        self._sqs = boto3.client("sqs")

    def hear(self, model: Any, params: Mapping[str, Any], **_: Any) -> None:
        """Keep what the functions call, each hint that they send, with its delay, and what leaks into rows or hints."""
        self.aws_calls.append(model.name)
        self.leaks += leaked(repr(params), SECRET) + leaked(repr(params.get("Entries")))
        for entry in params.get("Entries", ()):
            self.hints.append(json.loads(entry["MessageBody"]) | {"delay": entry["DelaySeconds"]})

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        client: str | None = "soar",
        headers: Pairs = (),
        seconds_left: float = 20,
        **event: Any,
    ) -> Answer:
        """Send a request as this client, with JSON of `body` unless it is bytes, as they are, or text, as it is."""
        authorization = [("Authorization", f"Bearer {token_of(client)}")] if client else []
        if isinstance(body, bytes):
            body, event["is_base64"] = b64encode(body).decode(), True
        elif body is not None and not isinstance(body, str):
            body = json.dumps(body)
        return self.handle(
            proxy_event(method, path, headers=[*authorization, *headers], body=body, **event), seconds_left
        )

    def post(self, body: Any = (MESSAGE,), **given: Any) -> Answer:
        """Ask for a release."""
        return self.send("POST", "/v1/releases", body, **given)

    def get(self, path: str, **given: Any) -> Answer:
        """Ask for a trace."""
        return self.send("GET", path, **given)

    def handle(self, event: Event, seconds_left: float = 20) -> Answer:
        """Hand an event to the handler."""
        try:
            return Answer.of(lambda_handler(event, Context(seconds_left)))
        except telemetry.Unhandled as error:
            # Lambda logs whatever a handler raises.
            if leaked("".join(traceback.format_exception(error))):
                raise AssertionError("what is raised shows what it must not") from None
            raise

    def reconcile(self, seconds_left: float = 55) -> dict[str, int]:
        """Run the reconciler once."""
        summary: dict[str, int] = reconciler.lambda_handler({}, Context(seconds_left))
        return summary

    def work(self, seconds_left: float = 60) -> dict[str, Any]:
        """Be Lambda's event source: hand the worker every hint once, also the delayed; what it fails stays."""
        url, messages = self.environment["QUEUE_URL"], self._received()
        records = [sqs_record(message["Body"], message["MessageId"]) for message in messages]
        answer = self.hand_to_worker(records, seconds_left)
        failed = {failure["itemIdentifier"] for failure in answer["batchItemFailures"]}
        for message in messages:
            receipt = message["ReceiptHandle"]
            if message["MessageId"] in failed:
                self._sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
            else:
                self._sqs.delete_message(QueueUrl=url, ReceiptHandle=receipt)
        return answer

    def hand_to_worker(self, records: Sequence[Event], seconds_left: float = 60) -> dict[str, Any]:
        """Hand these records to the worker, which is not called for none."""
        if not records:
            return {"batchItemFailures": []}
        answer: dict[str, Any] = worker.lambda_handler({"Records": list(records)}, Context(seconds_left))
        return answer

    def start_afresh(self) -> None:
        """Go on in a new process, which remembers nothing."""
        _disconnect()
        for builder in vars(wiring).values():
            if hasattr(builder, "cache_clear"):
                builder.cache_clear()

    def put_secret(self, name: str, content: Any) -> None:
        """Set the cloudflare or the clients secret; text stays as it is."""
        value = content if isinstance(content, str) else json.dumps(content)
        self._secrets.put_secret_value(SecretId=self._secret_id(name), SecretString=value)

    def delete_secret(self, name: str) -> None:
        """Delete a secret."""
        self._secrets.delete_secret(SecretId=self._secret_id(name), ForceDeleteWithoutRecovery=True)

    def create_queue(self) -> None:
        """Create the queue of hints."""
        self._sqs.create_queue(QueueName=self.environment["QUEUE_URL"].rpartition("/")[2])

    def delete_queue(self) -> None:
        """Delete the queue with all that is in it."""
        self._sqs.delete_queue(QueueUrl=self.environment["QUEUE_URL"])

    def delete_table(self) -> None:
        """Delete the table."""
        self._dynamodb.delete_table(TableName=self.environment["TABLE_NAME"])

    def rows(self, kind: str = "") -> list[dict[str, Any]]:
        """Return the rows of one kind: R, M, T or A."""
        items = self._dynamodb.scan(TableName=self.environment["TABLE_NAME"])["Items"]
        return [dict(item) for item in items if item["pk"]["S"].startswith(kind)]

    def put_row(self, item: Mapping[str, Any]) -> None:
        """Write a row over whatever is there, past the product's code."""
        self._dynamodb.put_item(TableName=self.environment["TABLE_NAME"], Item=dict(item))

    @property
    def is_untouched(self) -> bool:
        """Say whether nothing was written and nothing was sent."""
        return not self.rows() and not self.upstream.requests and not self.hints

    @property
    def log(self) -> str:
        """Return what was logged."""
        return self._logs.getvalue()

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log events of one name."""
        return [event for event in map(json.loads, self.log.splitlines()) if event["message"] == name]

    def _received(self) -> list[Any]:
        """Receive whatever is in the queue; moto's clock cannot be moved, so delays are taken away."""
        url, messages = self.environment["QUEUE_URL"], []
        for queue in get_backend("sqs")["123456789012"]["us-east-1"].queues.values():
            for message in queue._messages:
                message.delayed_until = 0.0
        while found := self._sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            messages += found
        return messages

    def _secret_id(self, name: str) -> str:
        return self.environment[f"{name.upper()}_SECRET_ID"]


def set_clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the clock that the functions go by from now on."""
    clock = Clock(wiring.clock())
    monkeypatch.setattr(wiring, "clock", clock)
    return clock


@contextmanager
def deploy(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deployment]:
    """Deploy beside this upstream."""
    template = deployed_template()
    # The guard has tests of its own, and would read before each release of all others.
    variables = {**template.functions()["WebhookFunction"].environment, "GUARD_MODE": "off"}
    environment = {**variables, "CLOUDFLARE_API_BASE_URL": upstream.url}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    # What takes long to build and keeps no state is built once.
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", aws_session())
    monkeypatch.setattr(wiring, "_aws", lambda: aws_clients())
    monkeypatch.setattr(ssl, "create_default_context", _tls_context)
    logs = StringIO()
    monkeypatch.setattr(cast("StreamHandler[Any]", telemetry.logger.registered_handler), "stream", logs)
    with mock_aws(config={"core": {"reset_boto3_session": False}}):
        (table,) = template.tables()
        names = ("TableName", "KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")
        boto3.client("dynamodb").create_table(**{name: table[name] for name in names})
        for name, content in (("CLOUDFLARE_SECRET_ID", CLOUDFLARE_SECRET), ("CLIENTS_SECRET_ID", CLIENTS_SECRET)):
            boto3.client("secretsmanager").create_secret(Name=environment[name], SecretString=json.dumps(content))
        deployment = Deployment(upstream, environment, logs)
        deployment.create_queue()
        with listening(deployment.hear):
            yield deployment
        _disconnect()
    assert leaked(logs.getvalue()) + deployment.leaks == []


@contextmanager
def listening(hear: Callable[..., None]) -> Iterator[None]:
    """Hear of every call that the functions make to AWS: its `model` and its `params`."""
    events = [aws_clients().client(service).meta.events for service in ("dynamodb", "secretsmanager", "sqs")]
    for each in events:
        each.register("provide-client-params", hear)
    try:
        yield
    finally:
        for each in events:
            each.unregister("provide-client-params", hear)


def _disconnect() -> None:
    """Close what a process leaves to its end: the connection to Cloudflare."""
    if wiring._session.cache_info().currsize:
        wiring._session().close()


def _grouped(pairs: Pairs) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name, value in pairs:
        grouped.setdefault(name, []).append(value)
    return grouped


@cache
def deployed_template() -> Template:
    """Return template.yaml, read once."""
    return Template.read(Path(__file__).parent.parent.parent / "template.yaml")


@cache
def aws_session() -> boto3.Session:
    """Return one session for all tests, which makes each client once: moto stands behind every client."""
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    session.client = cache(session.client)  # type: ignore[method-assign]
    return session


@cache
def aws_clients() -> AwsClients:
    """Return the functions' clients, made once for all tests: moto stands behind them too."""
    session = Session()
    session.set_credentials("testing", "testing")
    session.set_config_variable("region", "us-east-1")
    return AwsClients(session, _tls_context())


_tls_context = cache(ssl.create_default_context)
