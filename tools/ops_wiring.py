"""Builds what the operations tool works on: a deployed stack, or the one that `make run` serves on this machine."""

import argparse
import getpass
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from quarantine_release import wiring
from quarantine_release.aws.hint_queue import ReleaseQueue
from quarantine_release.config.accounts import Accounts, parse_accounts
from quarantine_release.config.secret import SecretMalformed
from quarantine_release.config.settings import Settings
from quarantine_release.domain.ledger_errors import RowUnreadable
from quarantine_release.domain.transitions import Terms
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger

if TYPE_CHECKING:
    from collections.abc import Sequence

LOCAL_FOLDER: Final = Path(__file__).parent.parent / ".local"
ENVIRONMENT_FILE: Final = "environment.json"
# As template.yaml sets them for its functions, which a test compares.
LEASE: Final = timedelta(seconds=90)
SETTLE: Final = timedelta(seconds=120)
RETENTION_DAYS: Final = 400
_AWS: Final = Config(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})


class Unreachable(Exception):
    """The tool does not know what to work on, or cannot reach it. The text is for the person who runs it."""


@dataclass(frozen=True, slots=True)
class Place:
    """What is operated on. `queue` None: the sweep finds by itself, within minutes, what hints would tell at once.

    `unreadable`: the rows that the ledger has met and could not read, by key.
    """

    ledger: DynamoLedger
    queue: ReleaseQueue | None
    terms: Terms
    accounts: Callable[[], Accounts]
    identity: Callable[[], str]
    unreadable: dict[str, RowUnreadable] = field(default_factory=dict)


def place_of(options: argparse.Namespace) -> Place:
    """Find what the options name. Raises Unreachable."""
    return _local(Path(options.local)) if options.local else _deployed(options)


def _local(folder: Path) -> Place:
    """Take what `make run` has written of itself, and nothing of the AWS profile of the person who runs the tool."""
    try:
        environment: Mapping[str, str] = json.loads((folder / ENVIRONMENT_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise Unreachable(f"no local stack runs with {folder.name}: start it with make run") from None
    settings = Settings.from_env(environment)
    session = boto3.Session(
        environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"], region_name=environment["AWS_REGION"]
    )

    def client(service: Any) -> Any:
        return session.client(service, endpoint_url=environment["AWS_ENDPOINT_URL"], config=_AWS)

    unreadable: dict[str, RowUnreadable] = {}
    return Place(
        ledger=_ledger(client("dynamodb"), settings.table, unreadable),
        unreadable=unreadable,
        queue=ReleaseQueue(client("sqs"), settings.queue_url),
        terms=settings.terms,
        accounts=lambda: _accounts(client("secretsmanager"), settings.cloudflare_secret_id),
        identity=getpass.getuser,
    )


def _deployed(options: argparse.Namespace) -> Place:
    try:
        session = boto3.Session(region_name=options.region)
        outputs, parameters = _stack(session, options.stack) if options.stack else ({}, {})
        table = options.table or outputs.get("TableName")
        if not table:
            raise Unreachable("say what to work on: --stack, --table or --local")
        queue_url = options.queue_url or outputs.get("ReleaseQueueUrl")
        secret_id = outputs.get("CloudflareSecretArn")
        unreadable: dict[str, RowUnreadable] = {}
        days = options.retention_days or int(parameters.get("TraceRetentionDays", RETENTION_DAYS))
        return Place(
            ledger=_ledger(session.client("dynamodb", config=_AWS), table, unreadable),
            unreadable=unreadable,
            queue=ReleaseQueue(session.client("sqs", config=_AWS), queue_url) if queue_url else None,
            terms=Terms(LEASE, SETTLE, timedelta(days=days)),
            accounts=lambda: _accounts(session.client("secretsmanager", config=_AWS), secret_id),
            identity=lambda: str(session.client("sts", config=_AWS).get_caller_identity()["Arn"]),
        )
    except (BotoCoreError, ClientError) as error:
        raise Unreachable(f"AWS: {error}") from None


def _ledger(client: Any, table: str, unreadable: dict[str, RowUnreadable]) -> DynamoLedger:
    def report(error: RowUnreadable) -> None:
        unreadable[error.key] = error

    return DynamoLedger(Table(client, table, wiring.pause), report)


def _stack(session: boto3.Session, name: str) -> tuple[dict[str, str], dict[str, str]]:
    # Its types would be one dependency more for one call.
    client: Any = session.client("cloudformation", config=_AWS)
    (stack,) = client.describe_stacks(StackName=name)["Stacks"]
    outputs: Sequence[Mapping[str, str]] = stack.get("Outputs", [])
    parameters: Sequence[Mapping[str, str]] = stack.get("Parameters", [])
    return (
        {output["OutputKey"]: output["OutputValue"] for output in outputs},
        {parameter["ParameterKey"]: parameter["ParameterValue"] for parameter in parameters},
    )


def _accounts(client: Any, secret_id: str | None) -> Accounts:
    """Read which accounts there are; the credentials beside them go nowhere."""
    if secret_id is None:
        raise Unreachable("say which account: --account, or --stack, whose secret names them all")
    try:
        return parse_accounts(client.get_secret_value(SecretId=secret_id)["SecretString"])
    except SecretMalformed as error:
        raise Unreachable(f"the cloudflare secret {error}: say --account") from None
