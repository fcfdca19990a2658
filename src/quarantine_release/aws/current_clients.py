"""The *clients* secret for work that was accepted earlier: what each client may do now."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

from quarantine_release import telemetry
from quarantine_release.config.clients import Clients
from quarantine_release.config.permits import check_permit
from quarantine_release.config.secret import Secret, SecretMalformed, SecretUnavailable
from quarantine_release.domain.permit import Permit
from quarantine_release.domain.rows import RequestRow

# A batch asks once for every message: after a failure it must not try to fetch, and log, as often.
_RETRY: Final = timedelta(seconds=10)


class CurrentClients:
    """Permits by the cached secret. A secret that cannot be read is logged, and tried again after ten seconds."""

    def __init__(self, secret: Secret[Clients], clock: Callable[[], datetime]) -> None:
        self._secret = secret
        self._clock = clock
        self._retry_at = datetime.min.replace(tzinfo=UTC)

    def permit(self, request: RequestRow) -> Permit:
        """Return what is left of a request's permission."""
        return check_permit(request, self._known(), self._clock())

    def _known(self) -> Clients | None:
        if self._clock() < self._retry_at:
            return None
        try:
            return self._secret.get()
        except SecretUnavailable as error:
            problem = f"cannot be fetched: {error}"
        except SecretMalformed as error:
            problem = str(error)
        telemetry.secret_unusable("clients", problem)
        self._retry_at = self._clock() + _RETRY
        return None
