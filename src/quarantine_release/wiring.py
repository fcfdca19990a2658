"""Builds the real collaborators, once per process and on first use: the only file that knows every class."""

import random
import secrets
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any, Final

import certifi
from botocore.session import Session

from quarantine_release import telemetry
from quarantine_release.aws.current_clients import CurrentClients
from quarantine_release.aws.hint_queue import ReleaseQueue
from quarantine_release.aws.secret_store import CachedSecret
from quarantine_release.aws.service_clients import AwsClients
from quarantine_release.cloudflare.after_release import CloudflareReader
from quarantine_release.cloudflare.before_release import CloudflareLookup
from quarantine_release.cloudflare.client import CloudflareClient
from quarantine_release.cloudflare.connection import DeadlineSession
from quarantine_release.cloudflare.search import SearchApi
from quarantine_release.config.accounts import Accounts, parse_accounts
from quarantine_release.config.clients import Clients, parse_clients
from quarantine_release.config.secret import SecretMalformed
from quarantine_release.config.settings import Settings, is_in_lambda
from quarantine_release.domain.ids import AttemptId, RequestId
from quarantine_release.domain.permit import Permit, as_accepted
from quarantine_release.domain.rows import RequestRow
from quarantine_release.ledger.call_budget import AccountBudget
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from quarantine_release.releasing.ports import Ports

_CROCKFORD: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def clock() -> datetime:
    """Return the time in whole milliseconds, as rows keep it."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def new_attempt_id(now: datetime) -> AttemptId:
    """Return a ULID: 48 bits of milliseconds, 80 random bits; sorts by time."""
    number = int(now.timestamp() * 1000) << 80 | secrets.randbits(80)
    return AttemptId("".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5)))


def pause(round_: int) -> None:
    """Wait between tries of a contended write: 20 ms doubling to 320 ms, with full jitter."""
    time.sleep(random.uniform(0.005, 0.02 * 2 ** min(round_, 4)))  # noqa: S311  jitter is no secret


@cache
def settings() -> Settings:
    """Read the environment. Raises SettingsInvalid."""
    return Settings.from_env()


@cache
def ledger() -> DynamoLedger:
    """Build the ledger."""
    return DynamoLedger(_table(), telemetry.row_unreadable)


@cache
def budget() -> AccountBudget:
    """Build the budgets of the accounts."""
    return AccountBudget(_table(), settings().marks, clock, telemetry.row_unreadable)


@cache
def queue() -> ReleaseQueue:
    """Build the queue of hints."""
    return ReleaseQueue(_aws().client("sqs"), settings().queue_url)


@cache
def clients() -> CachedSecret[Clients]:
    """Build the clients secret; what is wrong in it is logged whenever it is fetched."""
    return CachedSecret(
        _aws().client("secretsmanager"), settings().clients_secret_id, _parse_clients, clock, settings().secrets_fresh
    )


@cache
def accounts() -> CachedSecret[Accounts]:
    """Build the cloudflare secret."""
    return CachedSecret(
        _aws().client("secretsmanager"),
        settings().cloudflare_secret_id,
        parse_accounts,
        clock,
        settings().secrets_fresh,
    )


@cache
def cloudflare() -> CloudflareClient:
    """Build what makes release calls."""
    configured = settings()
    return CloudflareClient(
        configured.cloudflare_api_base_url,
        accounts(),
        _session(),
        clock,
        bulk_4xx_is_atomic=configured.bulk_4xx_is_atomic,
        keeps_recipients=configured.keeps_recipients,
    )


@cache
def _search() -> SearchApi:
    return SearchApi(settings().cloudflare_api_base_url, accounts(), _session(), clock)


@cache
def reader() -> CloudflareReader:
    """Build what reads messages back."""
    return CloudflareReader(_search(), keeps_recipients=settings().keeps_recipients)


@cache
def lookup(lists_hold: timedelta) -> CloudflareLookup:
    """Build what finds messages and reads them before they are released."""
    return CloudflareLookup(_search(), holds=lists_hold)


def ports(
    time_left: Callable[[], float],
    *,
    lists_hold: timedelta = timedelta(0),
    permit: Callable[[RequestRow], Permit] = as_accepted,
) -> Ports:
    """Gather what one run of the use case needs. `time_left` in seconds, of this invocation.

    `permit` for work that was accepted earlier; the webhook has just read what its caller may do.
    """
    return Ports(
        ledger=ledger(),
        cloudflare=cloudflare(),
        reader=reader(),
        budget=budget(),
        queue=queue(),
        terms=settings().terms,
        clock=clock,
        time_left=time_left,
        new_attempt_id=new_attempt_id,
        lookup=lookup(lists_hold),
        guard=settings().guard,
        pause=time.sleep,
        wire_form=settings().wire_form,
        permit=permit,
    )


def permit(request: RequestRow) -> Permit:
    """Return what its client may still do of an accepted request."""
    return _current_clients().permit(request)


def prime(*secrets: Callable[[], CachedSecret[Any]]) -> None:
    """Do in Lambda's init phase, which has a whole CPU, what the first request would otherwise do on its share.

    Builds everything, fetches these secrets, and reads the ledger once, which opens its connection and loads what
    botocore loads late. A failure is logged and left for later.
    """
    if not is_in_lambda():
        return
    try:
        ports(lambda: 0.0)
        for secret in secrets:
            secret()
        with _aws().tried_once():  # init may take 10 s
            for secret in secrets:
                with suppress(SecretMalformed):  # the first request tells what is wrong
                    secret().get()
            ledger().requests([RequestId("rq_primed")])
    except Exception as error:  # noqa: BLE001  whatever it is, the first request meets it where it can be answered
        telemetry.logger.warning("priming_failed", error_type=type(error).__name__)


@cache
def _current_clients() -> CurrentClients:
    """Build what tells which clients may still do what they asked for."""
    return CurrentClients(clients(), clock)


@cache
def _table() -> Table:
    """Build the one client of the table, which ledger and budget share."""
    return Table(_aws().client("dynamodb"), settings().table, pause)


@cache
def _session() -> DeadlineSession:
    """Build the one connection to Cloudflare."""
    return DeadlineSession(_tls())


@cache
def _aws() -> AwsClients:
    """Build what makes the clients of AWS."""
    return AwsClients(Session(), _tls())


@cache
def _tls() -> ssl.SSLContext:
    """Build the one TLS context: to read the CA bundle takes longer than a request."""
    return ssl.create_default_context(cafile=certifi.where())


def _parse_clients(document: str) -> Clients:
    parsed = parse_clients(document)
    for client, problem in parsed.problems.items():
        telemetry.client_disabled(client, problem)
    return parsed
