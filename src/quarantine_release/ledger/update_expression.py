"""Build one conditional DynamoDB update: what is set, removed, added and deleted, and what must hold for it. Pure.

Every name and value goes through a placeholder: "state", "owner" and others are reserved words of the expression
language (DynamoDB developer guide, "Reserved words").
"""

from typing import Any

from quarantine_release.ledger.codecs import Attribute
from quarantine_release.ledger.row_version import NAME, STAMP

Write = dict[str, Any]


class UpdateExpression:
    """One update of one item. It stamps the item with this version, and passes no item of a newer one."""

    def __init__(self, key: Attribute) -> None:
        self._key = key
        self._clauses: dict[str, list[str]] = {"SET": [], "REMOVE": [], "ADD": [], "DELETE": []}
        self._conditions: list[str] = []
        self._names: dict[str, str] = {}
        self._values: dict[str, Attribute] = {}
        self.set(NAME, STAMP)
        self.require_absent_or_below(NAME, STAMP)

    def set(self, name: str, value: Attribute) -> None:
        """Set an attribute."""
        self._clauses["SET"].append(f"{self._name(name)} = {self._value(value)}")

    def remove(self, name: str) -> None:
        """Remove an attribute."""
        self._clauses["REMOVE"].append(self._name(name))

    def add(self, name: str, value: Attribute) -> None:
        """Add to a counter or a set."""
        self._clauses["ADD"].append(f"{self._name(name)} {self._value(value)}")

    def delete(self, name: str, value: Attribute) -> None:
        """Delete from a set."""
        self._clauses["DELETE"].append(f"{self._name(name)} {self._value(value)}")

    def require(self, name: str, value: Attribute) -> None:
        """Let the update pass only if the attribute has this value; an update of an absent item would create it."""
        self._conditions.append(f"{self._name(name)} = {self._value(value)}")

    def require_absent(self, name: str) -> None:
        """Let the update pass only if the attribute is not there."""
        self._conditions.append(f"attribute_not_exists({self._name(name)})")

    def require_same(self, name: str, seen: Attribute | None) -> None:
        """Let the update pass only if the attribute is as it was seen; None: it was not there."""
        if seen is None:
            self.require_absent(name)
        else:
            self.require(name, seen)

    def require_absent_or_below(self, name: str, value: Attribute) -> None:
        """Let the update pass only if the attribute is not there or not above this value."""
        self._conditions.append(
            f"(attribute_not_exists({self._name(name)}) OR {self._name(name)} <= {self._value(value)})"
        )

    def require_fewer(self, name: str, number: int) -> None:
        """Let the update pass only if the set is not there or holds fewer elements."""
        most = self._value({"N": str(number - 1)})
        self._conditions.append(f"(attribute_not_exists({self._name(name)}) OR size({self._name(name)}) <= {most})")

    def build(self) -> dict[str, Any]:
        """Return the parameters of UpdateItem but the table, which are also those of an Update within a transaction."""
        clauses = (f"{verb} {', '.join(parts)}" for verb, parts in self._clauses.items() if parts)
        return {
            "Key": {"pk": self._key},
            "UpdateExpression": " ".join(clauses),
            "ExpressionAttributeNames": self._names,
            "ExpressionAttributeValues": self._values,
            "ConditionExpression": " AND ".join(self._conditions),
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }

    def _name(self, name: str) -> str:
        self._names[f"#{name}"] = name
        return f"#{name}"

    def _value(self, value: Attribute) -> str:
        placeholder = f":{len(self._values)}"
        self._values[placeholder] = value
        return placeholder
