"""What is around a handler while it is measured: its process, the services it calls, the events it gets."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import IO, Any, Final

from benchmarks.certificate import Certificate
from benchmarks.packages import ROOT, Package
from local.template import Template

_TOKEN: Final = "benchmark-token"  # noqa: S105
_ACCOUNT: Final = "a" * 32
_POSTFIX: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"
_YESTERDAY: Final = datetime.now(UTC) - timedelta(days=1)
_numbers: Final = count(1)


@dataclass(frozen=True, slots=True)
class Cost:
    """What the init phase or one request took: seconds on the clock and of CPU, the latter also by part."""

    wall: float
    cpu: float
    parts: Mapping[str, float] = field(repr=False)
    log: int
    modules: int
    peak_kb: int
    status: int = 0
    body: str = ""


class LambdaProcess:
    """A fresh process of a function, past its init phase."""

    def __init__(self, python: str, package: Package, environment: Mapping[str, str]) -> None:
        # -B, since a package in Lambda cannot be written to; -I and -S, so that nothing of this machine is found.
        command = [python, "-I", "-S", "-B", str(ROOT / "benchmarks" / "probe.py"), str(package.folder), package.entry]
        self._process = subprocess.Popen(
            command,
            env={**environment, **package.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=package.folder,
        )
        self.init = Cost(**_line(self._process.stdout))

    def handle(self, event: Mapping[str, Any]) -> Cost:
        """Hand it an event."""
        _write(self._process.stdin, json.dumps(event))
        return Cost(**_line(self._process.stdout))

    def end(self) -> None:
        """Let it end."""
        self._process.communicate()


class Services:
    """DynamoDB, Secrets Manager and Cloudflare on this machine."""

    def __init__(self, process: "subprocess.Popen[str]", environment: Mapping[str, str]) -> None:
        self._process = process
        self.environment = environment

    def lose_connections(self) -> None:
        """Close every connection, as happens while an environment is frozen."""
        self._ask("lose")

    def hold(self, event: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have Cloudflare list the messages of an event as what is in quarantine; return the event."""
        self._ask(f"hold {json.dumps(json.loads(event['body'])['ids'])}")
        return event

    def calls(self) -> Mapping[str, int]:
        """Return the calls since this was last asked."""
        return self._ask("count")

    def _ask(self, question: str) -> Mapping[str, int]:
        _write(self._process.stdin, question)
        return _line(self._process.stdout)


@contextmanager
def services(certificate: Certificate) -> Iterator[Services]:
    """Serve what the functions call, and say in which environment they find it."""
    environment = dict(Template.read(ROOT / "template.yaml").functions()["WebhookFunction"].environment)
    digest = hashlib.sha256(_TOKEN.encode()).hexdigest()
    clients = {"clients": [{"name": "bench", "tokens": [{"sha256": digest}], "scopes": ["release", "read"]}]}
    secrets = {
        environment["CLIENTS_SECRET_ID"]: json.dumps(clients),
        environment["CLOUDFLARE_SECRET_ID"]: json.dumps({"account_id": _ACCOUNT, "api_token": "made-up"}),
    }
    command = [sys.executable, "-m", "benchmarks.loopback", str(certificate.file)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        _write(process.stdin, json.dumps(secrets))
        ports = _line(process.stdout)
        yield Services(
            process,
            {
                **environment,
                "BUDGET_INLINE_CALLS": environment["BUDGET_CALLS"],  # all calls of a run come within one window
                "GUARD_MODE": "off",  # the others release without a look at what the mail is
                "CLOUDFLARE_API_BASE_URL": f"https://localhost:{ports['cloudflare']}/client/v4",
                "AWS_ENDPOINT_URL_DYNAMODB": f"https://localhost:{ports['dynamodb']}",
                "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"https://localhost:{ports['secrets_manager']}",
                "AWS_ACCESS_KEY_ID": "made-up",
                "AWS_SECRET_ACCESS_KEY": "made-up",
                "AWS_REGION": "us-east-1",
                "AWS_DEFAULT_REGION": "us-east-1",
                "AWS_LAMBDA_FUNCTION_NAME": "webhook",
                "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            },
        )
        process.communicate()


def release_event(ids: int = 1, *, key: str | None = None, body: str | None = None) -> dict[str, Any]:
    """Return an API Gateway event that asks for the release of so many messages that nobody asked for before."""
    headers = {
        "Authorization": f"Bearer {_TOKEN}",
        "Content-Type": "application/json",
        "Host": "abc123.execute-api.us-east-1.amazonaws.com",
        "X-Forwarded-Proto": "https",
        **({"Idempotency-Key": key} if key else {}),
    }
    return {
        "resource": "/{proxy+}",
        "path": "/v1/releases",
        "httpMethod": "POST",
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": "v1/releases"},
        "requestContext": {
            "path": "/prod/v1/releases",
            "domainName": "abc123.execute-api.us-east-1.amazonaws.com",
            "requestId": "c6af9ac6-7b61-11e6-9a41-93e8deadbeef",
            "identity": {"sourceIp": "192.0.2.1"},
        },
        "body": body or json.dumps({"ids": [_message_id() for _ in range(ids)], "reason": "false positive"}),
        "isBase64Encoded": False,
    }


def _message_id() -> str:
    """Return an investigate id of yesterday: of a time that Cloudflare's lists still reach."""
    rest, letters = (number := next(_numbers)), ""
    for _ in range(15):
        rest, letter = divmod(rest, len(_POSTFIX))
        letters += _POSTFIX[letter]
    return f"{letters}-{_YESTERDAY:%Y-%m-%dT%H:%M:%S}-{number:08}"


def _write(stream: IO[str] | None, line: str) -> None:
    assert stream is not None  # noqa: S101
    stream.write(f"{line}\n")
    stream.flush()


def _line(stream: IO[str] | None) -> dict[str, Any]:
    assert stream is not None  # noqa: S101
    line = stream.readline()
    if not line:
        raise SystemExit("a process of the benchmark ended; its reason stands above")
    content: dict[str, Any] = json.loads(line)
    return content
