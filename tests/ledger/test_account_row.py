"""The account row, to which all add."""

from datetime import timedelta
from typing import Any

import pytest

from quarantine_release.domain.call_limit import AccountRow
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.ledger.account_row import account_row, calls_name
from quarantine_release.ledger.keys import account_key, open_at
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.update_expression import UpdateExpression
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.stand_ins import ACCOUNT, NOON


def test_an_addition_tells_what_all_have_added_and_makes_the_row_if_there_is_none(dynamodb: Any) -> None:
    table = Table(dynamodb, "ledger", lambda _: None)
    for calls in (3, 2):
        update = UpdateExpression({"S": account_key(ACCOUNT)})
        update.add(calls_name(17), {"N": str(calls)})
        item = table.change(update.build())
    assert account_row(item) == AccountRow(calls={17: 5})
    assert [account_row(each) for each in table.read([account_key(ACCOUNT)])] == [AccountRow(calls={17: 5})]


def test_an_account_row_is_read_as_it_was_written(dynamodb: Any) -> None:
    table = Table(dynamodb, "ledger", lambda _: None)
    update = UpdateExpression({"S": account_key(ACCOUNT)})
    for name, number in ((calls_name(17), 5), (calls_name(18), -1), ("resumed", 4), ("troubles", 2)):
        update.add(name, {"N": str(number)})
    update.set("paused_until", open_at(NOON))
    assert account_row(table.change(update.build())) == AccountRow({17: 5, 18: -1}, NOON, 4, 2)


def test_a_pause_is_only_ever_made_longer(dynamodb: Any) -> None:
    table = Table(dynamodb, "ledger", lambda _: None)
    for seconds in (60, 30, 90, 90):
        until = open_at(NOON + timedelta(seconds=seconds))
        update = UpdateExpression({"S": account_key(ACCOUNT)})
        update.set("paused_until", until)
        update.require_absent_or_below("paused_until", until)
        was_refused = table.write({"Update": update.build()}) is not None
        assert was_refused == (seconds == 30)
    (item,) = table.read([account_key(ACCOUNT)])
    assert account_row(item).paused_until == NOON + timedelta(seconds=90)


def test_what_is_removed_is_gone_and_the_rest_stays(dynamodb: Any) -> None:
    table = Table(dynamodb, "ledger", lambda _: None)
    update = UpdateExpression({"S": account_key(ACCOUNT)})
    for name in (calls_name(17), "troubles"):
        update.add(name, {"N": "3"})
    table.change(update.build())
    update = UpdateExpression({"S": account_key(ACCOUNT)})
    update.remove("troubles")
    assert account_row(table.change(update.build())) == AccountRow(calls={17: 3})


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER, Fault.THROTTLED])
def test_an_addition_that_may_not_have_been_made_is_not_tried_again(fault: Fault) -> None:
    faulty = ModelDynamoDB(lambda _: fault)
    update = UpdateExpression({"S": account_key(ACCOUNT)})
    update.add(calls_name(17), {"N": "1"})
    with pytest.raises(LedgerUnavailable):
        Table(faulty, "ledger", lambda _: None).change(update.build())  # type: ignore[arg-type]
    assert faulty.calls == ["UpdateItem"]


def test_an_addition_that_met_a_conflict_changed_nothing_and_is_tried_again() -> None:
    faults: list[Fault | None] = [Fault.CONFLICT, Fault.CONFLICT]
    faulty = ModelDynamoDB(lambda _: faults.pop(0) if faults else None)
    update = UpdateExpression({"S": account_key(ACCOUNT)})
    update.add(calls_name(17), {"N": "1"})
    item = Table(faulty, "ledger", lambda _: None).change(update.build())  # type: ignore[arg-type]
    assert account_row(item) == AccountRow(calls={17: 1})
    assert faulty.calls == ["UpdateItem"] * 3
    faults += [Fault.CONFLICT] * 20
    with pytest.raises(LedgerUnavailable):
        Table(faulty, "ledger", lambda _: None).change(update.build())  # type: ignore[arg-type]
