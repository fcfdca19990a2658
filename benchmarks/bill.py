"""What a million requests cost, from what was measured and the list prices of us-east-1."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

# US dollars, as published in 2026. Lambda arm64 by GB and second; the rest by the million, or by the GB of logs.
GB_SECOND: Final = 0.0000133334
INVOCATIONS: Final = 0.20
REST_API: Final = 3.50
WRITE_UNITS: Final = 0.625
READ_UNITS: Final = 0.125
SECRET_CALLS: Final = 5.00
LOG_GB: Final = 0.50
# What a call takes elsewhere while the function waits, in seconds.
CLOUDFLARE_SECONDS: Final = 0.55
AWS_SECONDS: Final = 0.005


@dataclass(frozen=True, slots=True)
class Bill:
    """Dollars per million requests, by what they are paid for."""

    items: Mapping[str, float]

    @property
    def total(self) -> float:
        """Return the sum."""
        return sum(self.items.values())


def bill(memory_mb: int, computing_seconds: float, calls: Mapping[str, float], log_bytes: float) -> Bill:
    """Return what a request costs that computes for so long at its memory's share of a CPU, a million times.

    `calls` are those of one request, by name, with DynamoDB's read and write units.
    """
    names = ("TransactWriteItems", "UpdateItem", "BatchGetItem", "PutItem", "GetSecretValue")
    waiting = CLOUDFLARE_SECONDS * calls.get("Cloudflare", 0) + AWS_SECONDS * sum(calls.get(name, 0) for name in names)
    return Bill(
        {
            "REST API": REST_API,
            "Lambda": INVOCATIONS + (computing_seconds + waiting) * memory_mb / 1024 * GB_SECOND * 1e6,
            "DynamoDB": calls.get("write units", 0) * WRITE_UNITS + calls.get("read units", 0) * READ_UNITS,
            "secrets": calls.get("GetSecretValue", 0) * SECRET_CALLS,
            "logs": log_bytes * LOG_GB / 1000,
        }
    )
