"""A small DynamoDB in memory, with the meaning of the real one: conditions, transactions, idempotency, lost answers.

It stands for the service in simulations, since moto cannot lose an answer, throttle, or hold under concurrency; one
contract suite (`test_dynamodb_contract.py`) runs against both. It knows the expressions that the ledger uses.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from functools import lru_cache
from typing import Any

from botocore.exceptions import ClientError, ReadTimeoutError

Item = dict[str, Any]


class Fault(StrEnum):
    """What may befall one call."""

    TIMEOUT_BEFORE = "the call is lost on its way"
    TIMEOUT_AFTER = "the call takes effect and its answer is lost, also for the SDK's own retries"
    REPEATED = "the answer is lost once, and the SDK's retry finds its own write"
    THROTTLED = "the service throttles until the SDK gives up"
    CONFLICT = "another transaction is under way on the same item"
    CANCELLED = "the transaction is cancelled as if one of its messages had moved"


def no_fault(operation: str) -> Fault | None:  # noqa: ARG001
    """Let every call pass."""
    return None


class ModelDynamoDB:
    """One table. `before_call` is asked before every call, and may also let time pass or end the caller's life.

    `written` are the keys of all writes, which who looks at them may clear.
    """

    def __init__(self, before_call: Callable[[str], Fault | None] = no_fault, *, checks_sizes: bool = True) -> None:
        self._checks_sizes = checks_sizes
        self.items: dict[str, Item] = {}
        self.calls: list[str] = []
        self.written: list[str] = []
        self._before_call = before_call
        self._tokens: dict[str, Any] = {}

    def transact_write_items(self, **parameters: Any) -> dict[str, Any]:
        actions = parameters["TransactItems"]

        def write(moved: int | None = None) -> dict[str, Any]:
            self._check_transaction(actions)
            token = parameters.get("ClientRequestToken")
            if token is not None and token in self._tokens:
                if self._tokens[token] != actions:
                    raise _error("IdempotentParameterMismatchException", "TransactWriteItems")
                return {}
            new: dict[str, Item] = {}
            reasons: list[dict[str, Any]] = []
            for action in actions:
                ((kind, detail),) = action.items()
                key, reason = _key_of(kind, detail), {"Code": "None"}
                old = self.items.get(key)
                if _holds(detail, old) and len(reasons) != moved:
                    if kind != "ConditionCheck":
                        new[key] = self._written(kind, detail, old)
                else:
                    reason = {"Code": "ConditionalCheckFailed", "Message": "The conditional request failed"}
                    if old is not None and detail.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
                        reason |= {"Item": _copy(old)}
                reasons.append(reason)
            if any(reason["Code"] != "None" for reason in reasons):
                raise _cancelled(reasons)
            self.items |= new
            self.written += new
            if token is not None:
                self._tokens[token] = _copy(actions)
            return {}

        # The SDK repeats a transaction under the same token, so a repetition is without effect.
        keys = [_key_of(kind, detail) for action in actions for kind, detail in action.items()]
        moved = next((at for at, key in enumerate(keys) if key.startswith("M#")), None)
        reasons = [{"Code": "TransactionConflict"}] * len(actions)
        return self._call("TransactWriteItems", write, lambda: _cancelled(reasons), moved=lambda: write(moved))

    def update_item(self, **parameters: Any) -> dict[str, Any]:
        def write() -> dict[str, Any]:
            key = parameters["Key"]["pk"]["S"]
            old = self.items.get(key)
            if not _holds(parameters, old):
                raise _condition_failed("UpdateItem", parameters, old)
            self.items[key] = self._written("Update", parameters, old)
            self.written.append(key)
            return {"Attributes": _copy(self.items[key])} if parameters.get("ReturnValues") == "ALL_NEW" else {}

        return self._call("UpdateItem", write, _conflict("UpdateItem"), again=True)

    def put_item(self, **parameters: Any) -> dict[str, Any]:
        def write() -> dict[str, Any]:
            key = parameters["Item"]["pk"]["S"]
            old = self.items.get(key)
            if not _holds(parameters, old):
                raise _condition_failed("PutItem", parameters, old)
            self.items[key] = self._written("Put", parameters, old)
            self.written.append(key)
            return {}

        return self._call("PutItem", write, _conflict("PutItem"), again=True)

    def batch_get_item(self, **parameters: Any) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            ((table, wanted),) = parameters["RequestItems"].items()
            keys = [key["pk"]["S"] for key in wanted["Keys"]]
            if not 1 <= len(keys) <= 100 or len(set(keys)) != len(keys):
                raise _error("ValidationException", "BatchGetItem")
            return {"Responses": {table: [_copy(self.items[key]) for key in keys if key in self.items]}}

        return self._call("BatchGetItem", read)

    def query(self, **parameters: Any) -> dict[str, Any]:
        """Answer a query of the open index: `open_kind = :kind AND open_at <= :until`, oldest first."""
        values = parameters["ExpressionAttributeValues"]

        def read() -> dict[str, Any]:
            found = sorted(
                (
                    item
                    for item in self.items.values()
                    if item.get("open_kind") == values[":kind"]
                    and int(item["open_at"]["N"]) <= int(values[":until"]["N"])
                ),
                key=lambda item: (int(item["open_at"]["N"]), item["pk"]["S"]),
            )
            keys = [{name: item[name] for name in ("pk", "open_kind", "open_at")} for item in found]
            start = keys.index(parameters["ExclusiveStartKey"]) + 1 if "ExclusiveStartKey" in parameters else 0
            page = keys[start : start + parameters["Limit"]]
            is_cut = len(page) == parameters["Limit"]  # as DynamoDB does, also if nothing follows
            return {"Items": page, **({"LastEvaluatedKey": page[-1]} if is_cut else {})}

        return self._call("Query", read)

    def _call(
        self,
        operation: str,
        act: Callable[[], dict[str, Any]],
        conflict: Callable[[], ClientError] | None = None,
        *,
        again: bool = False,
        moved: Callable[[], dict[str, Any]] | None = None,
    ) -> dict[str, Any]:
        self.calls.append(operation)
        match self._before_call(operation):
            case Fault.TIMEOUT_BEFORE:
                raise ReadTimeoutError(endpoint_url="model")
            case Fault.TIMEOUT_AFTER:
                with suppress(ClientError):
                    act()
                raise ReadTimeoutError(endpoint_url="model")
            case Fault.THROTTLED:
                raise _error("ProvisionedThroughputExceededException", operation)
            case Fault.CONFLICT if conflict is not None:
                raise conflict()
            case Fault.CANCELLED if moved is not None:
                return moved()
            case Fault.REPEATED if again:
                act()
        return act()

    def _written(self, kind: str, detail: Mapping[str, Any], old: Item | None) -> Item:
        new: Item = _copy(detail["Item"]) if kind == "Put" else _updated(detail, old)
        is_too_large = self._checks_sizes and _size(new) > 400 << 10
        if is_too_large or any(value.get("SS") == [] for value in new.values()):
            raise _error("ValidationException", kind)
        return new

    def _check_transaction(self, actions: Sequence[Mapping[str, Any]]) -> None:
        keys = [_key_of(kind, detail) for action in actions for kind, detail in action.items()]
        if not 1 <= len(actions) <= 100 or len(set(keys)) != len(keys):
            raise _error("ValidationException", "TransactWriteItems")
        if self._checks_sizes and sum(map(_size, actions)) > 4 << 20:
            raise _error("ValidationException", "TransactWriteItems")


def _size(value: Any) -> int:
    if isinstance(value, dict):
        return sum(len(name) + _size(part) for name, part in value.items())
    if isinstance(value, list | set):
        return sum(map(_size, value))
    return len(value) if isinstance(value, str | bytes) else 1


def _copy(value: Any) -> Any:
    """Copy one level: attributes are replaced, never changed in place, on either side."""
    return dict(value) if isinstance(value, dict) else value


@lru_cache(maxsize=1000)
def _tokens_of(expression: str) -> tuple[str, ...]:
    return tuple(re.findall(r"[()]|<=|>=|<>|[=<>]|[#:]?\w+", expression))


@lru_cache(maxsize=1000)
def _used_by(*expressions: str) -> frozenset[str]:
    return frozenset(token for expression in expressions for token in _tokens_of(expression))


@lru_cache(maxsize=1000)
def _clauses_of(expression: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    parts = re.split(r"\b(SET|REMOVE|ADD|DELETE)\b", expression)[1:]
    return tuple(
        (verb, tuple(clause.strip().split(", "))) for verb, clause in zip(parts[::2], parts[1::2], strict=True)
    )


def _key_of(kind: str, detail: Mapping[str, Any]) -> str:
    key: str = detail["Item" if kind == "Put" else "Key"]["pk"]["S"]
    return key


def _updated(detail: Mapping[str, Any], old: Item | None) -> Item:
    new = _copy(old) if old is not None else _copy(detail["Key"])
    names, values = detail.get("ExpressionAttributeNames", {}), detail.get("ExpressionAttributeValues", {})
    for verb, clause in _clauses_of(detail["UpdateExpression"]):
        for action in clause:
            name, *rest = action.replace(" = ", " ").split()
            name = names.get(name, name)
            value = values[rest[0]] if rest else None
            match verb:
                case "SET":
                    new[name] = _copy(value)
                case "REMOVE":
                    new.pop(name, None)
                case "ADD" if value is not None and "N" in value:
                    new[name] = {"N": str(int(new.get(name, {"N": "0"})["N"]) + int(value["N"]))}
                case "ADD" if value is not None:
                    new[name] = {"SS": sorted({*new.get(name, {"SS": []})["SS"], *value["SS"]})}
                case _ if value is not None:
                    left = sorted(set(new.get(name, {"SS": []})["SS"]) - set(value["SS"]))
                    new.pop(name, None)
                    new |= {name: {"SS": left}} if left else {}
    return dict(new)


def _holds(detail: Mapping[str, Any], old: Item | None) -> bool:
    expression = detail.get("ConditionExpression")
    used = _used_by(expression or "", detail.get("UpdateExpression", ""))
    placeholders = (detail.get("ExpressionAttributeNames", {}), detail.get("ExpressionAttributeValues", {}))
    if not all(used.issuperset(each) for each in placeholders):
        raise _error("ValidationException", "unused placeholder")
    if expression is None:
        return True
    return _Condition(_tokens_of(expression), old or {}, detail).whole()


class _Condition:
    """Reads a condition from left to right: OR over AND over one test or a pair of parentheses."""

    def __init__(self, tokens: Sequence[str], item: Item, detail: Mapping[str, Any]) -> None:
        self._tokens = [*tokens, ""]
        self._item = item
        self._names = detail.get("ExpressionAttributeNames", {})
        self._values = detail.get("ExpressionAttributeValues", {})

    def whole(self) -> bool:
        held = self._or()
        assert self._tokens == [""], f"not understood: {self._tokens}"
        return held

    def _or(self) -> bool:
        held = self._and()
        while self._tokens[0] == "OR":
            self._next()
            held = self._and() or held
        return held

    def _and(self) -> bool:
        held = self._one()
        while self._tokens[0] == "AND":
            self._next()
            held = self._one() and held
        return held

    def _one(self) -> bool:
        token = self._next()
        if token == "(":
            held = self._or()
            assert self._next() == ")"
            return held
        if token in ("attribute_exists", "attribute_not_exists"):
            assert self._next() == "("
            name = self._next()
            assert self._next() == ")"
            return (self._names.get(name, name) in self._item) == (token == "attribute_exists")
        if token == "size":
            assert self._next() == "("
            members = self._item.get(self._names[self._next()], {"SS": []})["SS"]
            assert self._next() == ")"
            found: Any = {"N": str(len(members))}
        else:
            found = self._item.get(self._names.get(token, token))
        compare, wanted = self._next(), self._values[self._next()]
        if found is None or found.keys() != wanted.keys():
            return compare == "<>"
        ((kind, left),), ((_, right),) = found.items(), wanted.items()
        one, other = (int(left), int(right)) if kind == "N" else (left, right)
        return bool({"=": one == other, "<>": one != other, "<=": one <= other, ">=": one >= other}[compare])

    def _next(self) -> str:
        return self._tokens.pop(0)


def _error(code: str, operation: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": code}}, operation)


def _conflict(operation: str) -> Callable[[], ClientError]:
    return lambda: _error("TransactionConflictException", operation)


def _cancelled(reasons: Sequence[Mapping[str, Any]]) -> ClientError:
    response: Any = {
        "Error": {"Code": "TransactionCanceledException", "Message": "Transaction cancelled"},
        "CancellationReasons": list(reasons),
    }
    return ClientError(response, "TransactWriteItems")


def _condition_failed(operation: str, parameters: Mapping[str, Any], old: Item | None) -> ClientError:
    response: Any = {"Error": {"Code": "ConditionalCheckFailedException", "Message": "The conditional request failed"}}
    if old is not None and parameters.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
        response["Item"] = _copy(old)
    return ClientError(response, operation)
