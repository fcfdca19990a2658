"""Looks up at Cloudflare what became of messages: in packs by listing, singly only what the lists did not show."""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from quarantine_release.cloudflare import USER_AGENT, Secret
from quarantine_release.cloudflare_answer import Reply, evidence_of
from quarantine_release.credentials import Credential, SecretMalformed
from quarantine_release.deadline import DeadlineSession
from quarantine_release.outcome import AccountId, Evidence, PostfixPart, Reading, Seen, Wanted, is_bare
from quarantine_release.reading import match, reading_of, was_released_since, windows_of
from quarantine_release.secret_store import SecretUnavailable

_PAGE: Final = 1000
_PAGES_AT_ONCE: Final = 12
# Of the 100 single reads a minute and account that we allow ourselves, each message may take two.
_SINGLES_AT_ONCE: Final = 40
_CALL_SECONDS: Final = 5.0
# So few are cheaper read one by one than listed with whatever else arrived around them.
_FEW: Final = 2


class CloudflareReader:
    """Reads Cloudflare's Email Security search, for the accounts of one secret."""

    def __init__(self, base_url: str, secret: Secret, session: DeadlineSession, clock: Callable[[], datetime]) -> None:
        self._base_url = base_url.rstrip("/")
        self._secret = secret
        self._session = session
        self._clock = clock

    def read(self, account_id: AccountId, wanted: Sequence[Wanted], seconds: float) -> Mapping[PostfixPart, Reading]:
        """Read messages within so many seconds; what is left out is UNREAD."""
        try:
            credential = self._secret.get().credentials.get(account_id)
        except (SecretUnavailable, SecretMalformed):
            credential = None
        if credential is None:
            return {}
        search = _Search(
            self._session, f"{self._base_url}/accounts/{account_id}/email-security/investigate", credential
        )
        search.ends_at = time.monotonic() + seconds
        now = self._clock()
        # A list shows that a message was released, not when: no use for one that was released before.
        listable = [one for one in wanted if one.since is None]
        if len(listable) > _FEW:
            search.list_windows(listable, now)
        for one in [one for one in wanted if one.part not in search.readings][:_SINGLES_AT_ONCE]:
            search.read_one(one, now)
        return search.readings


@dataclass(slots=True)
class _Search:
    session: DeadlineSession
    url: str
    credential: Credential
    ends_at: float = 0.0
    pages: int = 0
    has_listed: bool = False
    is_incomplete: bool = False
    is_refused: bool = False
    readings: dict[PostfixPart, Reading] = field(default_factory=dict)

    def list_windows(self, wanted: Sequence[Wanted], now: datetime) -> None:
        """List page by page until everything is found or the pages of one run are used up."""
        self.has_listed = True
        for start, end in windows_of(wanted, now):
            cursor: str | None = ""
            while cursor is not None:
                left = [one for one in wanted if one.part not in self.readings]
                if not left:
                    return
                if self.pages >= _PAGES_AT_ONCE:
                    self.is_incomplete = True
                    return
                cursor = self._list_page(left, start, end, cursor)

    def _list_page(self, wanted: Sequence[Wanted], start: datetime, end: datetime, cursor: str) -> str | None:
        query = {
            "start": _rfc3339(start),
            "end": _rfc3339(end),
            "per_page": str(_PAGE),
            "detections_only": "false",
            **({"cursor": cursor} if cursor else {}),
        }
        self.pages += 1
        content, evidence = self._get(f"?{urlencode(query)}")
        if not content:
            self.is_incomplete = True
        entries = _dicts(content.get("result"))
        for part, entry in match(entries, wanted).items():
            reading = reading_of(entry, evidence)
            # Unclear in a list may be clear in the log: left for the single read.
            if reading.seen is not Seen.UNCLEAR:
                self.readings[part] = reading
        info = content.get("result_info")
        following = info.get("next") if isinstance(info, dict) else None
        return following if isinstance(following, str) and following and entries else None

    def read_one(self, one: Wanted, now: datetime) -> None:
        """Read one message by its id, its action log where the message itself does not tell, else list around it."""
        path = f"/{quote(one.message_id, safe='')}"
        content, evidence = self._get(path)
        if evidence.status == 404:
            if one.since is None and not self.has_listed:
                self.list_windows([one], now)
                self.has_listed = False
            # A bare id is not one that can be read by path: absent only if it is not listed either.
            if one.part not in self.readings and not (is_bare(one.message_id) and self.is_incomplete):
                self.readings[one.part] = Reading(Seen.ABSENT, evidence)
            return
        found = match(_dicts(content.get("result")), [one]).get(one.part)
        if found is None:
            return
        reading = reading_of(found, evidence)
        if one.since is not None or reading.seen is Seen.UNCLEAR:
            log, evidence = self._get(f"{path}/action_log")
            if evidence.status != 200:
                return
            if was_released_since(_dicts(log.get("result")), one.since):
                reading = Reading(Seen.RELEASED, evidence, reading.message_id)
            elif reading.seen is Seen.RELEASED:
                reading = Reading(Seen.UNCLEAR, evidence, reading.message_id)
        self.readings[one.part] = reading

    def _get(self, path: str) -> tuple[dict[str, Any], Evidence]:
        """Get a page; its content is empty unless it is a good answer."""
        seconds = min(_CALL_SECONDS, self.ends_at - time.monotonic()) if not self.is_refused else 0.0
        headers = {**self.credential.headers, "User-Agent": USER_AGENT}
        reply = self.session.send("GET", self.url + path, headers, None, seconds)
        if not isinstance(reply, Reply):
            return {}, Evidence(failure=reply.failure)
        try:
            content = json.loads(reply.body)
        except (ValueError, RecursionError):
            content = None
        # Who goes on calling now only prolongs it, or is locked out for it.
        self.is_refused = reply.status in (401, 403, 429)
        is_good = reply.status == 200 and isinstance(content, dict) and content.get("success") is True
        return content if is_good else {}, evidence_of(reply)


def _dicts(value: Any) -> list[dict[str, Any]]:
    entries = value if isinstance(value, list) else [value]
    return [entry for entry in entries if isinstance(entry, dict)]


def _rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
