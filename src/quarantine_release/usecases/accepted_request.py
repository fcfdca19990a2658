"""A request that was accepted before: its status, a repeat of it, and its cancellation. Pure but for its ports."""

from dataclasses import dataclass, replace

from quarantine_release.domain.rows import RequestRow, parse_targets
from quarantine_release.releasing.ports import Conflict, Ports
from quarantine_release.releasing.progress import Acceptance, Answer, Progress


@dataclass(frozen=True, slots=True)
class KeyReused:
    """The idempotency key belongs to another payload. Nothing was written."""

    request: RequestRow


def replay(request: RequestRow, conflict: Conflict, ports: Ports) -> Answer | KeyReused:
    earlier = conflict.requests[request.request_id]
    assert earlier is not None  # noqa: S101  only what is there conflicts with a request that is new
    if not request.repeats(earlier):
        return KeyReused(earlier)
    progress = Progress([earlier], ports, Acceptance.EARLIER)
    progress.learn(conflict.messages)
    missing = [target.part for target in parse_targets(earlier.wanted_ids) if target.part not in progress.rows]
    if missing:
        progress.learn(ports.ledger.messages(earlier.account_id, missing))
    (answer,) = progress.finish()
    return replace(answer, replayed=True)


def status_of(request: RequestRow, ports: Ports) -> Answer:
    """Tell what an accepted request has come to, and close it if it has ended. Raises LedgerUnavailable."""
    progress = Progress([request], ports, Acceptance.EARLIER)
    progress.learn(
        ports.ledger.messages(request.account_id, [target.part for target in parse_targets(request.wanted_ids)])
    )
    (answer,) = progress.finish()
    return answer


def cancel(request: RequestRow, ports: Ports) -> Answer:
    """End every id of an accepted request that is not claimed yet; what has ended or is under way stays as it is.

    The request first, then a look at the rows: from the one on nothing is claimed for it, and the other finds every
    claim that came before. Raises LedgerUnavailable.
    """
    if request.may_claim:
        cancelled = replace(request, cancelled_at=ports.clock())
        request = ports.ledger.cancel(cancelled) or cancelled
    return status_of(request, ports)
