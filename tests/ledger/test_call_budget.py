"""The account row over several processes: every call counted once, pauses told to all, and little of it asked for."""

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarantine_release.domain.call_limit import Mark, find_slot
from quarantine_release.domain.ids import AccountId, OperationId
from quarantine_release.domain.ledger_errors import LedgerUnavailable
from quarantine_release.domain.states import Code, State
from quarantine_release.domain.verdicts import Answered, Evidence, NoEffect, RefusalReason, Verdict
from quarantine_release.ledger.call_budget import AccountBudget
from quarantine_release.ledger.reserved_call import ReservedCall
from quarantine_release.ledger.table import Table
from quarantine_release.ledger.transactions import DynamoLedger
from tests.support.model_dynamodb import Fault, ModelDynamoDB
from tests.support.stand_ins import ACCOUNT, BARE, DELIVERED, NOON, OK
from tools.operations import Person, pause, resume

OTHER_ACCOUNT = AccountId("b" * 32)
KEY = f"A#{ACCOUNT}"
GOOD = Answered({BARE: DELIVERED}, OK)
NO_ANSWER = Answered({BARE: Verdict(State.UNKNOWN, Code.NO_ANSWER)}, Evidence(failure="deadline"))
BROKEN = Answered({BARE: Verdict(State.UNKNOWN, Code.UNCLEAR_ANSWER)}, Evidence(503))
UNREACHABLE = NoEffect(RefusalReason.UNREACHABLE, Evidence(failure="connection_refused"))
REJECTED = NoEffect(RefusalReason.CALL_REJECTED, Evidence(400, (7003,)))
FORBIDDEN = NoEffect(RefusalReason.CREDENTIALS, Evidence(403))


def limited(seconds: int) -> NoEffect:
    return NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), seconds)


@dataclass
class Processes:
    """Several processes, the account rows they share, and the one clock."""

    inline: int = 300
    limit: int = 900
    now: datetime = NOON
    faults: deque[Fault | None] = field(default_factory=deque)
    stalls: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.dynamodb = ModelDynamoDB(self._before)

    def _before(self, _: str) -> Fault | None:
        """Let time pass before a round trip, and say what befalls it."""
        if self.stalls:
            self.move(self.stalls.popleft())
        return self.faults.popleft() if self.faults else None

    def start(self) -> AccountBudget:
        """Start a process, which knows nothing yet."""
        marks = {Mark.INLINE: self.inline, Mark.ALL: self.limit}
        table = Table(self.dynamodb, "ledger", lambda _: None)  # type: ignore[arg-type]
        return AccountBudget(table, marks, lambda: self.now)

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def round_trips(self) -> list[str]:
        """Return the calls to DynamoDB since the last time."""
        calls, self.dynamodb.calls = self.dynamodb.calls, []
        return calls

    @property
    def row(self) -> dict[str, int]:
        """Return the numbers in the account's row."""
        item = self.dynamodb.items.get(KEY, {})
        return {name: int(value["N"]) for name, value in item.items() if name not in ("pk", "v", "switch")}

    @property
    def counted(self) -> int:
        """Return how many calls the row counts, of whatever time."""
        return sum(number for name, number in self.row.items() if name.startswith("calls_"))


@pytest.fixture
def processes() -> Processes:
    return Processes()


def take(budget: AccountBudget, mark: Mark = Mark.ALL, account: AccountId = ACCOUNT) -> float:
    return budget.take(account, mark)


def reserve(budget: AccountBudget) -> ReservedCall:
    """Reserve a call and take it."""
    reserved = budget.reserve(ACCOUNT, Mark.ALL)
    assert reserved.take() == 0
    return reserved


def put_back(reserved: ReservedCall) -> None:
    """End the reservation of a call without making it."""
    with reserved:
        pass


def taken(budget: AccountBudget, at_most: int, mark: Mark = Mark.ALL) -> int:
    """Return how many calls may be made now, one after the other."""
    for number in range(at_most):
        if take(budget, mark):
            return number
    return at_most


# --- Blocks ----------------------------------------------------------------------------------------------------------


def test_a_lone_call_is_one_round_trip_and_is_counted_alone(processes: Processes) -> None:
    budget = processes.start()
    for number in range(1, 4):
        assert take(budget) == 0
        assert processes.round_trips() == ["UpdateItem"]
        assert processes.counted == number
        processes.move(1)


def test_calls_in_a_row_are_bought_in_growing_blocks_of_which_each_is_one_round_trip(processes: Processes) -> None:
    budget, costs, counts = processes.start(), [], []
    for _ in range(1 + 2 + 4 + 8 + 8):
        assert take(budget) == 0
        costs.append(len(processes.round_trips()))
        counts.append(processes.counted)
    assert costs == [1, *(1, 0), *(1, 0, 0, 0), *(1, *[0] * 7) * 2]
    assert counts == [1, *[3] * 2, *[7] * 4, *[15] * 8, *[23] * 8]


def test_a_block_holds_less_than_a_second_and_what_is_left_of_it_is_given_back_where_it_was_counted(
    processes: Processes,
) -> None:
    budget = processes.start()
    assert taken(budget, 1 + 2 + 1) == 4
    assert processes.counted == 7
    processes.move(0.8)
    assert take(budget) == 0
    assert processes.round_trips() == ["UpdateItem"] * 3
    processes.move(0.11)
    old = find_slot(processes.now)
    processes.move(40)
    assert take(budget) == 0
    assert processes.round_trips() == ["TransactWriteItems", "UpdateItem"]
    assert processes.row == {f"calls_{old}": 5, f"calls_{find_slot(processes.now)}": 1, "resumed": 6}
    assert take(budget) == 0
    assert processes.counted == 8  # a block that was not used up is followed by a lone call, that one by two


def test_what_is_given_back_and_bought_in_the_same_slot_is_one_number(processes: Processes) -> None:
    budget = processes.start()
    assert taken(budget, 1 + 2 + 1) == 4
    processes.move(2)
    assert take(budget) == 0
    assert processes.counted == 5


def test_a_conflict_of_a_write_to_the_row_is_waited_out(processes: Processes) -> None:
    budget = processes.start()
    processes.faults += [Fault.CONFLICT] * 19
    assert take(budget) == 0
    assert processes.counted == 1
    processes.faults += [Fault.CONFLICT] * 20
    with pytest.raises(LedgerUnavailable):
        take(budget)
    assert processes.counted == 1


def test_giving_back_is_tried_twice_at_most_since_nobody_else_can_buy_meanwhile(processes: Processes) -> None:
    budget = processes.start()
    assert taken(budget, 1 + 2 + 1) == 4
    processes.move(1)
    processes.round_trips()
    processes.faults += [Fault.CONFLICT] * 2
    assert take(budget) == 0
    assert processes.round_trips() == ["TransactWriteItems", "TransactWriteItems", "UpdateItem"]
    assert processes.counted == 8


def test_a_call_that_was_not_made_is_left_for_the_next(processes: Processes) -> None:
    budget = processes.start()
    put_back(reserve(budget))
    processes.round_trips()
    reserved = reserve(budget)
    assert processes.round_trips() == []
    assert processes.counted == 1
    put_back(reserved)
    put_back(reserved)
    processes.move(1)
    assert take(budget) == 0
    assert processes.counted == 1


def test_a_call_is_put_back_only_into_the_slot_that_counts_it(processes: Processes) -> None:
    budget = processes.start()
    processes.move(29.5)
    reserved = reserve(budget)
    old = find_slot(processes.now)
    processes.move(1)
    assert take(budget) == 0  # for a read, which is made
    put_back(reserved)
    processes.move(1)
    assert take(budget) == 0
    assert processes.row == {f"calls_{old}": 1, f"calls_{old + 1}": 2, "resumed": 3}


def test_a_call_is_put_back_beside_what_was_bought_since_in_its_slot(processes: Processes) -> None:
    budget = processes.start()
    reserved = reserve(budget)
    processes.move(1)
    assert take(budget) == 0
    put_back(reserved)
    processes.move(1)
    assert take(budget) == 0
    assert processes.counted == 2


def test_a_call_from_before_a_pause_is_not_put_back_to_those_after_it(processes: Processes) -> None:
    budget = processes.start()
    reserved = reserve(budget)
    budget.heard(ACCOUNT, limited(2))
    put_back(reserved)
    processes.move(3)
    assert take(budget) == 0
    assert processes.row["resumed"] == 1


# --- Calls that are made some time after they were taken -------------------------------------------------------------


def test_a_call_reserved_a_moment_ago_costs_no_round_trip_to_renew(processes: Processes) -> None:
    budget = processes.start()
    reserved = reserve(budget)
    processes.move(14.9)
    processes.round_trips()
    assert reserved.use() == 0
    assert (processes.round_trips(), processes.counted) == ([], 1)


def test_a_call_reserved_46_seconds_ago_is_counted_again_when_it_is_made(processes: Processes) -> None:
    budget = processes.start()
    reserved = reserve(budget)
    old = find_slot(processes.now)
    processes.move(46)
    assert reserved.use() == 0
    assert processes.row == {f"calls_{old}": 1, f"calls_{old + 1}": 1, "resumed": 2}
    assert reserved.use() == 0
    assert processes.counted == 2


def test_a_call_reserved_46_seconds_ago_is_not_made_if_none_are_left(processes: Processes) -> None:
    processes.limit = 3
    budget = processes.start()
    reserved = reserve(budget)
    processes.move(46)
    assert taken(processes.start(), 9) == 2
    assert reserved.use() == 314
    put_back(reserved)
    assert processes.counted == 3


def test_a_block_that_arrives_late_is_given_back_and_bought_again(processes: Processes) -> None:
    budget = processes.start()
    processes.stalls += [46, 0, 0]
    assert take(budget) == 0
    assert processes.round_trips() == ["UpdateItem", "TransactWriteItems", "UpdateItem"]
    assert {name: number for name, number in processes.row.items() if number} == {
        f"calls_{find_slot(processes.now)}": 1,
        "resumed": 1,
    }


def test_a_process_whose_blocks_all_arrive_late_makes_no_call(processes: Processes) -> None:
    budget = processes.start()
    processes.stalls += [10, 0, 10, 0, 10]
    with pytest.raises(LedgerUnavailable):
        take(budget)
    assert processes.counted == 0


def test_the_wait_for_several_calls_ends_when_they_may_be_made(processes: Processes) -> None:
    processes.limit = 40
    budget = processes.start()
    assert taken(budget, 11) == 11
    assert budget.wait_for(ACCOUNT, 30) == 360
    assert budget.wait_for(ACCOUNT, 29) == 0
    budget.heard(ACCOUNT, limited(42))
    assert budget.wait_for(ACCOUNT, 29) == 42


def test_the_slots_that_are_past_leave_the_row(processes: Processes) -> None:
    budget = processes.start()
    for _ in range(40):
        assert take(budget) == 0
        processes.move(30)
    assert take(budget) == 0
    slots = sorted(int(name.removeprefix("calls_")) for name in processes.row if name.startswith("calls_"))
    assert slots == list(range(find_slot(processes.now) - 11, find_slot(processes.now) + 1))


# --- Marks -----------------------------------------------------------------------------------------------------------


def test_above_the_first_mark_nothing_is_called_inline_and_above_the_second_nothing_at_all() -> None:
    processes = Processes(inline=30, limit=90)
    webhook, worker = processes.start(), processes.start()
    assert taken(webhook, 100, Mark.INLINE) == 30
    assert take(webhook, Mark.INLINE) == 360
    assert taken(worker, 100) == 59, "one lies bought and unused at the webhook"
    assert take(worker) == 360
    assert take(webhook, Mark.INLINE) == take(processes.start()) == 360


def test_the_marks_are_reached_together_by_any_number_of_processes() -> None:
    processes = Processes(limit=90)
    budgets = [processes.start() for _ in range(20)]
    calls = 0
    while some := sum(take(budget) == 0 for budget in budgets):
        calls += some
    assert 90 - 20 * 7 <= calls <= 90
    assert calls >= 60, "what lies unused in blocks is little"


def test_silence_costs_one_read_in_a_second_and_no_write(processes: Processes) -> None:
    processes.limit = 3
    budget = processes.start()
    assert taken(budget, 5) == 3
    processes.round_trips()
    before = processes.row
    for _ in range(30):
        assert take(budget) > 0
        processes.move(0.1)
    assert processes.round_trips() == ["BatchGetItem"] * 3
    assert processes.row == before


def test_what_others_have_given_back_is_seen_within_a_second(processes: Processes) -> None:
    processes.limit = 8
    one, other = processes.start(), processes.start()
    assert taken(one, 1 + 2 + 1) == 4
    assert taken(other, 9) == 1  # the block of the one has 3 more
    processes.move(1)
    assert take(one) == 0
    assert taken(other, 9) == 2


def test_no_inline_call_is_allowed_where_the_first_mark_is_0() -> None:
    processes = Processes(inline=0)
    budget = processes.start()
    assert take(budget, Mark.INLINE) == 30
    assert processes.row == {}
    assert take(budget) == 0


def test_a_first_mark_above_the_second_allows_no_more_than_that() -> None:
    processes = Processes(inline=300, limit=5)
    assert taken(processes.start(), 20, Mark.INLINE) == 5


def test_accounts_have_nothing_to_do_with_one_another() -> None:
    processes = Processes(limit=2)
    budget = processes.start()
    assert taken(budget, 5) == 2
    budget.heard(ACCOUNT, limited(300))
    assert take(budget, account=OTHER_ACCOUNT) == 0
    assert budget.pause_left(ACCOUNT) == 300
    assert budget.pause_left(OTHER_ACCOUNT) == 0
    assert processes.dynamodb.items.keys() == {KEY, f"A#{OTHER_ACCOUNT}"}


# --- Pauses ----------------------------------------------------------------------------------------------------------


def test_who_hears_that_the_limit_is_passed_is_silent_at_once_and_without_a_look(processes: Processes) -> None:
    budget = processes.start()
    assert taken(budget, 4) == 4  # and 3 are left in the block
    budget.heard(ACCOUNT, limited(77))
    processes.round_trips()
    assert take(budget) == 77
    assert budget.pause_left(ACCOUNT) == 77
    assert processes.round_trips() == []


@pytest.mark.parametrize("block", [0, 1, 4])
def test_every_other_process_is_silent_within_a_second(processes: Processes, block: int) -> None:
    one, other = processes.start(), processes.start()
    assert taken(other, block) == block
    assert take(one) == 0
    one.heard(ACCOUNT, limited(60))
    while not take(other):
        processes.move(0.1)
    assert processes.now <= NOON + timedelta(seconds=1)
    processes.now = NOON + timedelta(seconds=1)
    assert take(other) == 59
    assert other.pause_left(ACCOUNT) == 59


def test_a_process_that_looks_away_for_long_finds_the_pause_before_it_calls(processes: Processes) -> None:
    one, other = processes.start(), processes.start()
    assert take(other) == 0
    processes.move(100)
    one.heard(ACCOUNT, limited(60))
    assert other.pause_left(ACCOUNT) == 60
    assert take(other) == 60


def test_to_ask_for_a_pause_is_no_round_trip_within_a_second_of_the_last(processes: Processes) -> None:
    budget = processes.start()
    assert take(budget) == 0
    processes.round_trips()
    processes.move(0.8)
    assert budget.pause_left(ACCOUNT) == 0
    assert processes.round_trips() == []
    processes.move(0.1)
    assert budget.pause_left(ACCOUNT) == 0
    assert budget.pause_left(ACCOUNT) == 0
    assert processes.round_trips() == ["BatchGetItem"]
    assert processes.counted == 1


def test_a_pause_that_cannot_be_asked_for_is_not_taken_for_none(processes: Processes) -> None:
    budget = processes.start()
    assert take(budget) == 0
    processes.move(1)
    processes.faults.append(Fault.TIMEOUT_BEFORE)
    with pytest.raises(LedgerUnavailable):
        budget.pause_left(ACCOUNT)


def test_a_shorter_pause_never_shortens_a_longer_one(processes: Processes) -> None:
    one, other = processes.start(), processes.start()
    one.heard(ACCOUNT, limited(300))
    other.heard(ACCOUNT, limited(5))
    one.heard(ACCOUNT, limited(5))
    processes.move(6)
    for budget in (one, other, processes.start()):
        assert take(budget) == budget.pause_left(ACCOUNT) == 294


def test_a_longer_pause_lengthens_a_shorter_one(processes: Processes) -> None:
    one, other = processes.start(), processes.start()
    one.heard(ACCOUNT, limited(5))
    other.heard(ACCOUNT, limited(300))
    processes.move(6)
    for budget in (one, other, processes.start()):
        assert take(budget) == 294


@pytest.mark.parametrize(
    "called",
    [
        limited(60),
        Answered({}, OK, rest=60),
        # Here the write that fails is the one before the pause: the second call is counted first, and so is a trouble.
        NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 60, calls=2),
        Answered({}, Evidence(503), rest=60),
    ],
)
@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER, Fault.THROTTLED])
def test_a_pause_that_cannot_be_told_to_all_holds_here_all_the_same(
    processes: Processes, called: Answered | NoEffect, fault: Fault
) -> None:
    budget = processes.start()
    assert take(budget) == 0
    processes.faults.append(fault)
    budget.heard(ACCOUNT, called)
    assert take(budget) == 60


def test_a_good_answer_that_cannot_be_noted_changes_nothing(processes: Processes) -> None:
    budget = processes.start()
    for _ in range(2):
        budget.heard(ACCOUNT, BROKEN)
    processes.faults.append(Fault.TIMEOUT_BEFORE)
    budget.heard(ACCOUNT, GOOD)
    assert take(budget) == 0


def test_a_pause_asked_for_while_a_longer_one_is_known_does_not_shorten_it_though_the_ledger_fails(
    processes: Processes,
) -> None:
    one, other = processes.start(), processes.start()
    one.heard(ACCOUNT, limited(300))
    # The first of the two calls is counted, which tells of the longer pause; the pause itself is not written.
    processes.faults.extend([None, Fault.TIMEOUT_BEFORE])
    other.heard(ACCOUNT, NoEffect(RefusalReason.RATE_LIMITED, Evidence(429), 5, calls=2))
    assert take(other) == 300


def test_few_calls_that_cloudflare_tells_are_left_are_a_pause(processes: Processes) -> None:
    budget = processes.start()
    budget.heard(ACCOUNT, Answered({BARE: DELIVERED}, OK, rest=42))
    assert take(budget) == take(processes.start()) == 42
    budget.heard(OTHER_ACCOUNT, Answered({}, Evidence(503), rest=43))
    assert take(budget, account=OTHER_ACCOUNT) == 43


@pytest.mark.parametrize("called", [GOOD, REJECTED, FORBIDDEN])
def test_what_says_nothing_of_the_limit_costs_no_round_trip(processes: Processes, called: Answered | NoEffect) -> None:
    budget = processes.start()
    assert take(budget) == 0
    processes.round_trips()
    budget.heard(ACCOUNT, called)
    assert processes.round_trips() == []


def test_a_call_that_was_made_twice_counts_twice(processes: Processes) -> None:
    budget = processes.start()
    assert take(budget) == 0
    budget.heard(ACCOUNT, NoEffect(RefusalReason.CREDENTIALS, Evidence(403), calls=2))
    assert processes.counted == 2
    assert take(budget) == 0
    budget.heard(ACCOUNT, Answered({BARE: DELIVERED}, OK, calls=2))
    assert processes.counted == 1 + 1 + 2 + 1


# --- Troubles --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [UNREACHABLE, NO_ANSWER, BROKEN])
def test_the_third_trouble_in_a_row_pauses_and_each_more_for_longer(
    processes: Processes, trouble: Answered | NoEffect
) -> None:
    budgets = [processes.start() for _ in range(2)]
    pauses = []
    for number in range(8):
        budget = budgets[number % 2]
        budget.heard(ACCOUNT, trouble)
        pauses.append(budget.pause_left(ACCOUNT))
        processes.move(pauses[-1] + 1)
    assert pauses == [0, 0, 5, 10, 20, 40, 60, 60]


def test_a_call_that_comes_to_something_forgets_the_troubles(processes: Processes) -> None:
    one, other = processes.start(), processes.start()
    for _ in range(2):
        one.heard(ACCOUNT, NO_ANSWER)
    assert take(other) == 0  # and learns of the troubles
    other.heard(ACCOUNT, GOOD)
    assert "troubles" not in processes.row
    for _ in range(2):
        one.heard(ACCOUNT, UNREACHABLE)
        assert one.pause_left(ACCOUNT) == 0
    one.heard(ACCOUNT, BROKEN)
    assert one.pause_left(ACCOUNT) == 5


def test_a_refusal_is_no_trouble_and_forgets_none(processes: Processes) -> None:
    budget = processes.start()
    for called in (NO_ANSWER, REJECTED, NO_ANSWER, FORBIDDEN):
        budget.heard(ACCOUNT, called)
    assert budget.pause_left(ACCOUNT) == 0
    budget.heard(ACCOUNT, NO_ANSWER)
    assert budget.pause_left(ACCOUNT) == 5


def test_an_answer_that_rejects_or_proves_nothing_is_no_trouble(processes: Processes) -> None:
    budget = processes.start()
    for status in (200, 204, 302, 400, 404, 408, 499):
        budget.heard(ACCOUNT, Answered({}, Evidence(status)))
    assert budget.pause_left(ACCOUNT) == 0
    assert "troubles" not in processes.row


# --- After a pause ---------------------------------------------------------------------------------------------------


def test_after_a_pause_all_processes_together_begin_one_by_one(processes: Processes) -> None:
    budgets = [processes.start() for _ in range(5)]
    for budget in budgets:
        assert taken(budget, 4) == 4
    budgets[0].heard(ACCOUNT, limited(20))
    processes.move(20)
    made = []
    for _ in range(10 * 90):
        for budget in budgets:
            made += [(processes.now - NOON).total_seconds() - 20] if not take(budget) else []
        processes.move(0.1)
    for seconds in range(60):
        assert sum(at <= seconds for at in made) <= 1 + 2 * seconds
    assert sum(at <= 55 for at in made) >= 60
    assert sum(at > 60 for at in made) >= 500, "as many as may be from a minute on"


# --- Whatever happens ------------------------------------------------------------------------------------------------

steps = st.tuples(
    st.sampled_from(
        ["take", "take", "take", "take inline", "put back", "late", "late", "limited", "trouble", "good", "restart"]
    ),
    st.integers(0, 3),
    st.integers(1, 12),
    st.sampled_from([0, 0, 0, 0.3, 0.3, 1, 1, 7, 29, 31, 60, 240, 270, 300]),
)
Step = tuple[str, int, int, float]


@dataclass
class Run:
    """What four processes did: the calls they made and the pauses they heard of."""

    processes: Processes
    made: list[tuple[datetime, int, Mark]] = field(default_factory=list)
    pauses: list[tuple[datetime, int, datetime]] = field(default_factory=list)

    def play(self, several: Sequence[Step]) -> "Run":
        """Do this, each step some seconds after the one before; what fails is left at that."""
        budgets = [self.processes.start() for _ in range(4)]
        for what, who, number, seconds in several:
            self.processes.move(seconds + 0.001)
            if what == "restart":
                budgets[who] = self.processes.start()
            else:
                with suppress(LedgerUnavailable):
                    self._do(what, budgets[who], who, number)
        return self

    def _do(self, what: str, budget: AccountBudget, who: int, number: int) -> None:
        now = self.processes.now
        match what:
            case "take" | "take inline":
                mark = Mark.INLINE if what == "take inline" else Mark.ALL
                for _ in range(number):
                    if take(budget, mark):
                        return
                    self.made.append((self.processes.now, who, mark))  # after what the purchase has stalled
            case "put back":
                with budget.reserve(ACCOUNT, Mark.ALL) as reserved:
                    self._take_and_read(reserved, budget, who, number)
            case "late":
                with budget.reserve(ACCOUNT, Mark.ALL) as reserved:
                    if not self._take_and_read(reserved, budget, who, number) and not reserved.use():
                        self.made.append((self.processes.now, who, Mark.ALL))
            case "limited":
                budget.heard(ACCOUNT, limited(number))
                self.pauses.append((now, who, now + timedelta(seconds=number)))
            case _:
                budget.heard(ACCOUNT, BROKEN if what == "trouble" else GOOD)

    def _take_and_read(self, reserved: ReservedCall, budget: AccountBudget, who: int, number: int) -> float:
        """Take the reserved call, let time pass, and make other calls meanwhile."""
        wait = reserved.take()
        for _ in range(number // 3 if not wait else 0):
            self.processes.move(number * 2)
            if not take(budget):
                self.made.append((self.processes.now, who, Mark.ALL))
        return wait

    def assert_within_the_limits(self) -> None:
        """Look at the five minutes that end with each call; of the first mark, at what was to be known by then.

        Who bought calls below it may make them within a second, whatever others make above it meanwhile.
        """
        for number, (at, _, mark) in enumerate(self.made):
            window = self._made_since(at - timedelta(seconds=300), number)
            assert window <= self.processes.limit
            known = window - self._made_since(at - timedelta(seconds=0.9), number)
            assert mark is Mark.ALL or known < self.processes.inline

    def assert_silent_when_told(self) -> None:
        for told_at, by, until in self.pauses:
            for at, who, _ in self.made:
                assert not told_at + timedelta(seconds=0 if who == by else 1) <= at < until

    def assert_gentle_after_a_pause(self) -> None:
        """Look at the calls since the end of the last pause that was told before each."""
        for number, (at, *_) in enumerate(self.made):
            since = max((until for told_at, _, until in self.pauses if told_at < at), default=at)
            if since < at < since + timedelta(seconds=60):
                assert self._made_since(since, number) <= 1 + 2 * (at - since).total_seconds()

    def _made_since(self, since: datetime, number: int) -> int:
        """Return how many calls were made after then, up to this one."""
        return number + 1 - bisect_right(self.made, since, key=lambda call: call[0])


@settings(max_examples=200)
@given(st.lists(steps, max_size=60), st.integers(1, 25), st.integers(0, 25))
def test_never_more_than_the_limit_is_called_in_five_minutes(several: list[Step], limit: int, inline: int) -> None:
    run = Run(Processes(inline, limit)).play(several)
    run.assert_within_the_limits()


@settings(max_examples=200)
@given(st.lists(steps, max_size=60), st.integers(1, 25), st.lists(st.none() | st.sampled_from(Fault), max_size=60))
def test_not_even_when_the_ledger_fails(several: list[Step], limit: int, faults: list[Fault | None]) -> None:
    run = Run(Processes(limit, limit, faults=deque(faults))).play(several)
    run.assert_within_the_limits()


@settings(max_examples=200)
@given(st.lists(steps, max_size=60), st.integers(1, 25), st.lists(st.sampled_from([0, 0, 0, 5, 9.9, 46]), max_size=60))
def test_stalling_processes_stay_within_the_limit(several: list[Step], limit: int, stalls: list[float]) -> None:
    run = Run(Processes(limit, limit, stalls=deque(stalls))).play(several)
    run.assert_within_the_limits()


soon = st.tuples(
    st.sampled_from(["take", "take", "take", "take", "put back", "restart", "limited"]),
    st.integers(0, 3),
    st.integers(1, 12),
    st.sampled_from([0.3, 0.3, 0.5, 1, 1, 4]),
)


@settings(max_examples=200)
@given(st.lists(steps | soon, max_size=20), st.lists(soon, max_size=40))
def test_a_pause_silences_all_and_is_followed_by_few_calls(before: list[Step], after: list[Step]) -> None:
    run = Run(Processes(200, 200)).play([*before, ("limited", 0, 5, 0), *after])
    run.assert_silent_when_told()
    run.assert_gentle_after_a_pause()


def test_what_is_given_back_is_given_back_once_though_the_sdk_sends_it_again(processes: Processes) -> None:
    budget = processes.start()
    assert taken(budget, 1 + 2 + 4 + 1) == 8
    assert processes.counted == 8 + 7
    processes.move(1)
    processes.faults.append(Fault.REPEATED)
    assert take(budget) == 0
    assert processes.counted == 9


@pytest.mark.parametrize("fault", [Fault.TIMEOUT_BEFORE, Fault.TIMEOUT_AFTER, Fault.THROTTLED])
def test_what_cannot_be_given_back_stays_counted_and_holds_up_nobody(processes: Processes, fault: Fault) -> None:
    budget = processes.start()
    assert taken(budget, 1 + 2 + 1) == 4
    processes.move(1)
    processes.faults.append(fault)
    assert take(budget) == 0
    assert processes.counted == (5 if fault is Fault.TIMEOUT_AFTER else 8)


def test_a_call_that_was_bought_and_is_not_allowed_is_given_back_at_once(processes: Processes) -> None:
    processes.limit = 5
    assert taken(processes.start(), 9) == 5
    for _ in range(20):
        assert take(processes.start()) > 0
    assert processes.counted == 5


def test_what_was_bought_before_a_pause_is_not_given_back_to_those_after_it(processes: Processes) -> None:
    one, other = processes.start(), processes.start()
    assert taken(one, 1 + 2 + 1) == 4
    other.heard(ACCOUNT, limited(2))
    processes.move(2)
    assert take(one) == 0
    assert processes.row["resumed"] == 1
    assert take(other) > 0


def test_a_pause_that_could_not_be_told_to_all_outlasts_a_look_at_the_row(processes: Processes) -> None:
    budget = processes.start()
    assert take(budget) == 0
    processes.faults.append(Fault.TIMEOUT_BEFORE)
    budget.heard(ACCOUNT, limited(60))
    processes.move(30)
    assert take(budget) == 30


# --- Pauses that a person has ordered --------------------------------------------------------------------------------


def order(processes: Processes, client: str | None = None, *, lifts: bool = False) -> None:
    """Pause, or resume, as the operations tool does."""
    ledger = DynamoLedger(Table(processes.dynamodb, "ledger", lambda _: None))  # type: ignore[arg-type]
    name = OperationId(f"operation {len(processes.dynamodb.items)}")
    (resume if lifts else pause)(ledger, ACCOUNT, client, Person("ann", "a wrong rule", processes.now, name))
    processes.round_trips()


def test_who_has_just_taken_a_call_knows_of_a_pause_without_a_look(processes: Processes) -> None:
    order(processes)
    budget = processes.start()
    assert take(budget) == 0
    processes.round_trips()
    stop = budget.active_pause(ACCOUNT, "soar")
    assert stop is not None
    assert (stop.reason, stop.by, stop.since) == ("a wrong rule", "ann", processes.now)
    assert processes.round_trips() == []


def test_a_pause_reaches_every_process_within_a_second_and_so_does_its_end(processes: Processes) -> None:
    budget = processes.start()
    assert budget.active_pause(ACCOUNT, "soar") is None
    assert processes.round_trips() == ["BatchGetItem"]
    order(processes)
    processes.move(0.9)
    assert budget.active_pause(ACCOUNT, "soar") is not None
    assert processes.round_trips() == ["BatchGetItem"]
    order(processes, lifts=True)
    processes.move(0.9)
    assert budget.active_pause(ACCOUNT, "soar") is None


def test_a_pause_of_one_client_is_nobody_elses(processes: Processes) -> None:
    order(processes, "soar")
    budget = processes.start()
    assert budget.active_pause(ACCOUNT, "soar") is not None
    assert budget.active_pause(ACCOUNT, "other") is None
    assert budget.active_pause(OTHER_ACCOUNT, "soar") is None


def test_counting_and_silence_leave_the_pause_in_place(processes: Processes) -> None:
    order(processes)
    budget = processes.start()
    assert taken(budget, 3) == 3
    budget.heard(ACCOUNT, limited(5))
    processes.move(40)
    for called in (BROKEN, GOOD):
        assert take(budget) == 0
        budget.heard(ACCOUNT, called)
    assert budget.active_pause(ACCOUNT, "soar") is not None
    assert processes.start().active_pause(ACCOUNT, "soar") is not None


def test_a_pause_that_cannot_be_read_is_not_taken_for_none(processes: Processes) -> None:
    budget = processes.start()
    processes.faults += [Fault.TIMEOUT_BEFORE] * 9
    with pytest.raises(LedgerUnavailable):
        budget.active_pause(ACCOUNT, "soar")
