"""Two mails as the small Cloudflare describes them: one that may be released, and one that may not."""

import json
from typing import Any

from tests.support.deployment import INVESTIGATE_ID
from tests.support.small_cloudflare import RECIPIENT, Reply

ALERT = INVESTIGATE_ID.rpartition("-")[0]
HEADER = "<2024.1@example.net>"
EVIL = "4WtWkr6nlBz9sNH-2024-08-28T15:32:35-7"
SUBJECT = "a subject canary"


def entry(investigate_id: str = INVESTIGATE_ID, **members: Any) -> dict[str, Any]:
    """Return a message's details as Cloudflare tells them."""
    return {
        "id": investigate_id,
        "postfix_id": investigate_id.partition("-")[0],
        "message_id": HEADER,
        "is_quarantined": True,
        "final_disposition": "SPAM",
        "delivery_mode": "DIRECT",
        "client_recipients": [RECIPIENT],
        "from": "sender.canary@example.net",
        "subject": SUBJECT,
        "post_delivery_operations": [],
        "scanned_at": "2024-01-05T10:00:00Z",
    } | members


class Listed(Reply):
    """A page of the search."""

    def __init__(self, entries: list[dict[str, Any]]) -> None:
        super().__init__(result=entries)

    @property
    def body(self) -> bytes:
        return json.dumps(
            {"success": True, "errors": [], "messages": [], "result": self.result, "result_info": {"next": None}}
        ).encode()
