"""Rows as items and back, where the ledger's own tests do not go that way."""

from dataclasses import replace

import pytest

from quarantine_release.domain.guard import Candidate, Ended, Guarded
from quarantine_release.domain.ids import MessageId
from quarantine_release.domain.states import Code, Outcome
from quarantine_release.ledger import items as ledger_items
from tests.support.stand_ins import BARE, FULL, NOON, request_row


@pytest.mark.parametrize(("number", "shown"), [(1, 10), (100, 10), (200, 10), (500, 6), (1000, 2)])
def test_of_many_ids_that_may_mean_several_messages_fewer_of_these_are_kept(number: int, shown: int) -> None:
    ids = [MessageId(f"4Njp3P0STMz2c{each:04d}") for each in range(number)]
    candidates = (Candidate(FULL, NOON, "SPAM", is_quarantined=True),) * 10
    ended = Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, "10 messages ...", candidates)
    row = request_row(*ids, ended=dict.fromkeys(ids, ended))
    kept = ledger_items.request_row(ledger_items.request_item(row))
    assert kept == replace(row, ended=dict.fromkeys(ids, replace(ended, candidates=candidates[:shown])))


@pytest.mark.parametrize("length", [47, 128])
@pytest.mark.parametrize("shown", [2, 10])
def test_a_request_of_1000_message_ids_whose_postfix_ids_were_used_again_fits_into_a_row(
    length: int, shown: int
) -> None:
    """An id of Cloudflare has 47 characters in its examples, and 128 at most. A body may have 64 KB."""
    ids = [MessageId(f"<{number:055}@x.y>") for number in range(1000)]
    full = MessageId(FULL.ljust(length, "0"))
    said = f"This Postfix id was used for two messages: the ledger knows {full}, and Cloudflare now shows {full}."
    candidates = (Candidate(full, NOON, "MALICIOUS-BEC", is_quarantined=False),) * shown
    ended = Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, said, candidates)
    row = request_row(*ids, ended=dict.fromkeys(ids, ended), resolved=dict.fromkeys(ids, full), reason="r" * 500)
    item = ledger_items.request_item(row)
    assert sum(len(name) + sum(map(len, value.values())) for name, value in item.items()) < 390_000
    kept = ledger_items.request_row(item)
    assert kept.resolved == row.resolved
    end = kept.ended[ids[999]]
    assert (end.outcome, end.code) == (Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES)
    assert end.detail == said if length == 47 else end.detail.endswith(" ...")


def test_what_an_id_was_read_to_be_is_kept_with_its_end_and_a_row_of_before_that_is_read_too() -> None:
    ended = Ended(Outcome.WOULD_RELEASE, None, "It would ...", disposition="SPAM", guard=Guarded.PASSED)
    item = dict(ledger_items.request_item(request_row(BARE, ended={BARE: ended})))
    assert ledger_items.request_row(item).ended == {BARE: ended}
    item["end_0"] = {"S": '["denied","disposition_not_allowed","Rule dispositions: ...",[]]'}
    before = Ended(Outcome.DENIED, Code.DISPOSITION_NOT_ALLOWED, "Rule dispositions: ...")
    assert ledger_items.request_row(item).ended == {BARE: before}
