"""From a payload to a request: what callers really send is understood, and what breaks a rule is named, not echoed."""

import json
from base64 import b32encode
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarantine_release.api.authentication import AuthenticatedRequest
from quarantine_release.api.problems import PROBLEMS, InvalidRequest
from quarantine_release.api.release_request import ReleaseRequest, accept, parse_release_request
from quarantine_release.api.request_fields import IDS_LIMIT, INLINE_LIMIT, parse_message_id, parse_request_id
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.policy import Policy
from quarantine_release.domain.request_options import FailOn, Narrowing
from quarantine_release.domain.rows import RequestRow, RequestState
from tests.support.release_bodies import CLIENT, HEADER, NARROWED, Headers, id_number, invalid, parse
from tests.support.shapes import message_ids
from tests.support.stand_ins import ACCOUNT, BARE, FULL, NOON, OTHER, http_request

RANDOM = bytes(range(20))


def test_only_ids_are_needed() -> None:
    assert parse([BARE]) == ReleaseRequest(
        client=CLIENT,
        ids=(BARE,),
        account_id=None,
        reason=None,
        ticket=None,
        requested_by=None,
        force=False,
        fail_on=FailOn.NEVER,
        idempotency_key=None,
        trace_id=None,
        prefers_async=False,
        warnings=(),
    )


def test_every_member_is_read() -> None:
    content = {
        "ids": [FULL],
        "account_id": ACCOUNT,
        "reason": " falsch erkannt 🙂 ",
        "ticket": "INC-1",
        "requested_by": "ann@example.com",
        "force": True,
        "fail_on": "partial",
    }
    wanted = parse(content, {"idempotency-key": ("key-1",)})
    assert wanted == ReleaseRequest(
        client=CLIENT,
        ids=(FULL,),
        account_id=ACCOUNT,
        reason="falsch erkannt 🙂",
        ticket="INC-1",
        requested_by="ann@example.com",
        force=True,
        fail_on=FailOn.PARTIAL,
        idempotency_key="key-1",
        trace_id=None,
        prefers_async=False,
        warnings=(),
    )


@pytest.mark.parametrize(
    ("content", "code", "field"),
    [
        (b"", "invalid_body", "body"),
        (b"\xff", "invalid_body", "body"),
        (b"[NaN]", "invalid_body", "body"),
        ("text", "invalid_body", "body"),
        (5, "invalid_body", "body"),
        (None, "invalid_body", "body"),
        (True, "invalid_body", "body"),
        ({"ids": BARE, "force": True}, "force_needs_reason", "reason"),
        ({"ids": BARE, "force": True, "reason": "  "}, "force_needs_reason", "reason"),
        ({"ids": BARE, "force": True, "reason": "r"}, "force_needs_key", "Idempotency-Key"),
        ({"ids": BARE, "override": True}, "override_needs_reason", "reason"),
    ],
)
def test_a_request_that_breaks_a_rule_as_a_whole_is_told_by_code_and_field(content: Any, code: str, field: str) -> None:
    assert invalid(content) == (code, field)


RULES: list[tuple[Any, str]] = [
    (b"\xff", "The body must be UTF-8."),
    (b"{", "The body must be JSON."),
    (5, "The body must be a JSON object, or an array of ids."),
    ({"ids": BARE, "force": True}, "force needs a reason."),
    ({"ids": BARE, "override": True}, "override needs a reason."),
    ({"ids": BARE, "force": True, "reason": "r"}, "force needs the header Idempotency-Key."),
]


@pytest.mark.parametrize(("content", "rule"), RULES)
def test_the_rule_that_was_broken_is_told_in_words(content: Any, rule: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse(content)
    assert refusal.value.detail == rule


def test_the_rule_of_a_key_is_told_in_words() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse([BARE], {"idempotency-key": ("",)})
    assert refusal.value.detail == "The key must be one value of 1 to 255 printable ASCII characters."


def test_a_body_that_is_not_the_base64_it_is_marked_as_is_invalid() -> None:
    with pytest.raises(InvalidRequest) as refusal:
        parse_release_request(AuthenticatedRequest(CLIENT, http_request({}, None)))
    assert refusal.value.code == "invalid_body"
    assert refusal.value.detail == "The body is marked as base64 and is not base64."


def test_1000_different_ids_are_accepted_however_often_each_is_repeated() -> None:
    ids = [id_number(n) for n in range(1000)]
    assert len(parse(ids * 3).ids) == IDS_LIMIT == 1000


FORCED = {"force": True, "reason": "r"}
KEY: Headers = {"idempotency-key": ("key-1",)}


def test_a_forced_request_holds_at_most_25_ids_as_it_is_done_at_once_or_not_at_all() -> None:
    ids = [id_number(n) for n in range(INLINE_LIMIT + 1)]
    assert INLINE_LIMIT == 25
    assert len(parse({"ids": ids[:25], **FORCED}, KEY).ids) == 25
    assert invalid({"ids": ids, **FORCED}, KEY) == ("too_many_ids", "ids")
    assert invalid({"ids": ids[:3], **FORCED}, KEY, replace(CLIENT, max_ids=2)) == ("too_many_ids", "ids")
    assert invalid({"ids": ids, **FORCED}, KEY, replace(CLIENT, max_ids=1000)) == ("too_many_ids", "ids")


@pytest.mark.parametrize(
    ("members", "max_ids", "said"),
    [
        ({}, None, "At most 1000 different ids may be given in a request."),
        ({"dry_run": True}, None, "At most 25 different ids may be given with dry_run."),
        (FORCED, 1000, "At most 25 different ids may be given with force."),
        (FORCED, 7, "At most 7 different ids may be given by this client (max_ids)."),
        ({}, 30, "At most 30 different ids may be given by this client (max_ids)."),
    ],
)
def test_whoever_gives_too_many_ids_is_told_which_limit_applies(
    members: dict[str, Any], max_ids: int | None, said: str
) -> None:
    ids = [id_number(n) for n in range(IDS_LIMIT + 1)]
    with pytest.raises(InvalidRequest) as refusal:
        parse({"ids": ids, **members}, KEY, replace(CLIENT, max_ids=max_ids))
    assert refusal.value.detail == said


ASYNC: Headers = {"prefer": ("respond-async",)}


@pytest.mark.parametrize(
    ("count", "members", "headers", "is_inline"),
    [
        (1, {}, {}, True),
        (25, {}, {}, True),
        (26, {}, {}, False),
        (1000, {}, {}, False),
        (1, {}, ASYNC, False),
        (26, {}, ASYNC, False),
        (1, FORCED, KEY, True),
        (25, FORCED, KEY | ASYNC, True),
    ],
)
def test_few_ids_are_released_while_the_caller_waits_unless_he_would_rather_not(
    count: int, members: dict[str, Any], headers: Headers, is_inline: bool
) -> None:
    wanted = parse({"ids": [id_number(n) for n in range(count)], **members}, headers)
    assert wanted.is_inline is is_inline


@pytest.mark.parametrize(
    ("values", "prefers_async"),
    [
        ((), False),
        (("respond-async",), True),
        (("Respond-Async",), True),
        ((" respond-async ",), True),
        (("respond-async, wait=10",), True),
        (("wait=10, respond-async",), True),
        (("wait=10,respond-async;foo=bar",), True),
        (("return=minimal", "respond-async"), True),
        (("return=minimal", "handling=lenient"), False),
        (("wait=10",), False),
        (("respond-sync",), False),
        (("respond-asynchronously",), False),
        (("no-respond-async",), False),
        (("return=respond-async",), False),
        (("",), False),
        ((",,;",), False),
    ],
)
def test_the_caller_may_prefer_not_to_wait(values: tuple[str, ...], prefers_async: bool) -> None:
    """The spellings: RFC 7240, sections 2 and 4.1."""
    assert parse([BARE], {"prefer": values}).prefers_async is prefers_async


def test_how_a_request_is_to_be_answered_makes_it_no_other_request() -> None:
    rows = [accept(parse([BARE], headers), ACCOUNT, NOON, RANDOM) for headers in (KEY, KEY | ASYNC)]
    assert rows[0] == rows[1]


def test_a_client_may_be_held_to_fewer_ids_but_not_allowed_more() -> None:
    ids = [id_number(n) for n in range(IDS_LIMIT + 1)]
    assert invalid(ids[:3], client=replace(CLIENT, max_ids=2)) == ("too_many_ids", "ids")
    assert len(parse(ids[:2], client=replace(CLIENT, max_ids=2)).ids) == 2
    assert invalid(ids, client=replace(CLIENT, max_ids=1000)) == ("too_many_ids", "ids")


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"idempotency-key": ("key-1",)}, "key-1"),
        ({"idempotency-key": ('"key-1"',)}, "key-1"),
        ({"idempotency-key": (' "with space" ',)}, "with space"),
        ({"idempotency-key": ("key-1", "key-1")}, "key-1"),
        ({"idempotency-key": ("k" * 255,)}, "k" * 255),
        ({"webhook-id": ("msg_1",)}, "msg_1"),
        ({"webhook-id": ("msg_1",), "idempotency-key": ("key-1",)}, "key-1"),
        ({"webhook-id": ("msg_1",), "idempotency-key": ()}, "msg_1"),
        ({}, None),
    ],
)
def test_the_idempotency_key_may_be_bare_or_quoted(headers: Headers, key: str | None) -> None:
    assert parse([BARE], headers).idempotency_key == key


@pytest.mark.parametrize(
    "values",
    [
        ("",),
        ('""',),
        ("k" * 256,),
        ("one", "two"),
        ("with space",),
        ('half"',),
        ('"a"b"',),
        ('"a\\"',),
        ("schlüssel",),
        ("a\x00b",),
    ],
)
@pytest.mark.parametrize("name", ["idempotency-key", "webhook-id"])
def test_a_key_that_is_no_key_is_refused(name: str, values: tuple[str, ...]) -> None:
    assert invalid([BARE], {name: values}) == ("invalid_idempotency_key", name)


@pytest.mark.parametrize("headers", [{}, {"idempotency-key": ("msg_1",)}, {"idempotency-key": ('"msg_1"',)}])
def test_the_signed_id_is_the_idempotency_key(headers: Headers) -> None:
    headers = {"webhook-id": ("msg_1",), **headers}
    payload = AuthenticatedRequest(CLIENT, http_request(headers, json.dumps([BARE]).encode()), "msg_1")
    assert parse_release_request(payload).idempotency_key == "msg_1"


@pytest.mark.parametrize("other", ["msg_2", "MSG_1", "msg_1,msg_1"])
def test_beside_the_signed_id_no_other_key_is_taken(other: str) -> None:
    headers = {"webhook-id": ("msg_1",), "idempotency-key": (other,)}
    with pytest.raises(InvalidRequest) as refusal:
        parse_release_request(AuthenticatedRequest(CLIENT, http_request(headers, json.dumps([BARE]).encode()), "msg_1"))
    assert (refusal.value.code, refusal.value.field) == ("invalid_idempotency_key", "Idempotency-Key")
    assert refusal.value.detail == "The key of a signed request must equal its webhook-id."


TRACE = "0af7651916cd43dd8448eb211c80319c"
ROOT = "1-5759e988-bd862e3fe1be46a994272793"


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [
        ({"traceparent": (f"00-{TRACE}-b7ad6b7169203331-01",)}, TRACE),
        ({"traceparent": ("nonsense", f"00-{TRACE}-b7ad6b7169203331-01")}, TRACE),
        ({"traceparent": (f"00-{TRACE}-b7ad6b7169203331-01\n",)}, None),
        ({"traceparent": (f"00-{TRACE.upper()}-b7ad6b7169203331-01",)}, None),
        ({"x-amzn-trace-id": (f"Root={ROOT}",)}, ROOT),
        ({"x-amzn-trace-id": (f"Self=1-67891234-12456789abcdef012345678;Root={ROOT};Sampled=1",)}, ROOT),
        ({"x-amzn-trace-id": ("Root=canary",)}, None),
        ({"traceparent": ("nonsense",), "x-amzn-trace-id": (f"Root={ROOT}",)}, ROOT),
    ],
)
def test_a_trace_id_is_kept_only_in_the_form_of_one(headers: Headers, trace_id: str | None) -> None:
    assert parse([BARE], headers).trace_id == trace_id


def test_an_accepted_request_holds_what_was_wanted() -> None:
    wanted = parse({"ids": [BARE, OTHER], "reason": "r", "ticket": "t", "requested_by": "b", "fail_on": "none"})
    row = accept(wanted, ACCOUNT, NOON, RANDOM)
    assert (row.client, row.account_id, row.ids, row.created_at) == ("soar", ACCOUNT, (BARE, OTHER), NOON)
    assert (row.reason, row.ticket, row.requested_by, row.fail_on) == ("r", "t", "b", FailOn.NONE)
    assert row.state is RequestState.OPEN
    assert row.nonce == RANDOM.hex()
    assert (row.force, row.trace_id) == (False, None)
    forced = parse({"ids": BARE, **FORCED}, KEY | {"x-amzn-trace-id": (f"Root={ROOT}",)})
    row = accept(forced, ACCOUNT, NOON, RANDOM)
    assert (row.force, row.trace_id) == (True, ROOT)


def test_the_request_id_comes_from_client_and_key() -> None:
    wanted = parse([BARE], {"idempotency-key": ("key-1",)})
    digest = b32encode(sha256(b"soar\0key-1").digest()).decode().lower()
    row = accept(wanted, ACCOUNT, NOON, RANDOM)
    assert row.request_id == f"rq_{digest[:26]}" == parse_request_id(row.request_id)
    assert accept(wanted, ACCOUNT, NOON, bytes(20)).request_id == row.request_id
    for other in (replace(wanted, idempotency_key="key-2"), replace(wanted, client=replace(CLIENT, name="other"))):
        assert accept(other, ACCOUNT, NOON, RANDOM).request_id != row.request_id


@given(st.binary(min_size=17, max_size=32), st.binary(min_size=17, max_size=32))
def test_without_a_key_the_request_id_is_random(one: bytes, other: bytes) -> None:
    wanted = parse([BARE])
    ids = [accept(wanted, ACCOUNT, NOON, random).request_id for random in (one, other)]
    assert all(parse_request_id(request_id) == request_id for request_id in ids)
    assert (ids[0] == ids[1]) == (one[:16] == other[:16] and one[16] >> 6 == other[16] >> 6)


def test_the_fingerprint_tells_payloads_apart_and_not_how_they_are_written() -> None:
    def fingerprint(content: Any, account: Any = ACCOUNT) -> str:
        wanted = parse(content, {"idempotency-key": ("k",)})
        return accept(wanted, account, NOON, RANDOM).fingerprint

    first = fingerprint([BARE, OTHER])
    for same in ({"ids": f"{OTHER},{BARE}"}, {"postfix_ids": [BARE, OTHER], "force": "false", "reason": " ", "x": 1}):
        assert fingerprint(same) == first
    members: list[dict[str, Any]] = [
        {"reason": "r"},
        {"ticket": "r"},
        {"requested_by": "r"},
        {"reason": "r", "force": True},
        {"fail_on": "none"},
        {"ids": [BARE]},
    ]
    others = [fingerprint({"ids": [BARE, OTHER]} | member) for member in members]
    assert len({first, fingerprint([BARE, OTHER], "b" * 32), *others}) == len(members) + 2


def test_what_narrows_a_message_id_down_is_read_and_kept() -> None:
    wanted = parse(NARROWED)
    since = datetime(2026, 11, 1, tzinfo=UTC)
    assert wanted.narrowing == Narrowing("ann@example.com", "example.org", since, 2)
    assert wanted.narrowing.since is not None
    assert wanted.narrowing.since.tzinfo is UTC
    assert accept(wanted, ACCOUNT, NOON, RANDOM).narrowing == wanted.narrowing
    assert wanted.warnings == ()
    assert parse(NARROWED | {"ids": [BARE, HEADER]}).warnings == ()


def test_how_a_request_is_gone_about_is_kept_with_it() -> None:
    client = replace(CLIENT, policy=Policy(is_strict=True))
    for chosen in ("override", "dry_run", "confirm"):
        wanted = parse({"ids": BARE, "reason": "r", chosen: True}, client=client)
        row = accept(wanted, ACCOUNT, NOON, RANDOM)
        flags = {name: getattr(row, name) for name in ("force", "override", "dry_run", "confirm")}
        assert flags == {"force": False, "override": False, "dry_run": False, "confirm": False, chosen: True}
        assert row.policy is client.policy


def test_whatever_may_change_the_answer_makes_another_request() -> None:
    contents: list[dict[str, Any]] = [
        NARROWED,
        NARROWED | {"recipient": "bob@example.com"},
        NARROWED | {"sender": None},
        NARROWED | {"since": None},
        NARROWED | {"expect_count": 3},
        *({**NARROWED, "reason": "r", flag: True} for flag in ("override", "dry_run", "confirm")),
    ]
    assert len({accept(parse(each), ACCOUNT, NOON, RANDOM).fingerprint for each in contents}) == len(contents)


# What version 4c3b95d stored for these bodies, made by running it. Each list is one payload, written in several ways.
STORED_BY_4C3B95D: dict[str, list[Any]] = {
    "6146d0eb2d0448ed1778b629cf3bcb94ed089bb7335f2ebae3f03a599b23142c": [
        [BARE],
        {"id": BARE},
        {"postfix_id": BARE},
        {"postfix_ids": [BARE]},
        {"ids": f" {BARE} , "},
        {"ids": [BARE], "reason": "  ", "force": "false", "fail_on": None, "other": 1},
        {"ids": [BARE], "account_id": ACCOUNT},
    ],
    "d5ff56635f8a54c7a27dc76d4727b79f0478d946ba657cc7f33d1a4148814fe0": [
        [BARE, OTHER],
        {"ids": f"{OTHER},{BARE}"},
        {"alert_ids": [OTHER, BARE, OTHER]},
    ],
    "4cd4ab133b89e896f82822517597c5c9a3178998911f301d1b5af4787035e126": [{"ids": FULL}],
    "239a29830371aed5cc4814eaca43e9541e45e84937252bde235f0c8b5ebc8543": [
        {"ids": [BARE], "reason": "r"},
        {"ids": [BARE], "reason": " r "},
    ],
    "96f7ab2ec9e23d32765038111e1190d5f6a0859dcb5e50c835c28516cf838bf9": [{"ids": [BARE], "ticket": "INC-1"}],
    "59001e24fb8647e1e9e0926eaecfd88857aee25c57dedda65999ac569a9636d4": [{"ids": [BARE], "requested_by": "Zoë"}],
    "28dcebb00a3c3d4e98310a0abbbb0d5647921cbf6e0582fd265ef827e584a8da": [
        {"ids": [BARE], "force": True, "reason": "r"},
        {"ids": [BARE], "force": "TRUE", "reason": "r"},
    ],
    "8402fe784588cc9a0f7911d176f9ce6ab2bbff2aa0a26d3f871c13b5768fab23": [
        {"ids": [BARE], "override": "true", "reason": "r"}
    ],
    "483f38aa778c26ded3697160fa45c8ef8bb38365b28983803b5acf81247d55b3": [{"ids": [BARE], "dry_run": True}],
    "4cc04f0d8f8664644eee5d75b77a0c0250a3ce73827ca8c0bb3ce62cbcdfd6c9": [{"ids": [BARE], "confirm": True}],
    "9fc282c8f337aae36916be156e03ade850bbd30596f5d0c657cfd1b05aed4bb0": [{"ids": [BARE], "fail_on": "none"}],
    "038e2cb62e6d7768f407abd690eec32e2607d0f6a363031d28144b8b01030f0b": [{"ids": [BARE], "fail_on": "partial"}],
    "76d0227a806529ad77f99baa4c6f872ef4c836b9791ca16d35f6a52c7eb98b09": [{"ids": [BARE], "account_id": "b" * 32}],
    "8924c261352db422e84e77306df87e1e0d5794251f3ed117055df6e004a59488": [
        {"ids": HEADER, "recipient": "ann@example.com"}
    ],
    "3d0e6e0d42dca0cfe0bde815ecf66f5a6c8dd3ef64a96cdbb81b37022cc9bf89": [{"ids": HEADER, "sender": "example.org"}],
    "304adf7cd13094777730431b521d7f808114da734a41f8e320925ee0155096cd": [
        {"ids": HEADER, "since": "2026-11-01T02:00:00+02:00"},
        {"ids": HEADER, "since": "2026-11-01T00:00:00Z"},
    ],
    "54ef7dc448e779bbf7f60db88e7e18d28363eed55ba653335978180c00c959a4": [
        {"ids": HEADER, "expect_count": 2},
        {"ids": HEADER, "expect_count": "2"},
    ],
    "3162e0f4292025e87e731ccedc25f1764e710eeb5d166da431f20730d3093034": [
        {
            "ids": [HEADER, OTHER],
            "account_id": ACCOUNT,
            "reason": "r",
            "ticket": "t",
            "requested_by": "Ann",
            "force": True,
            "fail_on": "partial",
            "override": True,
            "confirm": True,
            "recipient": "example.com",
            "sender": "bob@example.org",
            "since": "2026-11-01T00:00:00+00:00",
            "expect_count": "7",
        }
    ],
}


def accepted(content: Any) -> RequestRow:
    wanted = parse(content, {"idempotency-key": ("k",)})
    return accept(wanted, wanted.account_id or ACCOUNT, NOON, RANDOM)


@pytest.mark.parametrize("stored", STORED_BY_4C3B95D)
def test_a_row_of_4c3b95d_is_repeated_by_its_own_payload_and_by_no_other(stored: str) -> None:
    row = replace(accepted([BARE]), fingerprint=stored)
    repeating = [name for name, same in STORED_BY_4C3B95D.items() for each in same if accepted(each).repeats(row)]
    assert repeating == [stored] * len(STORED_BY_4C3B95D[stored])


def test_the_new_fingerprint_holds_the_same_payloads_for_one_as_the_old() -> None:
    groups = [{accepted(each).fingerprint for each in same} for same in STORED_BY_4C3B95D.values()]
    assert [len(group) for group in groups] == [1] * len(groups)
    assert len(set[str]().union(*groups)) == len(groups)


def test_the_fingerprint_is_the_hash_of_what_was_given_and_so_outlives_new_members() -> None:
    given = f'{{"account_id": "{ACCOUNT}", "ids": ["{BARE}"], "ticket": "INC-1"}}'
    assert accepted({"ids": [BARE], "ticket": "INC-1"}).fingerprint == f"2:{sha256(given.encode()).hexdigest()}"
    # Stored rows depend on these: a change here means a new prefix, and both forms recognized.
    assert accepted([BARE]).fingerprint == "2:2569692f05a062fe026bf66c05c5a7ea97c043dedd82fbeb763047d4d47b5aeb"
    (everything,) = STORED_BY_4C3B95D["3162e0f4292025e87e731ccedc25f1764e710eeb5d166da431f20730d3093034"]
    assert accepted(everything).fingerprint == "2:54292a4c0563f609290edeffc6c5967acff9e783486b70b942662f81812286fa"


# Nothing that our own sentences say may be drawn, or an echo could not be told from them.
echo = st.text("ΩЖ漢ÿ", min_size=1, max_size=12).map(lambda text: f"§{text}§")
values = st.recursive(
    echo | st.none() | st.booleans() | st.integers() | st.sampled_from([BARE, FULL]) | message_ids,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(echo, inner, max_size=2),
    max_leaves=5,
)
members = st.sampled_from(
    ["ids", "id", "postfix_id", "postfix_ids", "account_id", "reason", "ticket", "requested_by", "force", "fail_on"]
)
bodies = (
    st.binary(max_size=40)
    | values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(members | echo, values, max_size=6).map(lambda content: json.dumps(content).encode())
    | st.dictionaries(members, values, max_size=4).map(lambda c: json.dumps({"ids": [BARE], **c}).encode())
)
headers_ = st.dictionaries(
    st.sampled_from(["idempotency-key", "webhook-id", "traceparent", "x-amzn-trace-id", "prefer"]),
    st.lists(echo | st.text(max_size=8) | st.sampled_from(["key-1", "respond-async"]), max_size=2).map(tuple),
)


@given(bodies, headers_)
def test_any_payload_is_a_request_or_invalid_without_an_echo(body: bytes, headers: Headers) -> None:
    try:
        came_to: ReleaseRequest | InvalidRequest = parse(body, headers)
    except InvalidRequest as refusal:
        came_to = refusal
    if isinstance(came_to, InvalidRequest):
        assert PROBLEMS[came_to.code].status == 400
        assert f"{came_to.detail}{came_to.field}{came_to}".isascii()
        assert BARE not in came_to.detail
        return
    assert 1 <= len(came_to.ids) <= IDS_LIMIT
    assert len(set(came_to.ids)) == len(came_to.ids)
    assert all(parse_message_id(MessageId(each)) == each for each in came_to.ids)
    assert "".join(came_to.warnings).isascii()
    assert parse_request_id(accept(came_to, ACCOUNT, NOON, RANDOM).request_id)
