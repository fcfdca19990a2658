"""The only caller of Cloudflare: endpoints, credentials, and how long to go on with what was provably not sent."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote

from quarantine_release import telemetry
from quarantine_release.cloudflare.connection import DeadlineSession, NoReply
from quarantine_release.cloudflare.release_reply import classify
from quarantine_release.cloudflare.reply import Reply, gather_evidence, is_verified, limited
from quarantine_release.config.accounts import Accounts, Credential
from quarantine_release.config.secret import Secret, SecretMalformed, SecretUnavailable
from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.ids import AccountId, MessageId
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.rows import WireForm
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import Answered, CredentialCheck, Evidence, NoEffect, RefusalReason, Verdict
from quarantine_release.releasing.ports import Budget

# A call is begun only if Cloudflare has this long to answer; and so long apart are tries that could not be sent.
_SECONDS_TO_ANSWER: Final = 4.0
_SECONDS_BETWEEN_TRIES: Final = 0.3
_HEALTH_EVERY_SECONDS: Final = 60.0
USER_AGENT: Final = "quarantine-release/1"


_NO_CALLS_LEFT: Final = CredentialCheck(None, Evidence(failure="no_calls_left"))
_NEVER_CHECKED: Final = datetime.min.replace(tzinfo=UTC), None, CredentialCheck(None, Evidence())


class CloudflareClient:
    """Cloudflare's Email Security API, for the accounts of one secret."""

    def __init__(
        self,
        base_url: str,
        secret: Secret[Accounts],
        session: DeadlineSession,
        clock: Callable[[], datetime],
        *,
        bulk_4xx_is_atomic: bool = False,
        keeps_recipients: bool = True,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._bulk_4xx_is_atomic = bulk_4xx_is_atomic
        self._keeps_recipients = keeps_recipients
        self._secret = secret
        self._session = session
        self._clock = clock
        self._checks: dict[AccountId, tuple[datetime, Credential | None, CredentialCheck]] = {}

    def release(
        self, account_id: AccountId, wire_form: WireForm, ids: Sequence[MessageId], seconds: float
    ) -> Answered | NoEffect:
        """Make one release call within so many seconds and say what it proves.

        Made again only where it provably had no effect: not a byte was sent, or the credential was refused and the
        secret, fetched anew, holds another one.
        """
        ends_at = time.monotonic() + seconds
        try:
            credential = self._secret.get().credentials.get(account_id)
            called = self._release(account_id, credential, wire_form, ids, ends_at)
            if _are_credentials_refused(called):
                fresh = self._secret.refetch().credentials.get(account_id)
                if fresh != credential and ends_at - time.monotonic() > _SECONDS_TO_ANSWER:
                    called = replace(self._release(account_id, fresh, wire_form, ids, ends_at), calls=2)
        except (SecretUnavailable, SecretMalformed) as error:
            called = NoEffect(RefusalReason.CREDENTIALS, Evidence(failure=type(error).__name__))
        if _are_credentials_refused(called):
            telemetry.count("CredentialsRefused")
        return called

    def check(self, account_id: AccountId, seconds: float, budget: Budget) -> CredentialCheck:
        """Ask Cloudflare whether it knows the credential; at most once in 60 s. Raises as the secret does."""
        ends_at = time.monotonic() + seconds
        credential = self._secret.get().credentials.get(account_id)
        now = self._clock()
        asked_at, of, checked = self._checks.get(account_id, _NEVER_CHECKED)
        if of == credential and (now - asked_at).total_seconds() < _HEALTH_EVERY_SECONDS:
            return checked
        checked = self._check(credential, ends_at, budget)
        if checked.is_accepted is False:
            fresh = self._secret.refetch().credentials.get(account_id)
            if fresh != credential:
                credential, checked = fresh, self._check(fresh, ends_at, budget)
        if checked != _NO_CALLS_LEFT:
            self._checks[account_id] = now, credential, checked
        return checked

    def _release(
        self,
        account_id: AccountId,
        credential: Credential | None,
        wire_form: WireForm,
        ids: Sequence[MessageId],
        ends_at: float,
    ) -> Answered | NoEffect:
        if credential is None:  # the account left the secret after the request was let in
            return NoEffect(RefusalReason.CREDENTIALS, Evidence(failure="account_not_configured"))
        url = f"{self._base_url}/accounts/{quote(account_id, safe='')}/email-security/investigate/release"
        content: Any = list(ids) if wire_form is WireForm.ARRAY else {"ids": list(ids)}
        body = json.dumps(content).encode()
        headers = {**credential.headers, "Content-Type": "application/json", "User-Agent": USER_AGENT}
        began = time.monotonic()
        while True:
            reply = self._session.send("POST", url, headers, body, ends_at - time.monotonic())
            was_sent = isinstance(reply, Reply) or reply.was_sent
            if was_sent or ends_at - time.monotonic() < _SECONDS_BETWEEN_TRIES + _SECONDS_TO_ANSWER:
                break
            time.sleep(_SECONDS_BETWEEN_TRIES)
        called = self._judge(reply, ids)
        milliseconds = round((time.monotonic() - began) * 1000)
        telemetry.cloudflare_call(account_id, wire_form, len(ids), called.evidence, milliseconds)
        if isinstance(called, Answered) and called.unasked:
            telemetry.count("UnaskedIds", called.unasked)
        return called

    def _judge(self, reply: Reply | NoReply, ids: Sequence[MessageId]) -> Answered | NoEffect:
        if isinstance(reply, Reply):
            called = classify(reply, ids, self._clock(), bulk_4xx_is_atomic=self._bulk_4xx_is_atomic)
            return called if self._keeps_recipients else _unnamed(called)
        evidence = Evidence(failure=reply.failure)
        if not reply.was_sent:
            return NoEffect(RefusalReason.UNREACHABLE, evidence)
        return Answered({message_id: Verdict(State.UNKNOWN, Code.NO_ANSWER) for message_id in ids}, evidence)

    def _check(self, credential: Credential | None, ends_at: float, budget: Budget) -> CredentialCheck:
        """Verify a token as a user's, then as an account's (which of the two it is cannot be told); a key as a user."""
        if credential is None:
            return CredentialCheck(False, Evidence(failure="account_not_configured"))
        account_token = f"/accounts/{credential.account_id}/tokens/verify"
        evidence = Evidence()
        for path in ("/user/tokens/verify", account_token) if credential.is_token else ("/user",):
            try:
                wait = budget.take(credential.account_id, Mark.ALL)
            except LedgerUnavailable:  # which the ledger's own check says too
                return _NO_CALLS_LEFT
            if wait:
                return _NO_CALLS_LEFT
            headers = {**credential.headers, "User-Agent": USER_AGENT}
            reply = self._session.send("GET", self._base_url + path, headers, None, ends_at - time.monotonic())
            if isinstance(reply, NoReply):
                return CredentialCheck(None, Evidence(failure=reply.failure))
            if reply.status == 429:
                budget.heard(credential.account_id, limited(reply, self._clock()))
            evidence, is_accepted = gather_evidence(reply), is_verified(reply)
            if is_accepted is not False:
                return CredentialCheck(is_accepted, evidence)
        return CredentialCheck(False, evidence)


def _unnamed(called: Answered | NoEffect) -> Answered | NoEffect:
    if isinstance(called, NoEffect):
        return called
    verdicts = called.verdicts.items()
    return replace(called, verdicts={of: replace(each, recipients=each.recipients.unnamed) for of, each in verdicts})


def _are_credentials_refused(called: Answered | NoEffect) -> bool:
    return isinstance(called, NoEffect) and called.reason is RefusalReason.CREDENTIALS
