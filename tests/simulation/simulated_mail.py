"""Mail in a simulated quarantine: the rows and the action log that Cloudflare's search shows of it, and when."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from math import inf
from typing import Any, Final

from quarantine_release.cloudflare.entries import RELEASE
from quarantine_release.domain.ids import MessageId, PostfixPart, postfix_part
from tests.simulation.simulation import EPOCH

Row = Mapping[str, Any]
ANN, BOB = "ann@example.com", "bob@example.com"
_BASE_52: Final = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that came into quarantine at `at`, and that the search shows `lag` seconds later.

    `rows` say in what each row differs from a plain one; from `harmful_from` on a rescan adds another, behind them or
    before. `log` is what was done to the message before. If not `is_listed`, only its full id leads to it. From
    `gone_from` on nothing shows it.
    """

    message_id: MessageId
    header: MessageId
    at: float = -3600.0
    lag: float = 0.0
    rows: tuple[Row, ...] = ({},)
    harmful_from: float = inf
    is_rescan_first: bool = True
    log: tuple[Row, ...] = ()
    is_listed: bool = True
    gone_from: float = inf

    @property
    def part(self) -> PostfixPart:
        return postfix_part(self.message_id)

    @property
    def alert_id(self) -> MessageId:
        return MessageId(self.message_id.rpartition("-")[0])

    @property
    def recipients(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(each for row in self.rows for each in row.get("client_recipients", (ANN, BOB))))

    def is_shown(self, at: float) -> bool:
        return self.at + self.lag <= at < self.gone_from

    def rows_at(self, at: float) -> Sequence[Row]:
        """Return in what the rows that are shown then differ from a plain one."""
        if at < self.harmful_from:
            return self.rows
        rescan: tuple[Row, ...] = ({"final_disposition": "MALICIOUS"},)
        return rescan + self.rows if self.is_rescan_first else self.rows + rescan


def mail(number: int, at: float = -3600.0, **members: Any) -> Mail:
    """Make up a message; its Postfix id begins with its time, as long queue ids do."""
    moment, postfix_id = EPOCH + timedelta(seconds=at), f"STMz2c{number:03d}"
    seconds = int(moment.timestamp())
    while seconds:
        seconds, digit = divmod(seconds, len(_BASE_52))
        postfix_id = _BASE_52[digit] + postfix_id
    message_id = MessageId(f"{postfix_id}-{moment:%Y-%m-%dT%H:%M:%S}-{20_000_000 + number}")
    known = {"message_id": message_id, "header": MessageId(f"<{postfix_id}@example.net>"), "at": at}
    return Mail(**{**known, **members})


@dataclass(frozen=True, slots=True)
class Habits:
    """How replies show a release: in rows and in action logs so many seconds late, in pages of so many entries.

    `flag_stays`: the message goes on being shown as held. `operations` is what its row then lists. Each action log
    begins with `noise` entries that tell nothing. `is_slow`: each page of a list has to be asked for twice.
    """

    row_lag: float = 0.0
    log_lag: float = 0.0
    page_size: int = 1000
    flag_stays: bool = False
    operations: Any = (RELEASE,)
    noise: int = 0
    is_slow: bool = False


def action(at: float, name: str, *, success: bool) -> Row:
    """Make an entry of an action log: a release for one recipient."""
    moment = _moment(at)
    return {
        "operation": RELEASE,
        "started_at": moment,
        "completed_at": moment,
        "status": "SUCCESS" if success else "FAILED",
        "success": success,
        "properties": {"requested_by": "someone@example.com", "recipient": name},
    }


def plain(mail: Mail) -> dict[str, Any]:
    """Make a row as the search shows a spam mail in quarantine."""
    return {
        "id": mail.message_id,
        "postfix_id": mail.part,
        "alert_id": mail.alert_id,
        "message_id": mail.header,
        "is_quarantined": True,
        "client_recipients": [ANN, BOB],
        "delivery_mode": "DIRECT",
        "delivery_status": ["quarantined"],
        "final_disposition": "SPAM",
        "post_delivery_operations": [],
        "properties": {},
        "scanned_at": _moment(mail.at),
    }


def matches(row: Row, query: Mapping[str, str]) -> bool:
    """Tell whether a search finds a row."""
    return (
        query.get("start", "") <= row["scanned_at"] <= query.get("end", "9")
        and all(query.get(name, row[name]) == row[name] for name in ("alert_id", "message_id"))
        and query.get("delivery_status", row["delivery_status"][0]) in row["delivery_status"]
    )


def _moment(at: float) -> str:
    return f"{EPOCH + timedelta(seconds=at):%Y-%m-%dT%H:%M:%SZ}"
