"""SQS in: many hints at once, released in as few calls as may be. What cannot be done now comes back by itself."""

from typing import TYPE_CHECKING, Any

from quarantine_release import init_phase, telemetry, wiring
from quarantine_release.usecases.release_queued import LISTS_HOLD, Batch, release_hinted

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@telemetry.logger.inject_lambda_context(clear_state=True)
@telemetry.metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Take a batch of hints; those that the ledger did not let be done are delivered again."""
    try:
        hints = wiring.queue().read(event)
        ports = wiring.ports(
            lambda: context.get_remaining_time_in_millis() / 1000, lists_hold=LISTS_HOLD, permit=wiring.permit
        )
        batch = release_hinted([hint for hint in hints.values() if hint is not None], ports)
        _report(batch, malformed=sum(hint is None for hint in hints.values()))
    except Exception as error:  # noqa: BLE001  the edge of the process: logged, raised again without its text
        raise telemetry.unhandled(error) from None
    failed = [message_id for message_id, hint in hints.items() if hint in batch.failed]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failed]}


def _report(batch: Batch, malformed: int) -> None:
    for row in batch.settled:
        telemetry.release_outcome(row, batch.requests.get(row.owner) if row.owner else None)
    for result, request in batch.ended:
        telemetry.not_released(result, request)
    for (client, reason), number in batch.withheld.items():
        telemetry.work_withheld(client, reason, number)
    telemetry.count("Hints", batch.hints)
    counts = {"HintsStale": batch.stale, "HintsMalformed": malformed, "HintsFailed": len(batch.failed)}
    for name, number in counts.items():
        if number:
            telemetry.count(name, number)
    if batch.failed:
        telemetry.ledger_unavailable("the hints are delivered again")


wiring.prime(wiring.clients, wiring.accounts)

init_phase.end()
