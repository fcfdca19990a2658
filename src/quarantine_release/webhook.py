"""HTTP in and out: an API Gateway event becomes a request, and its response what API Gateway sends."""

import json
from typing import TYPE_CHECKING, Any, Final

from quarantine_release import init_phase, telemetry, wiring
from quarantine_release.api.event import read_event
from quarantine_release.api.routes import respond
from quarantine_release.api.services import Services

if TYPE_CHECKING:
    from aws_lambda_powertools.utilities.typing import LambdaContext

_HEADERS: Final = {
    "Content-Type": "application/json",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


@telemetry.logger.inject_lambda_context(clear_state=True)
@telemetry.metrics.log_metrics
def lambda_handler(event: dict[str, Any], context: "LambdaContext") -> dict[str, Any]:
    """Answer one API Gateway proxy event."""
    telemetry.count("Requests")
    try:
        response = respond(read_event(event), _services(context))
    except Exception as error:  # noqa: BLE001  the edge of the process: logged, raised again without its text
        raise telemetry.unhandled(error) from None
    return {
        "statusCode": response.status,
        "headers": {**_HEADERS, **response.headers},
        "body": json.dumps(response.body),
        "isBase64Encoded": False,
    }


def _services(context: "LambdaContext") -> Services:
    return Services(
        ports=wiring.ports(lambda: context.get_remaining_time_in_millis() / 1000),
        ledger=wiring.ledger(),
        clients=wiring.clients(),
        accounts=wiring.accounts(),
        check_credential=wiring.cloudflare().check,
    )


wiring.prime(wiring.clients, wiring.accounts)

init_phase.end()
