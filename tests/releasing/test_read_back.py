"""Messages are read back under every id that may be theirs, within the time and the budget that there is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from quarantine_release.domain.ids import AccountId, AttemptId, MessageId, PostfixPart, postfix_part
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.states import State
from quarantine_release.domain.verdicts import Evidence, ReadBack, ReadBackTarget, Seen
from quarantine_release.releasing.ports import Budget
from quarantine_release.releasing.read_back import plan_read_back, read_back
from tests.support.model_dynamodb import ModelDynamoDB
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OK, OTHER, World

MADE_UP = MessageId("4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321")
LATER = MessageId("4Njp3P0STMz2c02Q-2024-01-06T10:00:00-12345678")
PART, ABSENT = postfix_part(BARE), ReadBack(Seen.ABSENT, OK)
HELD = ReadBack(Seen.QUARANTINED, OK, FULL)


@dataclass
class ById:
    """Shows what it knows under each id; an id that is None is not read."""

    known: Mapping[MessageId, ReadBack | None]
    rounds: list[list[MessageId]] = field(default_factory=list)
    takes: Callable[[], object] = list

    def read(
        self,
        account_id: AccountId,  # noqa: ARG002
        wanted: Sequence[ReadBackTarget],
        seconds: float,
        budget: Budget,  # noqa: ARG002
    ) -> Mapping[PostfixPart, ReadBack]:
        assert seconds > 0
        self.rounds.append([one.message_id for one in wanted])
        self.takes()
        shown = {one.part: self.known.get(one.message_id, ABSENT) for one in wanted}
        return {part: reading for part, reading in shown.items() if reading is not None}


@pytest.fixture
def world() -> World:
    return World(ModelDynamoDB(lambda _: None))


def row(message_id: MessageId, *candidates: MessageId) -> MessageRow:
    known = {"account_id": ACCOUNT, "part": postfix_part(message_id), "attempt": AttemptId("a1"), "updated_at": NOON}
    return MessageRow(**known, state=State.UNKNOWN, message_id=message_id, candidates=frozenset(candidates))  # type: ignore[arg-type]


def read(world: World, reader: ById, *rows: MessageRow, seconds: float = 20) -> Mapping[PostfixPart, ReadBack]:
    return read_back(world.ports(reader=reader), ACCOUNT, list(map(plan_read_back, rows)), seconds)


def test_a_message_without_candidates_is_read_once(world: World) -> None:
    reader = ById({BARE: HELD, OTHER: None})
    assert read(world, reader, row(BARE), row(OTHER)) == {PART: HELD}
    assert reader.rounds == [[BARE, OTHER]]


def test_candidates_are_read_only_while_no_full_id_is_shown(world: World) -> None:
    reader = ById({BARE: HELD})
    assert read(world, reader, row(BARE, MADE_UP)) == {PART: HELD}
    assert reader.rounds == [[BARE]]


def test_each_candidate_is_read_and_the_one_that_cloudflare_knows_counts(world: World) -> None:
    reader = ById({FULL: HELD, OTHER: ReadBack(Seen.RELEASED, OK, OTHER)})
    shown = read(world, reader, row(BARE, MADE_UP, FULL, LATER), row(OTHER))
    assert shown == {PART: HELD, postfix_part(OTHER): ReadBack(Seen.RELEASED, OK, OTHER)}
    assert reader.rounds == [[BARE, OTHER], *([each] for each in sorted([MADE_UP, FULL, LATER]))]


def test_what_there_is_no_time_to_read_is_unread(world: World) -> None:
    reader = ById({FULL: HELD}, takes=lambda: world.clock.move(seconds=15))
    assert read(world, reader, row(BARE, MADE_UP, FULL, LATER))[PART].seen is Seen.UNREAD
    assert len(reader.rounds) == 2


def test_so_many_made_up_ids_are_read_in_one_run_and_the_messages_of_the_others_are_unread(world: World) -> None:
    parts = [PostfixPart(f"4Njp3P0STMz2c{number:03}") for number in range(40)]
    made_up = {part: [MessageId(f"{part}-2024-01-05T10:00:00-{number}") for number in range(3)] for part in parts}
    reader = ById({})
    shown = read(world, reader, *(row(MessageId(part), *ids) for part, ids in made_up.items()))
    assert [len(some) for some in reader.rounds] == [40, 33, 33, 33]
    assert [shown[part].seen for part in parts] == [Seen.ABSENT] * 33 + [Seen.UNREAD] * 7


def test_what_was_sent_is_read_first_where_a_row_of_4c3b95d_has_another_id() -> None:
    since = NOON + timedelta(seconds=1)
    assert plan_read_back(row(MADE_UP), since, BARE) == ReadBackTarget(PART, BARE, since, candidates=(MADE_UP,))
    assert plan_read_back(row(BARE, FULL), sent=BARE) == ReadBackTarget(PART, BARE, candidates=(FULL,))


def test_a_confirmed_id_is_the_only_one_to_read() -> None:
    confirmed = MessageRow(
        account_id=ACCOUNT,
        part=PART,
        state=State.UNKNOWN,
        attempt=AttemptId("a1"),
        message_id=BARE,
        updated_at=NOON,
        evidence=Evidence(),
        confirmed_id=FULL,
        candidates=frozenset({MADE_UP}),
    )
    assert plan_read_back(confirmed, sent=BARE) == ReadBackTarget(PART, FULL)
