"""Embedded AWS has what `template.yaml` says, and keeps DynamoDB's promises where moto as it comes does not."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from local.children import CHECKOUT
from local.services import Service, start_embedded_aws
from local.template import REGION, Template, UnsupportedTemplate
from local.transactions import Transactions

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

THREADS = 50


@pytest.fixture(scope="module")
def template() -> Template:
    return Template.read(CHECKOUT / "template.yaml")


@pytest.fixture(scope="module")
def aws(template: Template, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    log = tmp_path_factory.mktemp("aws") / "services.log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_PROFILE", "a-profile-that-must-not-be-asked-for")
        service = start_embedded_aws(template, {"CloudflareSecret": '{"account_id": "a"}'}, log)
    with service:
        yield service


@pytest.fixture(scope="module")
def dynamodb(aws: Service) -> Iterator["DynamoDBClient"]:
    config = Config(max_pool_connections=THREADS, retries={"total_max_attempts": 1})
    client = _client("dynamodb", aws, config)
    yield client
    client.close()


@pytest.fixture(scope="module")
def table(template: Template) -> str:
    name: str = template.tables()[0]["TableName"]
    return name


def test_the_table_is_the_one_of_the_template(dynamodb: "DynamoDBClient", table: str) -> None:
    description = dynamodb.describe_table(TableName=table)["Table"]

    assert description["KeySchema"] == [{"AttributeName": "pk", "KeyType": "HASH"}]
    assert [index["IndexName"] for index in description["GlobalSecondaryIndexes"]] == ["open-index"]
    ttl = dynamodb.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}


def test_the_index_holds_the_open_rows_only(dynamodb: "DynamoDBClient", table: str) -> None:
    dynamodb.put_item(TableName=table, Item={"pk": {"S": "open"}, "open_kind": {"S": "R"}, "open_at": {"N": "7"}})
    dynamodb.put_item(TableName=table, Item={"pk": {"S": "ended"}})

    found = dynamodb.query(
        TableName=table,
        IndexName="open-index",
        KeyConditionExpression="open_kind = :kind AND open_at <= :now",
        ExpressionAttributeValues={":kind": {"S": "R"}, ":now": {"N": "7"}},
    )

    assert [item["pk"]["S"] for item in found["Items"]] == ["open"]


def test_the_secrets_have_the_given_values_under_the_names_that_the_functions_get(
    aws: Service, template: Template
) -> None:
    environment = template.functions()["WebhookFunction"].environment
    client = _client("secretsmanager", aws)

    assert (
        client.get_secret_value(SecretId=environment["CLOUDFLARE_SECRET_ID"])["SecretString"] == '{"account_id": "a"}'
    )
    assert client.get_secret_value(SecretId=environment["CLIENTS_SECRET_ID"])["SecretString"] == "{}"
    client.close()


def test_of_fifty_conditional_writes_of_one_key_exactly_one_wins(dynamodb: "DynamoDBClient", table: str) -> None:
    for _ in range(3):
        key = _new_key()

        def put(number: int, key: str = key) -> None:
            item = {"pk": {"S": key}, "winner": {"N": str(number)}}
            dynamodb.put_item(TableName=table, Item=item, ConditionExpression="attribute_not_exists(pk)")

        winners = _race(put)

        assert len(winners) == 1
        assert _read(dynamodb, table, key)["winner"] == {"N": str(winners[0])}


def test_no_addition_is_lost(dynamodb: "DynamoDBClient", table: str) -> None:
    key = _new_key()

    def add(_number: int) -> None:
        for _ in range(4):
            dynamodb.update_item(
                TableName=table,
                Key={"pk": {"S": key}},
                UpdateExpression="ADD calls :one",
                ExpressionAttributeValues={":one": {"N": "1"}},
            )

    assert len(_race(add)) == THREADS
    assert _read(dynamodb, table, key)["calls"] == {"N": str(4 * THREADS)}


def test_of_fifty_claims_exactly_one_wins_and_the_others_leave_nothing(dynamodb: "DynamoDBClient", table: str) -> None:
    prefix = _new_key()
    messages = [f"{prefix}-message-{number}" for number in range(25)]

    def claim(number: int) -> None:
        # Each begins elsewhere, so that without isolation several hold a part.
        _claim(dynamodb, table, f"{prefix}-attempt-{number}", messages[number % 25 :] + messages[: number % 25])

    winners = _race(claim)

    assert len(winners) <= 1  # none if all conflicted, as in DynamoDB
    if not winners:
        claim(THREADS)
        winners = [THREADS]
    owners = {_read(dynamodb, table, message).get("attempt", {}).get("S") for message in messages}
    assert owners == {f"{prefix}-attempt-{winners[0]}"}
    attempts = [_read(dynamodb, table, f"{prefix}-attempt-{number}") for number in range(THREADS + 1)]
    assert [number for number, attempt in enumerate(attempts) if attempt] == winners


def test_a_cancelled_transaction_takes_no_other_write_back(dynamodb: "DynamoDBClient", table: str) -> None:
    taken, prefix = _new_key(), _new_key()
    dynamodb.put_item(TableName=table, Item={"pk": {"S": taken}})

    def put_or_be_cancelled(number: int) -> None:
        if number % 2:
            _claim(dynamodb, table, f"{prefix}-attempt-{number}", [f"{prefix}-free-{number}", taken])
        else:
            dynamodb.put_item(TableName=table, Item={"pk": {"S": f"{prefix}-{number}"}})

    acknowledged = _race(put_or_be_cancelled)

    assert acknowledged == list(range(0, THREADS, 2))
    assert all(_read(dynamodb, table, f"{prefix}-{number}") for number in acknowledged)
    assert not any(_read(dynamodb, table, f"{prefix}-free-{number}") for number in range(THREADS))


def test_a_cancelled_transaction_restores_every_row_and_names_a_reason_for_each(
    dynamodb: "DynamoDBClient", table: str
) -> None:
    changed, deleted, created, blocking = (_new_key() for _ in range(4))
    for key in (changed, deleted, blocking):
        dynamodb.put_item(TableName=table, Item={"pk": {"S": key}, "state": {"S": "RELEASED"}})

    with pytest.raises(dynamodb.exceptions.TransactionCanceledException) as cancelled:
        dynamodb.transact_write_items(
            TransactItems=[
                {
                    "Update": {
                        "TableName": table,
                        "Key": {"pk": {"S": changed}},
                        "UpdateExpression": "SET note = :note",
                        "ExpressionAttributeValues": {":note": {"S": "x"}},
                    }
                },
                {"Delete": {"TableName": table, "Key": {"pk": {"S": deleted}}}},
                {"Put": {"TableName": table, "Item": {"pk": {"S": created}}}},
                {
                    "Put": {
                        "TableName": table,
                        "Item": {"pk": {"S": blocking}},
                        "ConditionExpression": "attribute_not_exists(pk)",
                        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
                    }
                },
            ]
        )

    reasons = cancelled.value.response["CancellationReasons"]
    assert [reason["Code"] for reason in reasons] == ["None", "None", "None", "ConditionalCheckFailed"]
    assert reasons[3]["Item"] == {"pk": {"S": blocking}, "state": {"S": "RELEASED"}}
    for key in (changed, deleted, blocking):
        assert _read(dynamodb, table, key) == {"pk": {"S": key}, "state": {"S": "RELEASED"}}
    assert not _read(dynamodb, table, created)


def test_a_write_to_a_row_of_a_transaction_under_way_is_refused(dynamodb: "DynamoDBClient", table: str) -> None:
    key, refusals = _new_key(), []

    def add(number: int) -> None:
        update: Any = {
            "TableName": table,
            "Key": {"pk": {"S": key}},
            "UpdateExpression": "ADD calls :one",
            "ExpressionAttributeValues": {":one": {"N": "1"}},
        }
        try:
            if number % 2:
                other: Any = {"Put": {"TableName": table, "Item": {"pk": {"S": f"{key}-{number}"}}}}
                dynamodb.transact_write_items(TransactItems=[other, {"Update": update}])
            else:
                dynamodb.update_item(**update)
        except ClientError as error:
            refusals.append(error.response)
            raise

    written = _race(add)

    assert _read(dynamodb, table, key)["calls"] == {"N": str(len(written))}
    assert len(refusals) == THREADS - len(written)  # how many meet one another is the machine's affair
    cancelled = [each for each in refusals if each["Error"]["Code"] == "TransactionCanceledException"]
    assert all(
        [why["Code"] for why in each["CancellationReasons"]] == ["None", "TransactionConflict"] for each in cancelled
    )
    add(1)  # nothing is held any more


def test_while_a_transaction_is_under_way_its_rows_take_no_other_write() -> None:
    transactions = Transactions({"ledger": "pk"})
    one = {"TableName": "ledger", "Item": {"pk": {"S": "one"}}}
    other = {"TableName": "ledger", "Key": {"pk": {"S": "other"}}}

    def refused(operation: str, body: dict[str, Any]) -> bool:
        with transactions.while_executing(operation, body) as refusal:
            return refusal is not None

    with transactions.while_executing("TransactWriteItems", {"TransactItems": [{"Put": one}]}) as refusal:
        assert refusal is None
        assert refused("PutItem", one)
        assert refused("TransactWriteItems", {"TransactItems": [{"Update": other}, {"Put": one}]})
        assert not refused("UpdateItem", other)
        assert not refused("BatchGetItem", {"RequestItems": {"ledger": {"Keys": [one["Item"]]}}})
    assert not refused("PutItem", one)
    with transactions.while_executing("PutItem", one):  # a plain write holds nothing
        assert not refused("TransactWriteItems", {"TransactItems": [{"Put": one}]})


def test_a_repeated_request_token_changes_nothing(dynamodb: "DynamoDBClient", table: str) -> None:
    key, token = _new_key(), str(uuid.uuid4())

    def add(amount: int) -> None:
        dynamodb.transact_write_items(
            ClientRequestToken=token,
            TransactItems=[
                {
                    "Update": {
                        "TableName": table,
                        "Key": {"pk": {"S": key}},
                        "UpdateExpression": "ADD calls :amount",
                        "ExpressionAttributeValues": {":amount": {"N": str(amount)}},
                    }
                }
            ],
        )

    add(1)
    add(1)
    with pytest.raises(dynamodb.exceptions.IdempotentParameterMismatchException):
        add(2)

    assert _read(dynamodb, table, key)["calls"] == {"N": "1"}


def test_a_full_transaction_takes_no_longer_in_a_large_table(dynamodb: "DynamoDBClient", table: str) -> None:
    prefix = _new_key()
    for start in range(0, 2000, 25):
        rows = [{"pk": {"S": f"{prefix}-{start + step}"}, "text": {"S": "x" * 200}} for step in range(25)]
        dynamodb.batch_write_item(RequestItems={table: [{"PutRequest": {"Item": row}} for row in rows]})

    started = time.monotonic()
    _claim(dynamodb, table, f"{prefix}-attempt", [f"{prefix}-message-{number}" for number in range(98)])

    assert time.monotonic() - started < 5  # moto as it comes needs 8 s


def test_the_template_is_resolved_as_cloudformation_does() -> None:
    document: dict[str, Any] = {
        "Parameters": {"Days": {"Default": 7}, "Empty": {"Default": ""}},
        "Conditions": {
            "HasDays": {"Fn::Not": [{"Fn::Equals": [{"Ref": "Days"}, ""]}]},
            "HasNot": {"Fn::Or": [{"Fn::Equals": [{"Ref": "Empty"}, "x"]}]},
        },
        "Resources": {
            "Ledger": {"Type": "AWS::DynamoDB::Table", "Properties": {"TableName": {"Fn::Sub": "l-${Days}"}}},
            "Spare": {"Type": "AWS::DynamoDB::Table", "Condition": "HasNot"},
        },
    }
    template = Template(document)
    cases: dict[str, tuple[Any, Any]] = {
        "parameter": ({"Ref": "Days"}, 7),
        "pseudo parameter": ({"Ref": "AWS::Region"}, REGION),
        "name": ({"Ref": "Ledger"}, "l-7"),
        "arn": ({"Fn::GetAtt": ["Ledger", "Arn"]}, f"arn:aws:dynamodb:{REGION}:123456789012:table/l-7"),
        "text": ({"Fn::Sub": ["${a}/${Days}/${Ledger}/${!b}", {"a": {"Ref": "Days"}}]}, "7/7/l-7/${b}"),
        "list": ({"Fn::Join": ["-", ["a", {"Ref": "Days"}]]}, "a-7"),
        "condition": ({"Fn::If": ["HasDays", [{"Ref": "AWS::NoValue"}, 1], 2]}, [1]),
        "member": ({"a": {"Fn::If": ["HasNot", 1, {"Ref": "AWS::NoValue"}]}, "b": True}, {"b": True}),
    }

    assert {name: template.resolve(value) for name, (value, _) in cases.items()} == {
        name: expected for name, (_, expected) in cases.items()
    }
    assert [each["TableName"] for each in template.tables()] == ["l-7"]
    with pytest.raises(UnsupportedTemplate):
        template.resolve({"Fn::ImportValue": "x"})


def test_short_tags_mean_the_long_forms(tmp_path: Path) -> None:
    path = tmp_path / "template.yaml"
    path.write_text(
        "Resources:\n"
        "  WebhookFunction:\n"
        "    Type: AWS::Serverless::Function\n"
        "    Properties:\n"
        "      Handler: a.b\n"
        "      Environment: {Variables: {ARN: !GetAtt Q.Arn, N: !Sub '${Q}!', B: true}}\n"
        "  Q: {Type: AWS::SQS::Queue, Properties: {QueueName: !Join ['', [a, b]]}}\n"
    )

    function = Template.read(path).functions()["WebhookFunction"]

    assert function.environment == {
        "ARN": f"arn:aws:sqs:{REGION}:123456789012:ab",
        "N": "https://sqs.us-east-1.amazonaws.com/123456789012/ab!",
        "B": "true",
    }
    assert (function.timeout_seconds, function.memory_mb) == (3, 128)


def _client(service: Any, aws: Service, config: Config | None = None) -> Any:
    return boto3.client(
        service,
        endpoint_url=aws.url,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
        config=config,
    )


def _new_key() -> str:
    return uuid.uuid4().hex


def _read(dynamodb: "DynamoDBClient", table: str, key: str) -> dict[str, Any]:
    return dict(dynamodb.get_item(TableName=table, Key={"pk": {"S": key}}).get("Item", {}))


def _claim(dynamodb: "DynamoDBClient", table: str, attempt: str, messages: list[str]) -> None:
    """Write the attempt and take its messages, all or none, as the ledger does."""
    condition = "attribute_not_exists(pk)"
    puts: list[Any] = [{"Put": {"TableName": table, "Item": {"pk": {"S": attempt}}}}]
    for message in messages:
        item = {"pk": {"S": message}, "attempt": {"S": attempt}}
        puts.append({"Put": {"TableName": table, "Item": item, "ConditionExpression": condition}})
    dynamodb.transact_write_items(TransactItems=puts)


def _race(write: Callable[[int], None]) -> list[int]:
    """Let fifty threads write at once; return those whose write was acknowledged. Only a condition may refuse one."""
    start = Barrier(THREADS)

    def run(number: int) -> bool:
        start.wait()
        try:
            write(number)
        except ClientError as error:
            if error.response["Error"]["Code"] not in (
                "ConditionalCheckFailedException",
                "TransactionCanceledException",
                "TransactionConflictException",
            ):
                raise
            return False
        return True

    with ThreadPoolExecutor(THREADS) as threads:
        acknowledged = list(threads.map(run, range(THREADS)))
    return [number for number, done in enumerate(acknowledged) if done]
