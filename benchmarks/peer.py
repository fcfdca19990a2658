"""The peer: the webhook as it is usually written, with the official SDK and a boto3 resource, one row per request."""

import hashlib
import hmac
import json
import os
import uuid
from datetime import UTC, datetime
from functools import cache
from typing import Any

import boto3
from cloudflare import Cloudflare

table = boto3.resource("dynamodb").Table(os.environ["TABLE_NAME"])
secrets = boto3.client("secretsmanager")


@cache
def secret(name: str) -> dict[str, Any]:
    """Fetch a secret, once per process."""
    content: dict[str, Any] = json.loads(secrets.get_secret_value(SecretId=os.environ[name])["SecretString"])
    return content


@cache
def cloudflare() -> Cloudflare:
    """Build the client, once per process."""
    return Cloudflare(
        api_token=secret("CLOUDFLARE_SECRET_ID")["api_token"], base_url=os.environ["CLOUDFLARE_API_BASE_URL"]
    )


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001
    """Release what the body names."""
    headers = {name.lower(): value for name, value in (event["headers"] or {}).items()}
    token = headers.get("authorization", "").removeprefix("Bearer ")
    digest = hashlib.sha256(token.encode()).hexdigest()
    known = [each["sha256"] for client in secret("CLIENTS_SECRET_ID")["clients"] for each in client["tokens"]]
    if not any(hmac.compare_digest(digest, each) for each in known):
        return respond(401, {"error": "unauthorized"})
    try:
        ids = json.loads(event["body"])["ids"]
    except (ValueError, KeyError, TypeError):
        return respond(400, {"error": "invalid body"})
    released = cloudflare().email_security.investigate.release.bulk(
        account_id=secret("CLOUDFLARE_SECRET_ID")["account_id"], ids=ids
    )
    results = [each.model_dump(mode="json") for each in released]
    request_id = str(uuid.uuid4())
    table.put_item(
        Item={
            "pk": f"R#{request_id}",
            "ids": ids,
            "results": json.dumps(results),
            "created_at": datetime.now(UTC).isoformat(),
        }
    )
    print(json.dumps({"message": "released", "request_id": request_id, "ids": ids}))
    return respond(200, {"request_id": request_id, "results": results})


def respond(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """Return an answer for API Gateway."""
    return {"statusCode": status, "headers": {"Content-Type": "application/json"}, "body": json.dumps(body)}
