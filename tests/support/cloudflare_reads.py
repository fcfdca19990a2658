"""What a server in Cloudflare's place answers to reads, and how the calls for them look."""

import json
import time
from dataclasses import dataclass, field
from typing import Any

from quarantine_release.cloudflare.log_pages import PER_PAGE
from quarantine_release.config.accounts import Accounts, parse_accounts
from tests.support.cloudflare_entries import DAY, MINUTE, full_id
from tests.support.fault_server import Play, answers
from tests.support.stand_ins import ACCOUNT, NOON

TOKEN = "a-token-of-the-simulator"
BY_TOKEN = {"account_id": ACCOUNT, "api_token": TOKEN}
INVESTIGATE = f"/client/v4/accounts/{ACCOUNT}/email-security/investigate"
AT = NOON - 9 * DAY
FULLS = [full_id(AT + minutes * MINUTE) for minutes in range(60)]
AROUND_THREE = "?start=2026-11-13T11%3A00%3A00Z&end=2026-11-13T13%3A02%3A00Z&per_page=1000&detections_only=false"
AROUND_BARE = "?start=2026-11-12T00%3A00%3A00Z&end=2026-11-15T00%3A00%3A00Z&per_page=1000&detections_only=false"


@dataclass
class Held:
    """The secret, or why there is none."""

    content: Accounts | Exception = field(default_factory=lambda: parse_accounts(json.dumps(BY_TOKEN)))
    seconds: float = 0.0

    def get(self) -> Accounts:
        time.sleep(self.seconds)
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    refetch = get


def ok(result: Any, **members: Any) -> Play:
    content = {"success": True, "errors": [], "messages": [], "result": result} | members
    return answers(200, json.dumps(content).encode(), "cf-ray: ray-1")


def page(*entries: Any, following: Any = None) -> Play:
    return ok(list(entries), result_info={"count": len(entries), "per_page": 1000, "next": following, "page": 0})


def refusal(status: int, code: int = 7003) -> Play:
    content = {"success": False, "errors": [{"code": code, "message": "no"}], "messages": [], "result": None}
    return answers(status, json.dumps(content).encode(), "cf-ray: ray-1")


def escaped(message_id: str) -> str:
    return "/" + message_id.replace(":", "%3A")


def logged(*actions: Any, size: int = PER_PAGE, **info: Any) -> Play:
    """Answer with the only page of an action log."""
    return ok(list(actions), result_info={"count": len(actions), "per_page": size, **info})


def log_of(message_id: str, number: int = 1) -> str:
    return f"{escaped(message_id)}/action_log?page={number}&per_page={PER_PAGE}"
