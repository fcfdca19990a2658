"""What people have changed with the operations tool: the rows, and which of them a message has met. Pure."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from quarantine_release.domain.ids import AccountId, OperationId, PostfixPart, RequestId
from quarantine_release.domain.rows import MessageRow, RequestRow
from quarantine_release.domain.states import State


class OperationKind(StrEnum):
    """What a person can change."""

    PAUSE = "pause"
    RESUME = "resume"
    SETTLE = "settle"
    REDRIVE = "redrive"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRow:
    """What a person has changed with the operations tool, and why: written with the change, and never changed.

    `client` None: of all clients. `settled_as` is the message's state by it; `redriven` the request that `request_id`
    was made out of.
    """

    account_id: AccountId
    operation: OperationId
    kind: OperationKind
    at: datetime
    by: str
    reason: str
    client: str | None = None
    part: PostfixPart | None = None
    settled_as: State | None = None
    redriven: RequestId | None = None
    request_id: RequestId | None = None


def list_operations(row: MessageRow | None, requests: Iterable[RequestRow]) -> list[OperationId]:
    """Return what people have changed about a message: about its row, and the requests they made for it."""
    changed = row.operations if row is not None else frozenset()
    return sorted(changed | {request.operation for request in requests if request.operation})


def select_orders(requests: Collection[RequestRow], orders: Iterable[OperationRow]) -> list[OperationRow]:
    """Return, of pauses and resumes, those that requests may have met: of the account, and of the clients who asked.

    That is whatever was ordered since the first request, and the pauses that stood then.
    """
    if not requests:
        return []
    since, clients = min(request.created_at for request in requests), {None, *(request.client for request in requests)}
    met = []
    last: dict[str | None, OperationRow] = {}
    for order in sorted(orders, key=lambda order: order.operation):
        if order.client in clients and order.at >= since:
            met.append(order)
        elif order.client in clients:
            last[order.client] = order
    return [*(order for order in last.values() if order.kind is OperationKind.PAUSE), *met]
