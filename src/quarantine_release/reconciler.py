"""Schedule in: settle what calls left unknown, and see to it that what is wanted goes on. Every minute."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from quarantine_release import init_phase, telemetry, wiring
from quarantine_release.domain.ids import RequestId
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.rows import RequestRow
from quarantine_release.usecases.settle import Summary, reconcile

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext


@telemetry.logger.inject_lambda_context(clear_state=True)
@telemetry.metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, int]:  # noqa: ARG001
    """Run once. An error is logged, and the next run continues where this one ended."""
    summary = Summary()
    try:
        try:
            ports = wiring.ports(lambda: context.get_remaining_time_in_millis() / 1000, permit=wiring.permit)
            reconcile(ports, summary)
        finally:  # an error must not hide what was settled before it
            _report(summary)
        failures = summary.failures + summary.swept.failures
        if failures:
            raise LedgerUnavailable(f"{failures} left out")
    except Exception as error:  # noqa: BLE001  the edge of the process: logged, raised again without its text
        if isinstance(error, LedgerUnavailable):
            telemetry.ledger_unavailable(str(error))
        raise telemetry.unhandled(error) from None
    return {
        "attempts": summary.attempts,
        "settled": len(summary.settled),
        "requests": summary.swept.requests,
        "hints": summary.swept.hints,
    }


def _report(summary: Summary) -> None:
    owners: dict[RequestId, RequestRow] = {}
    with suppress(LedgerUnavailable):  # the outcome is logged anyway, without who asked
        owners = wiring.ledger().requests(sorted({row.owner for row in summary.settled if row.owner}))
    for row in summary.settled:
        telemetry.release_outcome(row, owners.get(row.owner) if row.owner else None)
    for (client, reason), number in summary.swept.withheld.items():
        telemetry.work_withheld(client, reason, number)
    now = wiring.clock()
    for name, oldest in (("Attempt", summary.oldest_attempt), ("Request", summary.swept.oldest)):
        telemetry.oldest_open(name, (now - oldest).total_seconds() if oldest else 0.0)


wiring.prime()

init_phase.end()
