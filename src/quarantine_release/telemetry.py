"""The shared Logger and Metrics, the names of what is logged, and what is kept out of it.

Fields are passed by name; no body, header, token, recipient, subject or exception text ever is.
"""

import traceback
from typing import Final

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import MetricUnit

from quarantine_release.config.settings import SettingsInvalid
from quarantine_release.domain.ids import AccountId, is_header, message_key
from quarantine_release.domain.ledger_errors import RowUnreadable
from quarantine_release.domain.results import Result
from quarantine_release.domain.rows import MessageRow, RequestRow, WireForm
from quarantine_release.domain.verdicts import Evidence

logger: Final = Logger()
metrics: Final = Metrics()


def count(name: str, value: int = 1) -> None:
    """Add to a metric."""
    metrics.add_metric(name=name, unit=MetricUnit.Count, value=value)


def release_outcome(row: MessageRow, request: RequestRow | None) -> None:
    """Log that a message reached its end: the event by which a SIEM sees releases without reading the table."""
    logger.info(
        "release_outcome",
        message_key=message_key(row.account_id, row.part),
        outcome=row.state,
        code=row.code,
        client=request.client if request else None,
        ticket=request.ticket if request else None,
        request=request.request_id if request else None,
        attempt=row.attempt,
        guard=row.guard,
        disposition=row.disposition,
    )
    count(row.state.title().replace("_", ""))


def not_released(result: Result, request: RequestRow) -> None:
    """Log that an id of a request ended before anything was claimed: lookup or guard refused it."""
    is_found = result.resolved is not None or not is_header(result.id)
    logger.info(
        "not_released",
        message_key=message_key(request.account_id, result.part) if is_found else None,
        outcome=result.outcome,
        code=result.code,
        client=request.client,
        ticket=request.ticket,
        request=request.request_id,
        dry_run=request.dry_run,
        guard=result.guard,
        disposition=result.disposition,
        detail=result.ended.detail if result.ended else None,
    )
    count(result.outcome.title().replace("_", ""))


def cloudflare_call(
    account_id: AccountId, wire_form: WireForm, ids: int, evidence: Evidence, milliseconds: int
) -> None:
    """Log one release call and how it ended."""
    logger.info(
        "cloudflare_call",
        account_id=account_id,
        wire_form=wire_form,
        ids=ids,
        status=evidence.status,
        error_codes=evidence.error_codes,
        cf_ray=evidence.cf_ray,
        failure=evidence.failure,
        milliseconds=milliseconds,
    )
    count("CloudflareCalls")


def cloudflare_read(account_id: AccountId, evidence: Evidence, milliseconds: int) -> None:
    """Log one reading call and how it ended: of what could not be read, this alone tells why."""
    logger.info(
        "cloudflare_read",
        account_id=account_id,
        status=evidence.status,
        error_codes=evidence.error_codes,
        cf_ray=evidence.cf_ray,
        failure=evidence.failure,
        milliseconds=milliseconds,
    )


def oldest_open(kind: str, seconds: float) -> None:
    """Record how long the oldest open attempt or request has been waiting."""
    metrics.add_metric(name=f"OldestOpen{kind}Age", unit=MetricUnit.Seconds, value=seconds)


def secret_unusable(secret: str, problem: str) -> None:
    """Log which secret cannot be used and what is wrong with it, never its value."""
    logger.error("secret_unusable", secret=secret, problem=problem)
    count("SecretUnusable")


def client_disabled(client: str, problem: str) -> None:
    """Log an entry of the clients secret that is left out."""
    logger.error("client_disabled", client=client, problem=problem)
    count("ClientDisabled")


def work_withheld(client: str, reason: str, number: int) -> None:
    """Log and count accepted work that waits because its client may no longer do it."""
    logger.warning("work_withheld", client=client, reason=reason, number=number)
    count("WorkWithheld", number)


def hints_lost(number: int) -> None:
    """Log and count hints that the queue did not take; the sweep sends them again."""
    logger.error("hints_lost", hints=number)
    count("HintsLost", number)


def declined(code: str) -> None:
    """Count and log an answer that is an error, by its code."""
    logger.info("declined", code=code)
    count("Declined")


def unauthenticated(reason: str, client: str | None) -> None:
    """Count and log why a caller is nobody, with the client whose token it was, if anybody's."""
    logger.warning("unauthenticated", reason=reason, client=client)
    count("Unauthenticated")
    count(f"Unauthenticated{reason.title().replace('_', '')}")


def ledger_unavailable(code: str) -> None:
    """Log why DynamoDB could not be read or written, by its error code."""
    logger.error("ledger_unavailable", code=code)
    count("LedgerUnavailable")


def row_unreadable(error: RowUnreadable) -> None:
    """Log and count a row that cannot be read, by its key; a Message-ID in a key is hashed."""
    logger.error("row_unreadable", kind=error.kind, key=error.key, why=error.why)
    count("RowsUnreadable")


class Unhandled(Exception):
    """Something nobody foresaw. Stands for the real error, whose text may hold what no log should."""


def unhandled(error: Exception) -> Unhandled:
    """Log an error nobody foresaw: its class and where it came from, not its text; return what to raise for it."""
    frames = traceback.extract_tb(error.__traceback__)
    logger.error(
        "unhandled",
        error_type=type(error).__name__,
        settings=str(error) if isinstance(error, SettingsInvalid) else None,
        at=[f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames],
    )
    count("Unhandled")
    return Unhandled(type(error).__name__)
