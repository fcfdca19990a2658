"""What the routes work with besides the request. `webhook.py` hands it in, for one invocation."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from quarantine_release import telemetry
from quarantine_release.api.problems import Problem
from quarantine_release.config.accounts import Accounts
from quarantine_release.config.clients import Clients
from quarantine_release.config.secret import Secret, SecretMalformed, SecretUnavailable
from quarantine_release.domain.ids import AccountId, AttemptId, PostfixPart, RequestId
from quarantine_release.domain.operation_rows import OperationRow
from quarantine_release.domain.rows import AttemptRow, MessageRow, RequestRow
from quarantine_release.domain.unreadable import UnreadableRequest
from quarantine_release.domain.verdicts import CredentialCheck
from quarantine_release.releasing.ports import Budget, Ports

Content = TypeVar("Content")


class LedgerView(Protocol):
    """The ledger to those who only show it. Every method raises LedgerUnavailable."""

    def find_requests(self, request_ids: Sequence[RequestId]) -> Mapping[RequestId, RequestRow | UnreadableRequest]:
        """Read requests; only absent ones are left out."""

    def requests(self, request_ids: Sequence[RequestId]) -> Mapping[RequestId, RequestRow]:
        """Read requests; those that are absent or cannot be read are left out."""

    def messages(self, account_id: AccountId, parts: Sequence[PostfixPart]) -> Mapping[PostfixPart, MessageRow]:
        """Read messages by their postfix parts; only absent ones are left out."""

    def unclaimed(self, account_id: AccountId, part: PostfixPart) -> frozenset[RequestId]:
        """Read who asked for a message without a claim."""

    def attempts(self, account_id: AccountId, attempts: Sequence[AttemptId]) -> Sequence[AttemptRow]:
        """Read attempts, oldest first; those that are absent or cannot be read are left out."""

    def operations_met(
        self, account_id: AccountId, row: MessageRow | None, requests: Collection[RequestRow]
    ) -> Sequence[OperationRow]:
        """Read what people have changed about a message and its requests, oldest first."""


@dataclass(frozen=True, slots=True)
class Services:
    """The collaborators of the routes. `ports` are those of a release; `ledger` is for what is only shown.

    `check_credential` asks Cloudflare about an account's credential, within so many seconds.
    """

    ports: Ports
    ledger: LedgerView
    clients: Secret[Clients]
    accounts: Secret[Accounts]
    check_credential: Callable[[AccountId, float, Budget], CredentialCheck]


def read_secret(name: str, read: Callable[[], Content]) -> Content:
    """Read a secret. Raises Problem if it cannot be had or used; only the log says what is wrong with it."""
    try:
        return read()
    except SecretUnavailable as error:
        telemetry.secret_unusable(name, f"cannot be fetched: {error}")
        raise Problem("secrets_unavailable", "A secret that is needed cannot be fetched for now.") from None
    except SecretMalformed as error:
        telemetry.secret_unusable(name, str(error))
        raise Problem(f"{name}_not_configured", f"The {name} secret cannot be used; the log says why.") from None
