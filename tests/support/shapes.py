"""Hypothesis strategies for what the project speaks of: ids of every shape, recipients, verdicts, rows."""

import string
from datetime import timedelta

from hypothesis import strategies as st

from quarantine_release.domain.ids import ANY_ID, AttemptId, MessageId, RequestId, postfix_part
from quarantine_release.domain.request_options import FailOn
from quarantine_release.domain.rows import MessageRow
from quarantine_release.domain.states import EXPIRING, Code, State
from quarantine_release.domain.verdicts import Evidence, Recipients, Verdict
from tests.support.stand_ins import ACCOUNT, NOON, TERMS, request_row

ALPHANUMERIC = string.ascii_letters + string.digits
postfix_ids = st.text(ALPHANUMERIC, min_size=10, max_size=24).map(MessageId)
timestamps = st.datetimes().map(lambda at: at.isoformat(timespec="seconds"))
digits = st.text(string.digits, min_size=1, max_size=12)
other_ids = st.text(ALPHANUMERIC + "._:-", min_size=8, max_size=128).filter(ANY_ID.match).map(MessageId)


@st.composite
def ids_of_one_message(draw: st.DrawFn) -> tuple[MessageId, MessageId, MessageId]:
    """Draw postfix id, alert id and investigate id of one message."""
    postfix_id, at, number = draw(postfix_ids), draw(timestamps), draw(digits)
    return postfix_id, MessageId(f"{postfix_id}-{at}"), MessageId(f"{postfix_id}-{at}-{number}")


message_ids = st.one_of(postfix_ids, ids_of_one_message().map(lambda ids: ids[2]), other_ids)
# Few ids, so that the same message is met again under several shapes.
family = st.sampled_from(
    [
        MessageId(text)
        for text in (
            "4Njp3P0STMz2c02Q",
            "4Njp3P0STMz2c02Q-2024-01-05T10:00:00",
            "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-12345678",
            "4Njp3P0STMz2c02Q-2024-01-05T10:00:00-87654321",
            "4WtWkr6nlBz9sNH",
            "4WtWkr6nlBz9sNH-2024-01-05T10:00:00-1",
            "another.shape-1",
        )
    ]
)
request_ids = st.sampled_from(["rq_one", "rq_two", "rq_three"]).map(RequestId)
moments = st.integers(0, 10**6).map(lambda seconds: NOON + timedelta(seconds=seconds))
names = st.lists(st.text(min_size=1, max_size=4) | st.just("a" * 321), max_size=25)
recipients = st.sampled_from(
    [
        Recipients.of(),
        Recipients.of(["a@example.com"]),
        Recipients.of(["a@example.com"], ["b@example.com"], ["c@example.com"]),
        Recipients.of([f"{number}@example.com" for number in range(500)]),
    ]
)
evidence = st.sampled_from([Evidence(200, (), "ray-1"), Evidence(500, (1000, 7003)), Evidence(failure="deadline")])
# What a call can prove of one message (release_reply.py).
verdicts = st.builds(
    lambda proof, recipients, message_id: Verdict(proof[0], proof[1], recipients, message_id),
    st.sampled_from(
        [
            (State.RELEASED, None),
            (State.PARTIAL, Code.PARTLY_DELIVERED),
            (State.FAILED, Code.NOT_DELIVERED),
            (State.FAILED, Code.CLOUDFLARE_REJECTED),
            (State.UNKNOWN, Code.NO_ANSWER),
            (State.UNKNOWN, Code.MISSING_IN_ANSWER),
            (State.UNKNOWN, Code.UNCLEAR_ANSWER),
            (State.UNKNOWN, Code.NO_RECIPIENTS),
            (State.UNKNOWN, Code.CALL_REJECTED),
        ]
    ),
    recipients,
    st.none() | family,
)


@st.composite
def message_rows(draw: st.DrawFn, message_id: st.SearchStrategy[MessageId] = family) -> MessageRow:
    """Draw a message as the ledger may hold it."""
    known, at = draw(message_id), draw(moments)
    state, code = draw(
        st.sampled_from(
            [
                (State.RELEASING, None),
                (State.RETRYABLE, None),
                (State.RELEASED, None),
                (State.PARTIAL, Code.PARTLY_DELIVERED),
                (State.FAILED, Code.NOT_DELIVERED),
                (State.FAILED, Code.CLOUDFLARE_REJECTED),
                (State.UNKNOWN, Code.NO_ANSWER),
                (State.UNKNOWN, Code.MISSING_IN_ANSWER),
                (State.UNKNOWN, Code.CALL_REJECTED),
                (State.NEEDS_REVIEW, Code.UNSETTLED),
            ]
        )
    )
    attempts = draw(st.frozensets(st.sampled_from(["a1", "a2", "a3"]).map(AttemptId), min_size=1))
    return MessageRow(
        account_id=ACCOUNT,
        part=postfix_part(known),
        state=state,
        attempt=max(attempts),
        message_id=known,
        updated_at=at,
        owner=None if state is State.RETRYABLE else draw(request_ids),
        deadline=at + TERMS.lease if state in (State.RELEASING, State.UNKNOWN) else None,
        expires_at=TERMS.expiry(at) if state in EXPIRING else None,
        code=code,
        recipients=draw(recipients),
        evidence=draw(st.none() | evidence),
        attempts=attempts,
        asks=draw(st.frozensets(request_ids, min_size=1)),
        largest_call=draw(st.none() | st.integers(1, 49)),
        owner_client=draw(st.none() | st.sampled_from(["soar", "other"])),
    )


tables = st.lists(message_rows(), max_size=4).map(lambda rows: {row.part: row for row in rows})
requests = st.builds(
    lambda ids, name, **members: request_row(*ids, name=name, **members),
    st.lists(family, min_size=1, max_size=5, unique=True),
    st.sampled_from(["one", "two"]),
    fail_on=st.sampled_from(FailOn),
    client=st.sampled_from(["soar", "other"]),
    force=st.booleans(),
)
