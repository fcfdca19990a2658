"""What is in quarantine, as Cloudflare's search shows it in simulated time: its lists, and messages by their full ids.

It stands in for the session of `CloudflareLookup`, whose calls count as all others do. A Postfix id leads to nothing
by path, and is found in the lists alone.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from benchmarks.limited_cloudflare import LimitedCloudflare
from benchmarks.simulated_time import SimulatedTime
from quarantine_release.cloudflare.connection import NoReply
from quarantine_release.cloudflare.entries import RELEASE
from quarantine_release.cloudflare.reply import Reply
from quarantine_release.domain.ids import MessageId

# A call for a page of up to 1,000 messages, and one for a single message.
LIST_SECONDS, READ_SECONDS = (0.5, 1.5), (0.2, 0.5)
_BASE_52: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that came into quarantine then, and the ids it goes by."""

    postfix_id: MessageId
    investigate_id: MessageId
    at: datetime

    @classmethod
    def of(cls, at: datetime, random: Random) -> "Mail":
        """Make up a message. Its Postfix id begins with its time, as long queue ids do."""
        seconds, postfix_id = int(at.timestamp()), "".join(random.choices(_BASE_52, k=9))
        while seconds:
            seconds, digit = divmod(seconds, len(_BASE_52))
            postfix_id = _BASE_52[digit] + postfix_id
        digits = random.randrange(10**7, 10**8)
        return cls(MessageId(postfix_id), MessageId(f"{postfix_id}-{at:%Y-%m-%dT%H:%M:%S}-{digits}"), at)


class Quarantine:
    """The session of a lookup. What was released is in quarantine no longer."""

    def __init__(self, time: SimulatedTime, random: Random, account: LimitedCloudflare, mails: Iterable[Mail]) -> None:
        self._time = time
        self._random = random
        self._account = account
        self._mails = sorted(mails, key=lambda mail: mail.at, reverse=True)
        self._by_id = {mail.investigate_id: mail for mail in self._mails}
        self._entries = {mail.investigate_id: json.dumps(_entry(mail)) for mail in self._mails}

    def send(self, _: str, url: str, __: Mapping[str, str], ___: bytes | None, seconds: float) -> Reply | NoReply:
        """Make one call, and give it up after so many seconds. It tells what was so when it was begun."""
        _, _, wanted = url.partition("/investigate")
        reply = self._list(parse_qs(wanted[1:])) if wanted.startswith("?") else self._read(unquote(wanted[1:]))
        takes = self._random.uniform(*(LIST_SECONDS if wanted.startswith("?") else READ_SECONDS))
        retry_after = self._account.call((min(takes, seconds),) * 2)
        if retry_after is not None:
            return Reply(429, {"retry-after": str(retry_after)}, b"")
        return reply if takes <= seconds else NoReply(True, "deadline")

    def _list(self, query: Mapping[str, list[str]]) -> Reply:
        """Answer with one page, latest first. A cursor tells a place that stays when something before it leaves."""
        is_of_all = query["detections_only"] == ["true"]
        if not is_of_all and query["delivery_status"] != ["quarantined"]:
            raise RuntimeError("a search for all mail")
        start, end = (datetime.fromisoformat(query[name][0]) for name in ("start", "end"))
        size, shown, following = int(query["per_page"][0]), list[str](), "null"
        for place in range(int(query.get("cursor", ["0"])[0]), len(self._mails)):
            mail = self._mails[place]
            if not start <= mail.at <= end or (self._is_released(mail) and not is_of_all):
                continue
            if len(shown) == size:
                following = f'"{place}"'
                break
            shown.append(json.dumps(self._now(mail)) if is_of_all else self._entries[mail.investigate_id])
        return _reply(f"[{','.join(shown)}]", f', "result_info": {{"count": {len(shown)}, "next": {following}}}')

    def _read(self, message_id: str) -> Reply:
        mail = self._by_id.get(MessageId(message_id))
        if mail is None:
            return Reply(404, {}, b'{"success": false, "errors": [], "messages": [], "result": null}')
        return _reply(json.dumps(self._now(mail)))

    def _now(self, mail: Mail) -> dict[str, Any]:
        released = {"is_quarantined": False, "post_delivery_operations": [RELEASE]} if self._is_released(mail) else {}
        return _entry(mail) | released

    def _is_released(self, mail: Mail) -> bool:
        released = self._account.released
        return mail.investigate_id in released or mail.postfix_id in released


def _reply(result: str, more: str = "") -> Reply:
    return Reply(200, {}, f'{{"success": true, "errors": [], "messages": [], "result": {result}{more}}}'.encode())


def _entry(mail: Mail) -> dict[str, Any]:
    return {
        "id": mail.investigate_id,
        "postfix_id": mail.postfix_id,
        "message_id": f"<{mail.postfix_id}@news.example>",
        "is_quarantined": True,
        "delivery_status": ["quarantined"],
        "delivery_mode": "DIRECT",
        "final_disposition": "SPAM",
        "post_delivery_operations": [],
        "client_recipients": ["ann@example.com"],
        "from": "news@news.example",
        "subject": "News",
        "scanned_at": f"{mail.at:%Y-%m-%dT%H:%M:%SZ}",
    }
