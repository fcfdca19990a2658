"""The reads of one run before a claim, each within the time that may be spent on it. Pure but for its ports."""

from collections.abc import Mapping, Sequence

from quarantine_release.domain.call_limit import Mark
from quarantine_release.domain.details import Details, NotRead, Unclear
from quarantine_release.domain.ids import AccountId, MessageId
from quarantine_release.domain.lookup import Question
from quarantine_release.releasing.findings import Told
from quarantine_release.releasing.ports import Ports


class TimedLookup:
    """A look takes `seconds` at most, and leaves as many as `spared`. Without time it reads nothing."""

    def __init__(self, account_id: AccountId, ports: Ports, mark: Mark, *, seconds: float, spared: float) -> None:
        self._account_id = account_id
        self._ports = ports
        self._mark = mark
        self._limit = seconds
        self._spared = spared
        self.has_looked = False

    def find(self, questions: Sequence[Question]) -> Mapping[Question, Sequence[Details] | NotRead | Unclear]:
        """Search for the messages that questions mean; what is left out is not read yet."""
        ports, seconds = self._ports, self._seconds()
        if seconds <= 0:
            return {}
        self.has_looked = True
        return ports.lookup.find(self._account_id, questions, seconds, ports.budget, self._mark)

    def look(self, ids: Sequence[MessageId]) -> Mapping[MessageId, Told]:
        """Read messages; what is left out is not read yet."""
        ports, seconds = self._ports, self._seconds()
        if seconds <= 0:
            return {}
        self.has_looked = True
        return ports.lookup.look(self._account_id, ids, seconds, ports.budget, self._mark)

    def _seconds(self) -> float:
        return min(self._limit, self._ports.time_left() - self._spared)
