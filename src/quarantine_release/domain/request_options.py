"""What a caller may say besides the ids: which messages are meant, and when a request counts as failed. Pure."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final


class FailOn(StrEnum):
    """When a finished request is answered with 400 instead of 200, for callers that only look at the status."""

    NEVER = "never"
    NONE = "none"
    PARTIAL = "partial"


@dataclass(frozen=True, slots=True)
class Narrowing:
    """Which of several messages a Message-ID means: by recipient and sender (address or domain), time and number."""

    recipient: str | None = None
    sender: str | None = None
    since: datetime | None = None
    expect_count: int | None = None


ANY: Final = Narrowing()
