"""What the ledger relies on of DynamoDB, against moto and against the model; where they differ, it is named here."""

from collections.abc import Sequence
from typing import Any

import pytest
from botocore.exceptions import ClientError

# Where one of the two is not as the real service is (hazards, section 2), and which one.
DIFFERENCES = {
    "the same token twice is one transaction": "moto executes it twice",
}


def named_difference(request: pytest.FixtureRequest, difference: str) -> None:
    """Expect moto, and moto alone, to fail for a difference that is known."""
    assert difference in DIFFERENCES
    if "[moto" in request.node.name:
        request.node.add_marker(pytest.mark.xfail(strict=True, reason=DIFFERENCES[difference]))


def put(key: str, condition: str | None = "attribute_not_exists(pk)", **members: Any) -> dict[str, Any]:
    item = {"pk": {"S": key}, **members}
    parameters: dict[str, Any] = {"TableName": "ledger", "Item": item, "ReturnValuesOnConditionCheckFailure": "ALL_OLD"}
    return parameters | ({"ConditionExpression": condition} if condition else {})


def update(key: str, expression: str, condition: str, **values: Any) -> dict[str, Any]:
    return {
        "TableName": "ledger",
        "Key": {"pk": {"S": key}},
        "UpdateExpression": expression,
        "ConditionExpression": condition,
        "ExpressionAttributeValues": {f":{name}": value for name, value in values.items()},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def read(dynamodb: Any, *keys: str) -> dict[str, Any]:
    wanted = {"ledger": {"Keys": [{"pk": {"S": key}} for key in keys], "ConsistentRead": True}}
    found = dynamodb.batch_get_item(RequestItems=wanted)["Responses"]["ledger"]
    return {item["pk"]["S"]: item for item in found}


def refused(dynamodb: Any, *actions: dict[str, Any], **parameters: Any) -> list[dict[str, Any]]:
    with pytest.raises(ClientError) as caught:
        dynamodb.transact_write_items(TransactItems=actions, **parameters)
    assert caught.value.response["Error"]["Code"] == "TransactionCanceledException"
    response: Any = caught.value.response
    reasons: list[dict[str, Any]] = response["CancellationReasons"]
    return reasons


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return caught.value.response["Error"]["Code"]


def test_a_transaction_writes_all_or_nothing_and_tells_each_reason_with_the_item(dynamodb: Any) -> None:
    dynamodb.put_item(**put("a", n={"N": "1"}))
    reasons = refused(dynamodb, {"Put": put("b")}, {"Put": put("a")}, {"Put": put("c")})
    assert [reason["Code"] for reason in reasons] == ["None", "ConditionalCheckFailed", "None"]
    assert reasons[1]["Item"] == {"pk": {"S": "a"}, "n": {"N": "1"}}
    assert read(dynamodb, "a", "b", "c").keys() == {"a"}


def test_every_failed_condition_of_a_transaction_is_told(dynamodb: Any) -> None:
    for key in ("a", "b"):
        dynamodb.put_item(**put(key))
    reasons = refused(dynamodb, {"Put": put("a")}, {"Put": put("b")})
    assert [reason["Code"] for reason in reasons] == ["ConditionalCheckFailed"] * 2


def test_a_condition_check_guards_without_writing(dynamodb: Any) -> None:
    check = {
        "TableName": "ledger",
        "Key": {"pk": {"S": "guard"}},
        "ConditionExpression": "s = :open",
        "ExpressionAttributeValues": {":open": {"S": "OPEN"}},
    }
    reasons = refused(dynamodb, {"ConditionCheck": check}, {"Put": put("a")})
    assert [reason["Code"] for reason in reasons] == ["ConditionalCheckFailed", "None"]
    dynamodb.put_item(**put("guard", s={"S": "OPEN"}))
    dynamodb.transact_write_items(TransactItems=[{"ConditionCheck": check}, {"Put": put("a")}])
    assert read(dynamodb, "guard")["guard"] == {"pk": {"S": "guard"}, "s": {"S": "OPEN"}}


@pytest.mark.parametrize(
    ("condition", "values", "holds"),
    [
        ("attribute_exists(pk)", {}, True),
        ("attribute_not_exists(pk)", {}, False),
        ("attribute_not_exists(nope) AND s = :s", {"s": {"S": "x"}}, True),
        ("s = :s", {"s": {"S": "y"}}, False),
        ("s <> :s", {"s": {"S": "y"}}, True),
        ("n <= :n", {"n": {"N": "10"}}, True),
        ("n <= :n", {"n": {"N": "8"}}, False),
        ("nope <= :n", {"n": {"N": "8"}}, False),
        ("nope = :n OR (s = :s AND n = :m)", {"n": {"N": "8"}, "s": {"S": "x"}, "m": {"N": "9"}}, True),
        ("s = :n", {"n": {"N": "9"}}, False),
    ],
)
def test_conditions(dynamodb: Any, condition: str, values: dict[str, Any], holds: bool) -> None:
    dynamodb.put_item(**put("a", s={"S": "x"}, n={"N": "9"}))
    change = update("a", "SET done = :done", condition, done={"S": "yes"}, **values)
    if holds:
        dynamodb.update_item(**change)
        return
    with pytest.raises(ClientError) as caught:
        dynamodb.update_item(**change)
    assert code_of(caught) == "ConditionalCheckFailedException"
    response: Any = caught.value.response
    assert response["Item"] == {"pk": {"S": "a"}, "s": {"S": "x"}, "n": {"N": "9"}}


@pytest.mark.parametrize(
    ("members", "holds"), [(None, True), (["a"], True), (["a", "b"], False), (["a", "b", "c"], False)]
)
def test_a_set_is_added_to_that_is_absent_or_has_fewer_members(
    dynamodb: Any, members: list[str] | None, holds: bool
) -> None:
    if members is not None:
        dynamodb.put_item(**put("a", ss={"SS": members}))
    change = update("a", "ADD #ss :0", "(attribute_not_exists(#ss) OR size(#ss) <= :1)")
    change["ExpressionAttributeNames"] = {"#ss": "ss"}
    change["ExpressionAttributeValues"] = {":0": {"SS": ["new"]}, ":1": {"N": "1"}}
    if holds:
        dynamodb.update_item(**change)
    else:
        with pytest.raises(ClientError) as caught:
            dynamodb.update_item(**change)
        assert code_of(caught) == "ConditionalCheckFailedException"
    assert set(read(dynamodb, "a")["a"]["ss"]["SS"]) == {*(members or []), *(["new"] if holds else [])}


def test_an_update_changes_what_it_names_and_nothing_else(dynamodb: Any) -> None:
    dynamodb.put_item(**put("a", keep={"S": "k"}, gone={"S": "g"}, n={"N": "1"}, ss={"SS": ["x", "y"]}))
    change = update(
        "a",
        "SET keep = :keep REMOVE gone, never ADD n :two, more :sets DELETE ss :sets",
        "attribute_exists(pk)",
        keep={"S": "K"},
        two={"N": "2"},
        sets={"SS": ["x", "z"]},
    )
    dynamodb.update_item(**change)
    item = read(dynamodb, "a")["a"]
    assert (item["keep"], item["n"], item["ss"]) == ({"S": "K"}, {"N": "3"}, {"SS": ["y"]})
    assert set(item["more"]["SS"]) == {"x", "z"}
    assert "gone" not in item


def test_a_set_that_loses_its_last_member_is_gone(dynamodb: Any) -> None:
    dynamodb.put_item(**put("a", ss={"SS": ["x"]}))
    dynamodb.update_item(**update("a", "DELETE ss :x", "attribute_exists(pk)", x={"SS": ["x"]}))
    assert read(dynamodb, "a")["a"] == {"pk": {"S": "a"}}


def test_an_update_without_a_condition_on_being_there_makes_the_item(dynamodb: Any) -> None:
    dynamodb.update_item(**update("a", "SET n = :n", "attribute_not_exists(pk)", n={"N": "1"}))
    assert read(dynamodb, "a")["a"]["n"] == {"N": "1"}


def test_an_update_that_asks_for_it_is_told_the_item_as_it_is_then(dynamodb: Any) -> None:
    dynamodb.put_item(**put("a", keep={"S": "k"}, gone={"S": "g"}, n={"N": "1"}))
    change = update("a", "REMOVE gone ADD n :two", "attribute_exists(pk)", two={"N": "2"})
    answer = dynamodb.update_item(**change, ReturnValues="ALL_NEW")
    assert answer["Attributes"] == {"pk": {"S": "a"}, "keep": {"S": "k"}, "n": {"N": "3"}}
    answer["Attributes"]["n"] = {"N": "9"}  # what was told is the caller's own
    assert read(dynamodb, "a")["a"]["n"] == {"N": "3"}
    assert "Attributes" not in dynamodb.update_item(**change)


def test_an_addition_without_a_condition_makes_the_item_and_adds_to_it_ever_after(dynamodb: Any) -> None:
    change = update("a", "ADD #n :n", "", n={"N": "-2"})
    del change["ConditionExpression"], change["ReturnValuesOnConditionCheckFailure"]
    change["ExpressionAttributeNames"] = {"#n": "calls_17"}
    told = [dynamodb.update_item(**change, ReturnValues="ALL_NEW")["Attributes"] for _ in range(2)]
    assert [item["calls_17"] for item in told] == [{"N": "-2"}, {"N": "-4"}]
    assert told[0]["pk"] == {"S": "a"}


@pytest.mark.parametrize(("until", "holds"), [(None, True), (9, True), (10, True), (11, False)])
def test_a_value_is_set_that_is_absent_or_not_above(dynamodb: Any, until: int | None, holds: bool) -> None:
    if until is not None:
        dynamodb.put_item(**put("a", until={"N": str(until)}))
    change = update("a", "SET #until = :0", "(attribute_not_exists(#until) OR #until <= :1)")
    change["ExpressionAttributeNames"] = {"#until": "until"}
    change["ExpressionAttributeValues"] = {":0": {"N": "10"}, ":1": {"N": "10"}}
    if holds:
        dynamodb.update_item(**change)
    else:
        with pytest.raises(ClientError) as caught:
            dynamodb.update_item(**change)
        assert code_of(caught) == "ConditionalCheckFailedException"
    assert read(dynamodb, "a")["a"]["until"] == {"N": "10" if holds else "11"}


def test_a_condition_check_tells_the_item_that_it_refused(dynamodb: Any) -> None:
    dynamodb.put_item(**put("guard", s={"S": "OPEN"}, cancelled_at={"N": "1"}))
    check = {
        "TableName": "ledger",
        "Key": {"pk": {"S": "guard"}},
        "ConditionExpression": "#s = :open AND attribute_not_exists(cancelled_at)",
        "ExpressionAttributeNames": {"#s": "s"},
        "ExpressionAttributeValues": {":open": {"S": "OPEN"}},
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }
    reasons = refused(dynamodb, {"Put": put("a")}, {"ConditionCheck": check})
    assert [reason["Code"] for reason in reasons] == ["None", "ConditionalCheckFailed"]
    assert reasons[1]["Item"] == {"pk": {"S": "guard"}, "s": {"S": "OPEN"}, "cancelled_at": {"N": "1"}}
    assert "Item" not in reasons[0]
    absent = check | {"Key": {"pk": {"S": "nowhere"}}}
    reasons = refused(dynamodb, {"ConditionCheck": absent}, {"Put": put("a")})
    assert reasons[0]["Code"] == "ConditionalCheckFailed"
    assert "Item" not in reasons[0]


@pytest.mark.parametrize(
    "actions",
    [[], [{"Put": put("a")}, {"Put": put("a")}], [{"Put": put(str(number))} for number in range(101)]],
    ids=["none", "one item twice", "101"],
)
def test_a_transaction_takes_one_to_a_hundred_different_items(dynamodb: Any, actions: Sequence[Any]) -> None:
    with pytest.raises(Exception, match=r".*") as caught:
        dynamodb.transact_write_items(TransactItems=actions)
    assert type(caught.value).__name__ in ("ClientError", "ValidationException", "ParamValidationError")
    assert read(dynamodb, "a", "1") == {}


def test_a_value_that_no_expression_uses_is_refused(dynamodb: Any) -> None:
    with pytest.raises(ClientError) as caught:
        dynamodb.update_item(**update("a", "SET n = :n", "attribute_not_exists(pk)", n={"N": "1"}, unused={"N": "1"}))
    assert code_of(caught) == "ValidationException"


def test_the_same_token_twice_is_one_transaction(dynamodb: Any, request: pytest.FixtureRequest) -> None:
    named_difference(request, "the same token twice is one transaction")
    for _ in range(2):
        dynamodb.transact_write_items(TransactItems=[{"Put": put("a")}], ClientRequestToken="token")


def test_an_item_over_400_kb_is_refused(dynamodb: Any) -> None:
    with pytest.raises(ClientError):
        dynamodb.put_item(**put("a", text={"S": "x" * 410_000}))


def test_the_open_index_gives_the_keys_of_what_is_due_oldest_first(dynamodb: Any) -> None:
    for key, at in (("late", 30), ("first", 10), ("second", 20)):
        dynamodb.put_item(**put(key, open_kind={"S": "T#0"}, open_at={"N": str(at)}, other={"S": "x"}))
    dynamodb.put_item(**put("elsewhere", open_kind={"S": "T#1"}, open_at={"N": "10"}))
    dynamodb.put_item(**put("closed", other={"S": "x"}))
    query = {
        "TableName": "ledger",
        "IndexName": "open-index",
        "KeyConditionExpression": "open_kind = :kind AND open_at <= :until",
        "ExpressionAttributeValues": {":kind": {"S": "T#0"}, ":until": {"N": "25"}},
    }
    items = dynamodb.query(**query, Limit=10)["Items"]
    assert [item["pk"]["S"] for item in items] == ["first", "second"]
    assert items[0] == {"pk": {"S": "first"}, "open_kind": {"S": "T#0"}, "open_at": {"N": "10"}}
    assert len(dynamodb.query(**query, Limit=1)["Items"]) == 1


def test_a_batch_read_takes_a_hundred_keys_none_of_them_twice(dynamodb: Any) -> None:
    for keys in (["a", "a"], [str(number) for number in range(101)]):
        with pytest.raises(ClientError) as caught:
            read(dynamodb, *keys)
        assert code_of(caught) == "ValidationException"
