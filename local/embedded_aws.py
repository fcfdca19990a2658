"""AWS on one machine, a process of its own: moto, one call at a time, with the table and secrets of `template.yaml`.

moto as it comes loses concurrent writes and copies the whole table for every action of a transaction; what is done
about it stands in `_make_transactions_atomic`. `transactions.py` makes transactions conflict, as DynamoDB does. Queues
are our own, and their event source reads them over the pipe.
"""

from __future__ import annotations

import copy
import io
import json
import socket
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

import boto3
from flask import Flask
from moto.backends import SERVICE_NAMES
from moto.dynamodb.exceptions import DynamodbException
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler
from moto.moto_server.werkzeug_app import create_backend_app

from local.children import READY, Parent, inherited_listener
from local.event_source import serve_event_source
from local.http_server import Connection, Server, url_of
from local.sqs_api import SqsApi
from local.sqs_queue import Queue, declared_queues
from local.transactions import Transactions

SERVICES: tuple[SERVICE_NAMES, ...] = ("dynamodb", "secretsmanager")  # of moto's
REMEMBER_TOKENS_SECONDS = 600  # as DynamoDB remembers a ClientRequestToken
TABLE_ARGUMENTS = ("TableName", "KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")


class EmbeddedAws(Server):
    """Serves the three services behind one address; the service is read from the signature's scope."""

    def __init__(
        self, listener: socket.socket, queues: Mapping[str, Queue], tables: Iterable[Mapping[str, Any]]
    ) -> None:
        super().__init__(listener, _SignedCalls)
        self.apps: dict[str, Flask] = {service: create_backend_app(service) for service in SERVICES}
        self.sqs = SqsApi(queues, url_of(listener))
        self.lock = threading.Lock()
        self.transactions = Transactions({table["TableName"]: _hash_key(table) for table in tables})


class _SignedCalls(Connection):
    """A small WSGI server with keep-alive, which werkzeug's own does not have."""

    server: EmbeddedAws

    def do_POST(self) -> None:
        """Every call of these services is a POST."""
        status, headers, body = (
            400,
            [("Content-Type", "text/plain")],
            f"not a signed call of {', '.join(SERVICES)} or sqs".encode(),
        )
        data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        scope = self.headers.get("Authorization", "").split("/")
        service = scope[3] if len(scope) > 3 else ""
        if service == "dynamodb":
            status, headers, body = self._dynamodb(self.headers.get("X-Amz-Target", "").partition(".")[2], data)
        elif service in self.server.apps:
            status, headers, body = self._call(self.server.apps[service], data)
        elif service == "sqs":
            status, headers, body = self.server.sqs.answer(self.headers.get("X-Amz-Target", ""), data)
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "server", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _dynamodb(self, operation: str, data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        with self.server.transactions.while_executing(operation, json.loads(data)) as refusal:
            if refusal is not None:
                return 400, [("Content-Type", "application/x-amz-json-1.0")], refusal
            return self._call(self.server.apps["dynamodb"], data)

    def _call(self, app: Flask, data: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        environ = {
            "REQUEST_METHOD": "POST",
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path,
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": str(self.server.server_port),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(data)),
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(data),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": False,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        environ.update((f"HTTP_{name.upper().replace('-', '_')}", value) for name, value in self.headers.items())
        started: list[tuple[int, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], _error: object = None) -> Any:
            started.append((int(status.split()[0]), headers))
            return io.BytesIO().write

        with self.server.lock:
            body = b"".join(app(environ, start_response))
        return *started[-1], body


def _make_transactions_atomic() -> None:
    """Let a transaction restore only the rows it names, and let a repeated ClientRequestToken change nothing.

    moto copies the whole table once per action and puts the copy back on an error: 99 actions take 42 s at 10,000 rows,
    long past the SDK's timeout, and then moto executes the SDK's retry of the same token a second time.
    """
    transact, respond = DynamoDBBackend.transact_write_items, DynamoHandler.transact_write_items
    seen: dict[str, tuple[float, str]] = {}

    def transact_and_restore(backend: Any, actions: list[dict[str, Any]]) -> None:
        before = [(items, key, copy.deepcopy(items.get(key))) for items, key in _rows(backend, actions)]
        try:
            transact(backend, actions)
        except Exception:
            for items, key, row in before:
                items.pop(key, None)
                if row is not None:
                    items[key] = row
            raise

    def respond_once(handler: Any) -> Any:
        token, now = handler.body.get("ClientRequestToken"), time.monotonic()
        wanted = json.dumps(handler.body["TransactItems"], sort_keys=True, default=repr)
        done_at, done = seen.get(token, (0.0, None))
        if done is None or now - done_at > REMEMBER_TOKENS_SECONDS:
            answer = respond(handler)
            seen[token] = now, wanted
            return answer
        if done != wanted:
            raise DynamodbException(
                "com.amazonaws.dynamodb.v20120810#IdempotentParameterMismatchException",
                "The ClientRequestToken was used with other actions",
            )
        handler.body = {**handler.body, "TransactItems": []}
        return respond(handler)

    for owner, name, replacement in (
        (DynamoDBBackend, "transact_write_items", transact_and_restore),
        (DynamoHandler, "transact_write_items", respond_once),
        (Table, "__deepcopy__", lambda table, _memo: table),  # so that moto's own copies cost nothing
    ):
        setattr(owner, name, replacement)


def _hash_key(table: Mapping[str, Any]) -> str:
    return next(str(key["AttributeName"]) for key in table["KeySchema"] if key["KeyType"] == "HASH")


def _rows(backend: Any, actions: list[dict[str, Any]]) -> Iterable[tuple[dict[Any, Any], Any]]:
    """Where moto keeps the rows that a transaction names."""
    for action in actions:
        for kind, operation in action.items():
            if table := backend.tables.get(operation.get("TableName")):
                key = operation["Item" if kind == "Put" else "Key"].get(table.hash_key_attr)
                if key is not None:
                    yield table.items, DynamoType(key)


def create_resources(url: str, tables: list[dict[str, Any]], secrets: dict[str, str]) -> None:
    """Create the template's tables, as their CloudFormation properties say, and the secrets with their values."""
    dynamodb = boto3.client("dynamodb", endpoint_url=url)
    for table in tables:
        dynamodb.create_table(**{name: table[name] for name in TABLE_ARGUMENTS if name in table})
        if "TimeToLiveSpecification" in table:
            dynamodb.update_time_to_live(
                TableName=table["TableName"], TimeToLiveSpecification=table["TimeToLiveSpecification"]
            )
    secretsmanager = boto3.client("secretsmanager", endpoint_url=url)
    for name, value in secrets.items():
        secretsmanager.create_secret(Name=name, SecretString=value)


def main() -> None:
    """Serve the listener that the parent handed over, with what its first message names; then its event source."""
    parent = Parent()
    _make_transactions_atomic()
    wanted = json.loads(parent.receive())
    queues = declared_queues(wanted["queues"])
    server = EmbeddedAws(inherited_listener(), queues, wanted["tables"])
    server.start()
    create_resources(url_of(server.socket), wanted["tables"], wanted["secrets"])
    parent.send(READY)
    while True:
        parent.send(serve_event_source(queues, parent.receive()))


if __name__ == "__main__":
    main()
