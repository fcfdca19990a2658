"""Reading calls to Cloudflare's Email Security search: counted, within a deadline, and what became of each."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Final
from urllib.parse import unquote, urlencode, urljoin

from quarantine_release import telemetry
from quarantine_release.cloudflare.client import USER_AGENT
from quarantine_release.cloudflare.connection import DeadlineSession, NoReply
from quarantine_release.cloudflare.entries import dicts
from quarantine_release.cloudflare.reply import Reply, content_of, gather_evidence, limited, refuses_credential
from quarantine_release.config.accounts import Accounts, Credential
from quarantine_release.config.secret import Secret, SecretMalformed, SecretUnavailable
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import NotRead, NotYetRead, Unreadable
from quarantine_release.domain.ids import AccountId
from quarantine_release.domain.verdicts import Evidence
from quarantine_release.releasing.ports import Budget

_CALL_SECONDS: Final = 5.0
# What is begun with less we may cut off ourselves, which says nothing of Cloudflare: a full page may take two seconds.
_LEAST_SECONDS: Final = 1.0
_LEAST_PAGE_SECONDS: Final = 2.0
_PAGE: Final = 1000

_SEARCH_PAGES: Final = 3

# A search that is still under way is asked for again so often, so long apart.
_POLLS: Final = 8
_POLL_SECONDS: Final = 0.5

NOT_CALLED: Final = Evidence(failure="not_called")


@dataclass(frozen=True, slots=True)
class Got:
    """What a call came to: its content, empty unless it is a good answer, and why nothing is known if so."""

    content: dict[str, Any]
    evidence: Evidence
    why: NotRead | None = None
    location: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list. `is_last` only if the list said so."""

    entries: list[dict[str, Any]]
    evidence: Evidence
    is_last: bool
    why: NotRead | None = None


@dataclass(frozen=True, slots=True)
class SearchApi:
    """Cloudflare's Email Security search, for the accounts of one secret. Not for several threads at once."""

    base_url: str
    secret: Secret[Accounts] = field(repr=False)
    session: DeadlineSession
    clock: Callable[[], datetime]
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def begin(self, account_id: AccountId, seconds: float, budget: Budget, mark: Mark = Mark.ALL) -> "SearchSession":
        """Begin a run of reading calls for one account, which takes so many seconds at most."""
        return SearchSession(self, account_id, self.monotonic() + seconds, budget, mark)


@dataclass(slots=True)
class SearchSession:
    """The reading calls of one run, for one account, until its time is over by `monotonic`, or Cloudflare refuses."""

    search: SearchApi
    account_id: AccountId
    ends_at: float
    budget: Budget
    mark: Mark
    stopped: NotRead | None = None
    # What no time is left for may be read in the next run, unless it is Cloudflare that takes all the time.
    _when_late: NotRead = NotYetRead.NOT_NOW
    _credential: Credential | None = field(default=None, repr=False)
    _was_refetched: bool = False

    def get(self, path: str) -> Got:
        """Get a page below `/investigate`."""
        return self._get(f"{self._root}{path}", _LEAST_SECONDS)

    @property
    def seconds_left(self) -> float:
        """Return how long the run may still take."""
        return self.ends_at - self.search.monotonic()

    def pages(self, query: Mapping[str, str], *, per_page: int = _PAGE) -> Iterator[Page]:
        """List page by page; the last page says why there is no other."""
        cursor = ""
        while True:
            parameters = {**query, "per_page": str(per_page), "detections_only": query.get("detections_only", "false")}
            if cursor:
                parameters["cursor"] = cursor
            got = self._finished(self._get(f"{self._root}?{urlencode(parameters)}"))
            result, info = got.content.get("result"), got.content.get("result_info")
            following = info.get("next") if isinstance(info, dict) else None
            is_list = isinstance(result, list) and isinstance(info, dict)
            why = got.why or (None if is_list else Unreadable.FAILED)
            yield Page(dicts(result), got.evidence, is_list and not following, why)
            if not (is_list and result and isinstance(following, str) and following):
                return
            cursor = following

    def whole(self, query: Mapping[str, str]) -> list[dict[str, Any]] | NotRead:
        """Read a search to its end. FAILED if it has none within three pages, because the rest is not known."""
        entries: list[dict[str, Any]] = []
        for page in islice(self.pages(query), _SEARCH_PAGES):
            if page.why is not None:
                return page.why
            entries += page.entries
            if page.is_last:
                return entries
        return Unreadable.FAILED

    @property
    def _root(self) -> str:
        return f"{self.search.base_url.rstrip('/')}/accounts/{self.account_id}/email-security/investigate"

    def _finished(self, got: Got) -> Got:
        """Ask again for a search that is still under way; its result is empty until then."""
        for _ in range(_POLLS):
            if not got.location:
                break
            if self.seconds_left < _POLL_SECONDS + _LEAST_PAGE_SECONDS:
                return Got({}, got.evidence, self._when_late)
            location = self._below_root(got.location)
            if location is None:
                break
            self.search.pause(_POLL_SECONDS)
            got = self._get(location)
        return got

    def _below_root(self, location: str) -> str | None:
        """Return where a search goes on: the credential goes where it always goes, and nowhere an answer may name."""
        try:
            url = urljoin(self._root, location)
        except ValueError:
            return None
        rest = url.removeprefix(self._root)
        is_below = url != rest and rest[:1] in ("/", "?")  # without either it would be a search for anything
        steps = unquote(rest.partition("?")[0]).split("/")[1:]
        leads_out = not all(step.strip(".") for step in steps)
        return url if is_below and not leads_out else None

    def _get(self, url: str, least: float = _LEAST_PAGE_SECONDS) -> Got:
        credential = self._usable_credential() if self.stopped is None else None
        if credential is None:
            return Got({}, NOT_CALLED, self.stopped)
        seconds = min(_CALL_SECONDS, self.seconds_left)
        why = self._why_not_called(seconds, least)
        if why is not None:
            return Got({}, NOT_CALLED, why)
        headers = {**credential.headers, "User-Agent": USER_AGENT}
        began = self.search.monotonic()
        reply = self.search.session.send("GET", url, headers, None, seconds)
        evidence = gather_evidence(reply) if isinstance(reply, Reply) else Evidence(failure=reply.failure)
        telemetry.cloudflare_read(self.account_id, evidence, round((self.search.monotonic() - began) * 1000))
        if not isinstance(reply, Reply):
            return Got({}, evidence, self._why_not_answered(reply, seconds))
        self._when_late = NotYetRead.NOT_NOW
        if refuses_credential(reply) and self._has_another(credential):
            return self._get(url, least)
        self._credential = credential
        return self._judge(reply, evidence)

    def _usable_credential(self) -> Credential | None:
        """Return the credential to call with; without one the run is over."""
        try:
            credential = self._credential or self.search.secret.get().credentials.get(self.account_id)
        except (SecretUnavailable, SecretMalformed):
            credential = None
        if credential is None:
            telemetry.count("CredentialsRefused")
            self.stopped = NotYetRead.REFUSED
        return credential

    def _why_not_called(self, seconds: float, least: float) -> NotRead | None:
        """Return why no call may be made that has so many seconds, if none may; else it is taken from the budget."""
        if seconds < _LEAST_SECONDS:
            self.stopped = self._when_late
        if seconds < least:
            return self._when_late
        if self.budget.take(self.account_id, self.mark):
            self.stopped = NotYetRead.NOT_NOW
        return self.stopped

    def _why_not_answered(self, lost: NoReply, seconds: float) -> NotRead:
        """Return what a call without an answer says, which had so many seconds.

        A server that cannot be reached is waited for, as before a release; one that does not answer in time has failed.
        """
        if lost.was_sent and seconds >= _LEAST_PAGE_SECONDS:
            self._when_late = Unreadable.FAILED
            return Unreadable.FAILED
        self.stopped = self._when_late if lost.was_sent else NotYetRead.NOT_NOW
        return self.stopped

    def _has_another(self, refused: Credential) -> bool:
        """Return whether the secret, fetched again, holds another credential. It is fetched again once a run."""
        if self._was_refetched:
            return False
        self._was_refetched = True
        try:
            self._credential = self.search.secret.refetch().credentials.get(self.account_id)
        except (SecretUnavailable, SecretMalformed):
            return False
        return self._credential is not None and self._credential != refused

    def _judge(self, reply: Reply, evidence: Evidence) -> Got:
        # More calls now would only prolong the limit, or lock the credential out.
        if reply.status == 429:
            self.budget.heard(self.account_id, limited(reply, self.search.clock()))
            self.stopped = NotYetRead.NOT_NOW
            return Got({}, evidence, self.stopped)
        if refuses_credential(reply):
            telemetry.count("CredentialsRefused")
            self.stopped = NotYetRead.REFUSED
            return Got({}, evidence, self.stopped)
        if reply.status == 202:
            return Got({}, evidence, Unreadable.FAILED, reply.headers.get("location"))
        content = content_of(reply)
        return Got(content, evidence) if isinstance(content, dict) else Got({}, evidence, content)
