"""HTTPS servers on this machine that answer like DynamoDB, Secrets Manager and Cloudflare, in a process of their own.

DynamoDB is the model that the tests use. The parent writes `lose` for all connections to be closed, `hold` and ids for
what Cloudflare lists from then on, or `count`. Each is answered with one line of JSON: the calls since the last one.
"""

import gc
import json
import socket
import ssl
import sys
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Any, BinaryIO, Final
from urllib.parse import unquote

from botocore.exceptions import ClientError

from tests.support.model_dynamodb import ModelDynamoDB

# What Cloudflare tells of each message.
_DELIVERED: Final = {"delivered": ["ann@example.com"], "undelivered": [], "failed": []}
_OPERATIONS: Final = {
    "TransactWriteItems": "transact_write_items",
    "UpdateItem": "update_item",
    "BatchGetItem": "batch_get_item",
    "Query": "query",
}
Answer = tuple[int, Any]


class Services:
    """What the servers answer, and how often they were asked. Writes and reads are counted in DynamoDB's units."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.calls: Counter[str] = Counter()
        self.held: list[str] = []
        self._secrets = secrets
        self._dynamodb = ModelDynamoDB()
        self._lock = Lock()

    def dynamodb(self, headers: Mapping[str, str], _: str, body: bytes) -> Answer:
        operation = headers["x-amz-target"].rpartition(".")[2]
        parameters = _binary(json.loads(body), b64decode)
        with self._lock:
            self.calls[operation] += 1
            self._weigh(operation, parameters)
            if operation == "PutItem":  # of the others, whose tables have no conditions
                return 200, {}
            try:
                return 200, _binary(getattr(self._dynamodb, _OPERATIONS[operation])(**parameters), _text)
            except ClientError as error:
                response: dict[str, Any] = dict(error.response)
                told = response.pop("Error")
                response.pop("ResponseMetadata", None)
                return 400, {"__type": f"com.amazonaws#{told['Code']}", "message": "", **_binary(response, _text)}

    def secrets_manager(self, _: Mapping[str, str], __: str, body: bytes) -> Answer:
        self.calls["GetSecretValue"] += 1
        name = json.loads(body)["SecretId"]
        return 200, {"Name": name, "SecretString": self._secrets[name]}

    def cloudflare(self, _: Mapping[str, str], path: str, body: bytes) -> Answer:
        self.calls["Cloudflare"] += 1
        rest = path.partition("/email-security/investigate")[2]
        if rest != "/release":
            is_one = rest.startswith("/")
            held: Any = self._message(unquote(rest[1:])) if is_one else [self._message(each) for each in self.held]
            return 200, {"success": True, "result": held, "result_info": {"next": None}}
        content = json.loads(body)
        ids = content["ids"] if isinstance(content, dict) else content
        result = [{"id": each, "postfix_id": each.split("-")[0], **_DELIVERED} for each in ids]
        return 200, {"success": True, "errors": [], "messages": [], "result": result}

    def _message(self, message_id: str) -> Mapping[str, object]:
        return {
            "id": message_id,
            "postfix_id": message_id.split("-")[0],
            "is_quarantined": True,
            "final_disposition": "SPAM",
            "delivery_mode": "DIRECT",
            "client_recipients": _DELIVERED["delivered"],
            "post_delivery_operations": [],
        }

    def _weigh(self, operation: str, parameters: Mapping[str, Any]) -> None:
        """Count capacity for items of up to 1 KB written and 4 KB read; a transaction takes twice as much."""
        if operation == "Query":
            self.calls["read units"] += 1
        elif operation == "BatchGetItem":
            self.calls["read units"] += sum(len(each["Keys"]) for each in parameters["RequestItems"].values())
        else:
            self.calls["write units"] += 2 * len(parameters.get("TransactItems", ())) or 1


class Server:
    """One port of this machine, each connection in a thread. `accepted` counts them."""

    def __init__(self, context: ssl.SSLContext, answer: Callable[[Mapping[str, str], str, bytes], Answer]) -> None:
        self._context = context
        self._answer = answer
        self.accepted = 0
        self._connections: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        Thread(target=self._accept, daemon=True).start()

    def lose_connections(self) -> None:
        """Close every connection that is open now."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections, and close those that are open."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.lose_connections()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.accepted += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with suppress(OSError, ValueError), self._context.wrap_socket(plain, server_side=True) as connection:
            self._connections.add(connection)
            try:
                with connection.makefile("rb") as incoming:
                    while self._exchange(incoming, connection):
                        pass
            finally:
                self._connections.discard(connection)

    def _exchange(self, incoming: BinaryIO, connection: socket.socket) -> bool:
        request_line = incoming.readline()
        if not request_line:
            return False
        headers: dict[str, str] = {}
        while line := incoming.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = incoming.read(int(headers.get("content-length", 0)))
        status, content = self._answer(headers, request_line.split()[1].decode(), body)
        answer = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} -\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
        connection.sendall(head.encode() + answer)
        return True


def _binary(value: Any, convert: Callable[[Any], Any]) -> Any:
    """Convert the binary attributes of items."""
    if isinstance(value, dict):
        return {name: convert(item) if name == "B" else _binary(item, convert) for name, item in value.items()}
    return [_binary(item, convert) for item in value] if isinstance(value, list) else value


def _text(value: bytes) -> str:
    return b64encode(value).decode()


def main(certificate: Path) -> None:
    """Serve until the parent closes our input. Its first line is JSON: the secrets by name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    services = Services(json.loads(sys.stdin.readline()))
    names = ("dynamodb", "secrets_manager", "cloudflare")
    servers = {name: Server(context, getattr(services, name)) for name in names}
    gc.disable()  # what grows here is the table, and nobody's time is to depend on its size
    print(json.dumps({name: server.port for name, server in servers.items()}), flush=True)
    for line in sys.stdin:
        if line.strip() == "lose":
            for server in servers.values():
                server.lose_connections()
        elif line.startswith("hold "):
            services.held = json.loads(line.removeprefix("hold "))
        calls, services.calls = services.calls, Counter()
        print(json.dumps(calls), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
