"""The floor: what the peer does with botocore and urllib3 alone, no framework, and every lever that we use."""

import gc

gc.disable()

import hashlib  # noqa: E402
import hmac  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import ssl  # noqa: E402
import uuid  # noqa: E402
from datetime import UTC, datetime  # noqa: E402
from typing import Any  # noqa: E402

import certifi  # noqa: E402
import urllib3  # noqa: E402
from botocore.config import Config  # noqa: E402
from botocore.httpsession import URLLib3Session  # noqa: E402
from botocore.session import Session  # noqa: E402

TLS = ssl.create_default_context(cafile=certifi.where())


class Connections(URLLib3Session):
    """One pool for all clients, which reads no CA bundle."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        return TLS

    def _setup_ssl_cert(self, conn: Any, url: str, verify: Any) -> None:
        pass


session = Session()
NODELAY: Any = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
connections = Connections(socket_options=[NODELAY])


def client(service: str) -> Any:
    """Build a client."""
    made: Any = session.create_client(service, config=Config(parameter_validation=False, user_agent="floor"))
    made._endpoint.http_session = connections
    return made


dynamodb = client("dynamodb")
secrets = client("secretsmanager")
pool = urllib3.PoolManager(ssl_context=TLS)


def secret(name: str) -> dict[str, Any]:
    """Fetch a secret."""
    content: dict[str, Any] = json.loads(secrets.get_secret_value(SecretId=os.environ[name])["SecretString"])
    return content


clients, account = secret("CLIENTS_SECRET_ID"), secret("CLOUDFLARE_SECRET_ID")
tokens = [each["sha256"] for one in clients["clients"] for each in one["tokens"]]
dynamodb.batch_get_item(RequestItems={os.environ["TABLE_NAME"]: {"Keys": [{"pk": {"S": "R#primed"}}]}})
gc.freeze()
gc.enable()


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """Release what the body names."""
    headers = {name.lower(): value for name, value in (event["headers"] or {}).items()}
    token = headers.get("authorization", "").removeprefix("Bearer ")
    digest = hashlib.sha256(token.encode()).hexdigest()
    if not any(hmac.compare_digest(digest, each) for each in tokens):
        return respond(401, {"error": "unauthorized"})
    try:
        ids = json.loads(event["body"])["ids"]
    except (ValueError, KeyError, TypeError):
        return respond(400, {"error": "invalid body"})
    released = pool.request(
        "POST",
        f"{os.environ['CLOUDFLARE_API_BASE_URL']}/accounts/{account['account_id']}/email-security/investigate/release",
        body=json.dumps({"ids": ids}),
        headers={"Authorization": f"Bearer {account['api_token']}", "Content-Type": "application/json"},
        timeout=10,
        retries=False,
    )
    results = released.json()["result"]
    request_id = str(uuid.uuid4())
    row = {"pk": f"R#{request_id}", "ids": json.dumps(ids), "results": json.dumps(results)}
    row["created_at"] = datetime.now(UTC).isoformat()
    dynamodb.put_item(TableName=os.environ["TABLE_NAME"], Item={name: {"S": value} for name, value in row.items()})
    print(json.dumps({"message": "released", "request_id": request_id, "ids": ids}))
    return respond(200, {"request_id": request_id, "results": results})


def respond(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer for API Gateway."""
    return {"statusCode": status, "headers": {"Content-Type": "application/json"}, "body": json.dumps(body)}
