"""Cloudflare's search, single reads and action logs in simulated time: replies for the real lookup and reader.

What they show lags behind what is so. A message may have several rows, one for each recipient and each rescan, and
they may contradict one another. What was not shown for a while, nobody need have seen; what was, nobody may overlook.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlsplit

from quarantine_release.cloudflare.after_release import CloudflareReader
from quarantine_release.cloudflare.before_release import CloudflareLookup
from quarantine_release.cloudflare.connection import NoReply
from quarantine_release.cloudflare.reply import Reply
from quarantine_release.cloudflare.search import SearchApi
from quarantine_release.config.accounts import Accounts, Credential
from quarantine_release.domain.ids import AccountId, MessageId, PostfixPart, is_bare, postfix_part
from quarantine_release.domain.policy import Policy
from quarantine_release.ledger.value_codecs import FACTS
from quarantine_release.releasing.progress import Answer
from tests.simulation.simulated_mail import Habits, Mail, Row, action, matches, plain
from tests.simulation.simulated_strikes import Strike
from tests.simulation.simulation import ACCOUNT, EPOCH, Crashed, Simulation
from tests.support.model_dynamodb import Fault

_URL: Final = "https://api.example/client/v4"
# What is younger than that, and is not shown yet, must not be released unread; what is older, nobody can read.
LAG_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class _Try:
    """A release at Cloudflare: when, to whom, and to whom it failed."""

    at: float
    delivered: tuple[str, ...]
    failed: tuple[str, ...]


class _Secret:
    """The credential of the one account."""

    def __init__(self, account_id: AccountId) -> None:
        self._accounts = Accounts({account_id: Credential(account_id, {"Authorization": "Bearer x"})})

    def get(self) -> Accounts:
        return self._accounts

    refetch = get


@dataclass
class Search:
    """What Cloudflare tells of mail, and what it has told."""

    simulation: Simulation
    mails: Sequence[Mail]
    habits: Habits = field(default_factory=Habits)
    tries: dict[MessageId, list[_Try]] = field(default_factory=dict)
    # When the guard was last shown anything of a message.
    shown: dict[PostfixPart, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = [mail.part for mail in self.mails]
        self.simulation.doubtful |= {
            mail.part for mail in self.mails if mail.log or not mail.is_listed or parts.count(mail.part) > 1
        }

    def lookup(self, account_id: AccountId, holds: timedelta) -> CloudflareLookup:
        """Make a real lookup that gets these replies."""
        return CloudflareLookup(self._api(account_id, "look"), holds=holds)

    def reader(self, account_id: AccountId) -> CloudflareReader:
        """Make a real reader that gets these replies."""
        return CloudflareReader(self._api(account_id, "read"))

    def _api(self, account_id: AccountId, kind: str) -> SearchApi:
        simulation, session = self.simulation, _Session(self, kind)
        common = (_URL, _Secret(account_id), session, simulation.clock, lambda: simulation.now)
        return SearchApi(*common, pause=simulation.sleep)  # type: ignore[arg-type]

    # --- what is so

    def meant_by(self, message_id: MessageId) -> list[Mail]:
        """Return the messages that an id may mean: those whose full ids it is, or begins."""
        return [mail for mail in self.mails if f"{mail.message_id}-".startswith(f"{message_id}-")]

    def still_meant_by(self, message_id: MessageId) -> list[Mail]:
        """Return the messages that an id may mean; those that are gone only if there are no others."""
        meant = self.meant_by(message_id)
        return [mail for mail in meant if mail.gone_from > self.simulation.now] or meant

    def release(self, message_id: MessageId, at: float, strike: Fault | Strike | None) -> Sequence[str]:
        """Release a message, the first of several, to all recipients, one or none; return to whom."""
        first = self.still_meant_by(message_id)[0]
        kept = 0 if strike is Strike.FAILS else 1 if strike is Strike.PARTLY else None
        names = first.recipients
        one = _Try(at, names[:kept], () if kept is None else names[kept:])
        self.tries.setdefault(first.message_id, []).append(one)
        return one.delivered

    def was_released(self, message_id: MessageId, at: float) -> bool:
        """Say whether a message that an id may mean was out by then, for any recipient."""
        return self._is_out(self.meant_by(message_id), at)

    def _is_out(self, mails: Sequence[Mail], at: float) -> bool:
        return any(
            any(one.delivered for one in self._tries(mail, at)) or any(entry["success"] for entry in mail.log)
            for mail in mails
        )

    def was_missed(self, message_id: MessageId) -> bool:
        """Say whether a release of a message that an id may mean has failed, for any recipient."""
        return any(
            any(one.failed for one in self.tries.get(mail.message_id, ()))
            or not all(entry["success"] for entry in mail.log)
            for mail in self.meant_by(message_id)
        )

    def success_logged(self, message_id: MessageId, at: float) -> bool:
        """Say whether an action log showed by then that a message that an id may mean was released."""
        return self._is_out(self.still_meant_by(message_id), at - self.habits.log_lag)

    def objections(self, message_id: MessageId, policy: Policy, since: float, *, force: bool) -> Iterator[str]:
        """Say what has spoken against a release since then, in any row or log."""
        meant = self.still_meant_by(message_id)
        if is_bare(message_id) and not any(self._may_be_read(mail, since) for mail in meant):
            return  # nobody could know, unless somebody has read it by another id, and that was written down
        is_unread = self.shown.get(postfix_part(message_id), -inf) < since
        if is_unread and any(mail.is_listed or mail.at + LAG_SECONDS > since for mail in meant):
            yield "it was not read"
        mails = [mail for mail in meant if mail.is_shown(since)]
        if len(mails) > 1:
            yield "its id means several messages"
        for row in ({**plain(mail), **each} for mail in mails for each in mail.rows_at(since)):
            if policy.dispositions is not None and row["final_disposition"] not in policy.dispositions:
                yield f"a row shows it as {row['final_disposition']}"
            domains = {each.rpartition("@")[2] for each in row["client_recipients"]}
            if policy.recipient_domains is not None and not domains <= policy.recipient_domains:
                yield f"a row shows recipients of {', '.join(sorted(domains))}"
            if row["is_quarantined"] is not True and not force:
                yield "a row shows it as not held"
        if not force and self.success_logged(message_id, since):
            yield "its action log shows a release that worked"

    def _may_be_read(self, mail: Mail, since: float) -> bool:
        """Say whether the bare id of a message leads to it, or to what was read of it before then."""
        rows = (self.simulation.dynamodb.items.get(f"{kind}#{ACCOUNT}#{mail.part}", {}) for kind in "MN")
        facts = [FACTS.decode(row["facts"]) for row in rows if "facts" in row]
        is_recorded = any(each.read_at <= EPOCH + timedelta(seconds=since) for each in facts)
        is_gone = mail.gone_from <= self.simulation.now
        is_known = is_recorded or self._was_refused(mail.part, since)
        return is_known or (mail.is_listed and not is_gone) or mail.at + LAG_SECONDS > self.simulation.now

    def _was_refused(self, part: PostfixPart, at: float) -> bool:
        """Say whether somebody had been told by then that a message was read and refused for what it is."""
        told = [told.answer for told in self.simulation.told if told.at <= at and isinstance(told.answer, Answer)]
        ends = [result.ended for answer in told for result in answer.results if result.part == part]
        return any(ended is not None and ended.was_read for ended in ends)

    def _tries(self, mail: Mail, at: float) -> list[_Try]:
        return [one for one in self.tries.get(mail.message_id, ()) if one.at <= at]

    # --- what is told

    def answer(self, url: str) -> tuple[Reply, Sequence[Row]]:
        """Answer a call; return also the rows that the answer shows."""
        told, now = urlsplit(url), self.simulation.now
        path, query = unquote(told.path).partition("/investigate")[2].strip("/"), dict(parse_qsl(told.query))
        shown = [mail for mail in self.mails if mail.is_shown(now)]
        if path.endswith("/action_log"):
            logs = [self._log(mail, now) for mail in shown if f"{mail.message_id}/action_log" == path]
            return (_reply(self._page(logs[0], query)) if logs else _MISSING), []
        if path:
            rows = [row for mail in shown if mail.message_id == path for row in self._rows(mail, now)]
            return (_reply({"result": rows[0] if len(rows) == 1 else rows}) if rows else _MISSING), rows
        if self.habits.is_slow and "ready" not in query:
            return Reply(202, {"location": f"{url}&ready=1"}, b""), []
        listed = [mail for mail in shown if mail.is_listed]
        found = [row for mail in listed for row in self._rows(mail, now) if matches(row, query)]
        page = self._page(sorted(found, key=lambda row: str(row["scanned_at"]), reverse=True), query)
        return _reply(page), page["result"]

    def note(self, boundary: str, rows: Sequence[Row], at: float) -> None:
        """Note what the guard was shown, and what the reconciler read as still in quarantine."""
        for part, row in ((postfix_part(row["id"]), row) for row in rows):
            if boundary == "look":
                self.shown[part] = at
            elif row["is_quarantined"] and not row["post_delivery_operations"]:
                self.simulation.negative_reads.setdefault(part, []).append(at)

    def _rows(self, mail: Mail, now: float) -> list[dict[str, Any]]:
        tries, change = self._tries(mail, now - self.habits.row_lag), dict[str, Any]()
        if tries or mail.log:
            change["post_delivery_operations"] = self.habits.operations
        if any(one.delivered for one in tries) and not self.habits.flag_stays:
            change |= {"is_quarantined": False, "delivery_status": ["delivered"]}
        return [{**plain(mail), **each, **change} for each in mail.rows_at(now)]

    def _log(self, mail: Mail, now: float) -> list[Row]:
        """Return the action log of a message, latest last."""
        noise = [{"operation": "PREVIEW", "success": True, "started_at": number} for number in range(self.habits.noise)]
        entries: list[Row] = [*noise, *mail.log]
        for one in self._tries(mail, now - self.habits.log_lag):
            entries += [action(one.at, name, success=True) for name in one.delivered]
            entries += [action(one.at, name, success=False) for name in one.failed]
        return entries

    def _page(self, found: Sequence[Row], query: Mapping[str, str]) -> dict[str, Any]:
        size = min(self.habits.page_size, int(query.get("per_page", 20)))
        start = int(query.get("cursor") or (int(query.get("page", 1)) - 1) * size)
        page, end = found[start : start + size], start + size
        info = {"count": len(page), "per_page": size, "next": str(end) if end < len(found) else None}
        return {"result": page, "result_info": info}


class _Session:
    """Stands in for the session of a lookup or a reader: each call is a boundary of the simulation."""

    def __init__(self, search: Search, boundary: str) -> None:
        self._search = search
        self._boundary = boundary

    def send(self, _: str, url: str, __: Mapping[str, str], ___: bytes | None, seconds: float) -> Reply | NoReply:
        simulation = self._search.simulation
        strike = simulation.begin_call(self._boundary)
        way = simulation.random.uniform(0.02, 0.4)  # there, and back: less than any call is given
        is_silent = strike is Strike.UNREAD and (simulation.seed == 0 or simulation.random.random() < 0.5)
        simulation.sleep(way)
        at, (reply, rows) = simulation.now, self._search.answer(url)
        simulation.sleep(seconds - way if is_silent else way)
        if strike is Strike.CRASH_AFTER:
            raise Crashed
        if is_silent:
            return NoReply(True, "deadline")
        if strike is not None:
            return _REFUSALS[strike]
        self._search.note(self._boundary, rows, at)
        return reply


def _reply(content: Row) -> Reply:
    return Reply(200, {}, json.dumps({"success": True, "errors": [], "messages": [], **content}).encode())


def _refusal(status: int) -> Reply:
    return Reply(status, {}, b'{"success": false, "errors": [{"code": 10000}], "messages": [], "result": null}')


_MISSING: Final = _refusal(404)
_REFUSALS: Final[Mapping[Fault | Strike, Reply]] = {Strike.UNREAD: _refusal(503), Strike.DENIED: _refusal(403)}
