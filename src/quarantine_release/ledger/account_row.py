"""How the row of an account lies in DynamoDB: `call_budget.py` counts there, and people set its switch. Pure."""

from datetime import timedelta
from typing import Any, Final

from quarantine_release.domain.call_limit import AccountRow
from quarantine_release.domain.ids import OperationId
from quarantine_release.domain.verdicts import Stop
from quarantine_release.ledger.codecs import EPOCH, MILLISECONDS, Attribute, Item, in_json
from quarantine_release.ledger.row_version import readable

_CALLS: Final = "calls_"


def calls_name(slot: int) -> str:
    """Return the attribute of an account that counts the calls of a slot."""
    return f"{_CALLS}{slot}"


@readable
def account_row(item: Item) -> AccountRow:
    """Read an account back; but for the switch it is written by additions alone. Raises RowUnreadable."""
    stops, operations = _SWITCH.decode(item["switch"]) if "switch" in item else ({}, ())
    return AccountRow(
        calls={int(name.removeprefix(_CALLS)): int(item[name]["N"]) for name in item if name.startswith(_CALLS)},
        paused_until=MILLISECONDS.decode(item["paused_until"]) if "paused_until" in item else None,
        resumed=int(item["resumed"]["N"]) if "resumed" in item else 0,
        troubles=int(item["troubles"]["N"]) if "troubles" in item else 0,
        stops=stops,
        operations=operations,
    )


def switch(row: AccountRow) -> Attribute | None:
    """Return the attribute that holds what a person has paused and the last who did; None if nobody ever has."""
    return _SWITCH.encode(row) if row.operations else None


def _switch_to_json(row: AccountRow) -> dict[str, Any]:
    stops = {
        client: [stop.reason, stop.by, (stop.since - EPOCH) // timedelta(milliseconds=1), stop.operation]
        for client, stop in row.stops.items()
    }
    return {"stops": stops, "operations": row.operations}


def _switch_from_json(value: dict[str, Any]) -> tuple[dict[str, Stop], tuple[OperationId, ...]]:
    stops = {
        client: Stop(reason, by, EPOCH + since * timedelta(milliseconds=1), operation)
        for client, (reason, by, since, operation) in value["stops"].items()
    }
    return stops, tuple(value["operations"])


_SWITCH: Final = in_json(_switch_to_json, _switch_from_json)
