"""What a client may still do of what it asked for: the pure rule, the cached secret behind it, worker and sweep."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release import telemetry
from quarantine_release.aws.current_clients import CurrentClients
from quarantine_release.aws.secret_store import CachedSecret
from quarantine_release.config.clients import Client, Clients, Scope, Token, parse_clients
from quarantine_release.config.permits import check_permit
from quarantine_release.config.secret import SecretMalformed, SecretUnavailable
from quarantine_release.domain.details import Details
from quarantine_release.domain.guard import Guard, Mode
from quarantine_release.domain.ids import AccountId, MessageId, postfix_part
from quarantine_release.domain.permit import Permit, Withheld, as_accepted
from quarantine_release.domain.policy import DISPOSITIONS, Policy
from quarantine_release.domain.rows import MessageRow, RequestRow
from quarantine_release.domain.states import Outcome, State
from quarantine_release.releasing.ports import Hint
from quarantine_release.usecases.accepted_request import status_of
from quarantine_release.usecases.release_now import release
from quarantine_release.usecases.sweep import QUIET, Swept, sweep
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OTHER, World, request_row

SPAM_ONLY = Policy(dispositions=frozenset({"SPAM"}))
RELEASES = frozenset({Scope.RELEASE})
ELSEWHERE = AccountId("b" * 32)


def client(**members: Any) -> Client:
    known: dict[str, Any] = {"name": "soar", "tokens": (Token(b"1"),), "scopes": RELEASES}
    return Client(**(known | members))


def clients(*entries: Client, **problems: str) -> Clients:
    return Clients(entries, problems)


# --- The rule


@pytest.mark.parametrize(
    ("known", "withheld"),
    [
        (clients(client()), None),
        (clients(client(name="other"), client()), None),
        (clients(client(accounts=frozenset({ACCOUNT, ELSEWHERE}))), None),
        (clients(client(max_ids=1)), None),
        (None, Withheld.CLIENTS_UNREADABLE),
        (clients(client(tokens=(Token(b"1", NOON),))), Withheld.TOKENS_EXPIRED),
        (clients(client(tokens=(Token(b"1", NOON), Token(b"2", NOON + timedelta(days=1))))), None),
        (clients(), Withheld.CLIENT_GONE),
        (clients(client(name="other")), Withheld.CLIENT_GONE),
        (clients(client(name="other"), soar="tokens: wrong"), Withheld.CLIENT_INVALID),
        (clients(client(is_disabled=True)), Withheld.CLIENT_DISABLED),
        (clients(client(scopes=frozenset({Scope.READ, Scope.FORCE}))), Withheld.SCOPE_LOST),
        (clients(client(accounts=frozenset({ELSEWHERE}))), Withheld.ACCOUNT_LOST),
    ],
)
def test_work_is_withheld_unless_the_client_may_still_do_it(known: Clients | None, withheld: Withheld | None) -> None:
    assert check_permit(request_row(), known, NOON) == Permit(None, withheld)


@pytest.mark.parametrize(
    ("members", "scopes"),
    [
        ({"override": True}, {Scope.OVERRIDE}),
        ({"force": True}, {Scope.FORCE}),
        ({"override": True, "force": True}, {Scope.OVERRIDE, Scope.FORCE}),
    ],
)
def test_a_request_still_needs_each_scope_that_it_used(members: dict[str, Any], scopes: set[Scope]) -> None:
    request = request_row(**members, reason="reported")
    allowed = RELEASES | scopes
    assert check_permit(request, clients(client(scopes=allowed)), NOON).withheld is None
    for lost in allowed:
        left = clients(client(scopes=allowed - {lost}))
        assert check_permit(request, left, NOON).withheld is Withheld.SCOPE_LOST


@pytest.mark.parametrize(
    ("then", "now", "policy"),
    [
        (None, None, None),
        (SPAM_ONLY, None, SPAM_ONLY),
        (None, SPAM_ONLY, SPAM_ONLY),
        (SPAM_ONLY, Policy(dispositions=frozenset({"BULK"})), Policy(dispositions=frozenset())),
    ],
)
def test_the_stricter_of_the_policies_then_and_now_holds(
    then: Policy | None, now: Policy | None, policy: Policy | None
) -> None:
    request = request_row(policy=then)
    assert check_permit(request, clients(client(policy=now)), NOON).policy == policy
    assert check_permit(request, None, NOON).policy == as_accepted(request).policy == then


policies = st.none() | st.builds(
    Policy,
    st.none() | st.frozensets(st.sampled_from(sorted(DISPOSITIONS))),
    st.none() | st.integers(1, 365).map(lambda days: timedelta(days=days)),
    st.none() | st.frozensets(st.sampled_from(["example.com", "example.net"])),
    st.booleans(),
)


@given(policies, policies)
def test_no_change_of_a_policy_loosens_what_was_asked_for_under_it(then: Policy | None, now: Policy | None) -> None:
    left = check_permit(request_row(policy=then), clients(client(policy=now)), NOON).policy or Policy()
    for each in filter(None, (then, now)):
        assert left.with_stricter(each) == left


# --- The cached secret


class Vault:
    """A clients secret that can fail, and a clock."""

    def __init__(self) -> None:
        token = {"sha256": sha256(b"one").hexdigest()}
        self.document = json.dumps({"clients": [{"name": "soar", "tokens": [token], "scopes": ["release"]}]})
        self.failure: Exception | None = None
        self.fetches = 0
        self.now = NOON

    def get_secret_value(self, **_: Any) -> dict[str, str]:
        self.fetches += 1
        if self.failure is not None:
            raise self.failure
        return {"SecretString": self.document}

    def current(self) -> CurrentClients:
        def clock() -> datetime:
            return self.now

        return CurrentClients(CachedSecret(self, "clients", parse_clients, clock), clock)  # type: ignore[arg-type]


class Secret:
    """A secret whose every read ends like this."""

    def __init__(self, failure: Exception) -> None:
        self.failure = failure
        self.reads = 0

    def get(self) -> Clients:
        self.reads += 1
        raise self.failure


def test_a_revoked_client_is_noticed_once_the_copy_is_five_minutes_old() -> None:
    vault = Vault()
    current = vault.current()
    assert current.permit(request_row()).withheld is None
    vault.document = '{"clients": []}'
    vault.now += timedelta(seconds=299)
    assert current.permit(request_row()).withheld is None
    vault.now += timedelta(seconds=1)
    assert current.permit(request_row()).withheld is Withheld.CLIENT_GONE
    assert vault.fetches == 2


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (SecretUnavailable("ThrottlingException"), "cannot be fetched: ThrottlingException"),
        (SecretMalformed("is not JSON"), "is not JSON"),
    ],
)
def test_a_secret_that_cannot_be_read_withholds_all_and_is_tried_again_after_ten_seconds(
    failure: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(telemetry, "secret_unusable", lambda *arguments: told.append(arguments))
    now = [NOON]
    secret = Secret(failure)
    current = CurrentClients(secret, lambda: now[0])  # type: ignore[arg-type]
    for seconds in (0, 1, 9):
        now[0] = NOON + timedelta(seconds=seconds)
        assert current.permit(request_row()).withheld is Withheld.CLIENTS_UNREADABLE
    assert (secret.reads, told) == (1, [("clients", said)])
    now[0] = NOON + timedelta(seconds=10)
    current.permit(request_row())
    assert secret.reads == 2


def test_a_malformed_secret_withholds_what_a_copy_would_have_permitted() -> None:
    vault = Vault()
    current = vault.current()
    assert current.permit(request_row()).withheld is None
    vault.document = "this is no JSON"
    vault.now += timedelta(seconds=300)
    assert current.permit(request_row()).withheld is Withheld.CLIENTS_UNREADABLE


# --- In worker and sweep


def accept(world: World, *given: MessageId, name: str = "one", client: str = "soar", **members: Any) -> RequestRow:
    request = request_row(*given, name=name, client=client, created_at=world.clock.now, **members)
    release(request, world.ports(), inline=False)
    return request


def without(name: str) -> Callable[[RequestRow], Permit]:
    """Permit everything but what this client asked for."""
    return lambda request: Permit(request.policy, Withheld.CLIENT_GONE if request.client == name else None)


def message(world: World, message_id: MessageId = BARE) -> MessageRow | None:
    return world.ledger.messages(ACCOUNT, [postfix_part(message_id)]).get(postfix_part(message_id))


def outcomes(world: World, request: RequestRow) -> list[Outcome]:
    row = world.ledger.requests([request.request_id])[request.request_id]
    return [result.outcome for result in status_of(row, world.ports()).results]


def sent_again(world: World, **ports: Any) -> tuple[list[Hint], Swept]:
    world.clock.move(seconds=QUIET.total_seconds() + 1)
    swept = Swept()
    sweep(world.ports(**ports), swept)
    return world.queue.taken(), swept


def test_withheld_work_is_not_read_claimed_or_sent_and_goes_on_by_the_sweep(world: World) -> None:
    world.guard = Guard(Mode.STANDARD)
    world.lookup.messages[FULL] = Details(FULL, True, "SPAM")
    request = accept(world, FULL)
    batch = world.work(permit=without("soar"))
    assert (batch.calls, batch.failed) == (0, set())
    assert batch.withheld == {("soar", Withheld.CLIENT_GONE): 1}
    assert (message(world, FULL), world.lookup.looked, world.budget.taken) == (None, [], [])
    assert world.queue.sent == []
    hints, swept = sent_again(world, permit=without("soar"))
    assert (hints, swept.hints, swept.withheld) == ([], 0, {("soar", Withheld.CLIENT_GONE): 1})
    hints, swept = sent_again(world)
    assert (hints, swept.withheld) == ([Hint(request.request_id, 0)], {})
    world.queue.send(hints)
    assert len(world.work().settled) == 1
    assert outcomes(world, request) == [Outcome.RELEASED]


def test_withheld_work_expires_like_any_other(world: World) -> None:
    request = accept(world, BARE)
    world.work(permit=without("soar"))
    world.clock.move(hours=24)
    hints, _ = sent_again(world, permit=without("soar"))
    assert hints == []
    assert outcomes(world, request) == [Outcome.EXPIRED]


def test_a_message_that_another_client_wants_too_is_released_for_that_one(world: World) -> None:
    lost = accept(world, BARE, OTHER, client="lost")
    other = accept(world, OTHER, name="two")
    batch = world.work(permit=without("lost"))
    assert [called for _, called in world.cloudflare.calls] == [[OTHER]]
    row = message(world, OTHER)
    assert row is not None
    assert (row.state, row.owner, len(row.asks)) == (State.RELEASED, other.request_id, 2)
    assert batch.withheld == {("lost", Withheld.CLIENT_GONE): 1}
    assert outcomes(world, lost) == [Outcome.IN_PROGRESS, Outcome.ALREADY_RELEASED]
    assert outcomes(world, other) == [Outcome.RELEASED]


def test_a_claimed_call_is_given_back_if_one_of_its_clients_was_revoked_and_the_others_come_back_at_once(
    world: World,
) -> None:
    lost = accept(world, BARE, client="lost")
    other = accept(world, OTHER, name="two")

    def revoked_once_it_is_claimed(request: RequestRow) -> Permit:
        return as_accepted(request) if message(world) is None else without("lost")(request)

    batch = world.work(permit=revoked_once_it_is_claimed)
    assert world.cloudflare.calls == []
    assert (batch.calls, batch.failed) == (1, set())
    row = message(world)
    assert row is not None
    assert (row.state, row.owner, row.attempts, row.refusals) == (State.RETRYABLE, None, frozenset(), 1)
    assert row.last_refused is not None
    (attempt,) = world.ledger.attempts(ACCOUNT, [row.last_refused])
    assert attempt.evidence is not None
    assert attempt.evidence.failure == "client_gone"
    assert [(hint.request_id, delay) for hint, delay in world.queue.sent] == [(other.request_id, 0)]
    world.work(permit=without("lost"))
    assert [called for _, called in world.cloudflare.calls] == [[OTHER]]
    assert outcomes(world, lost) == [Outcome.IN_PROGRESS]


@pytest.mark.parametrize("mode", Mode)
def test_a_policy_that_was_tightened_meanwhile_denies_what_it_forbids(world: World, mode: Mode) -> None:
    world.guard = Guard(mode)
    world.lookup.messages[FULL] = Details(FULL, True, "BULK")
    request = accept(world, FULL)
    batch = world.work(permit=lambda request: check_permit(request, clients(client(policy=SPAM_ONLY)), NOON))
    assert world.cloudflare.calls == []
    assert [result.outcome for result, _ in batch.ended] == [Outcome.DENIED]
    assert outcomes(world, request) == [Outcome.DENIED]
