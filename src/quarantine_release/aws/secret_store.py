"""The only Secrets Manager user: each secret parsed once, cached, and fetched again when it has proved wrong."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from quarantine_release.config.secret import SecretUnavailable

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

FRESH: Final = timedelta(seconds=300)
# A revoked client token must not outlive an outage of Secrets Manager by more than this.
STALE: Final = timedelta(hours=1)
REFETCH_EVERY: Final = timedelta(seconds=30)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)

Content = TypeVar("Content")


class CachedSecret(Generic[Content]):
    """One secret, read again once its copy is no longer `fresh`, and at most once more in 30 s if it was refused."""

    def __init__(
        self,
        client: "SecretsManagerClient",
        secret_id: str,
        parse: Callable[[str], Content],
        clock: Callable[[], datetime],
        fresh: timedelta = FRESH,
    ) -> None:
        self._client = client
        self._secret_id = secret_id
        self._parse = parse
        self._clock = clock
        self._fresh = fresh
        self._content: Content | None = None
        self._fetched_at = self._good_until = self._refetched_at = _NEVER

    def get(self) -> Content:
        """Return the content. Raises SecretUnavailable, and SecretMalformed from the parser."""
        now = self._clock()
        if self._content is not None and now < self._good_until:
            return self._content
        return self._fetch(now)

    def refetch(self) -> Content:
        """Return the content as it is now, if it was not fetched for this reason within 30 s; else as `get` does."""
        now = self._clock()
        if now - self._refetched_at < REFETCH_EVERY:
            return self.get()
        self._refetched_at = now
        return self._fetch(now)

    def _fetch(self, now: datetime) -> Content:
        """Fetch and parse. What cannot be fetched is served as it was, what cannot be parsed is not."""
        try:
            document = self._client.get_secret_value(SecretId=self._secret_id).get("SecretString")
        except (ClientError, BotoCoreError) as error:
            if self._content is None or now - self._fetched_at >= STALE:
                raise SecretUnavailable(_reason(error)) from error
            self._good_until = min(now + REFETCH_EVERY, self._fetched_at + STALE)
            return self._content
        self._content = self._parse(document or "")
        self._fetched_at, self._good_until = now, now + self._fresh
        return self._content


def _reason(error: ClientError | BotoCoreError) -> str:
    return error.response["Error"]["Code"] if isinstance(error, ClientError) else type(error).__name__
