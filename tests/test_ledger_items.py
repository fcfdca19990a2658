"""Rows as items and back, where the ledger's own tests do not go that way."""

from dataclasses import replace

import pytest

from quarantine_release import ledger_items
from quarantine_release.guard import Candidate, Ended
from quarantine_release.outcome import Code, MessageId, Outcome
from tests.stand_ins import FULL, NOON, request_row


@pytest.mark.parametrize(("number", "shown"), [(1, 10), (100, 10), (200, 5), (1000, 1)])
def test_of_many_ids_that_may_mean_several_messages_fewer_of_these_are_kept(number: int, shown: int) -> None:
    ids = [MessageId(f"4Njp3P0STMz2c{each:04d}") for each in range(number)]
    candidates = (Candidate(FULL, NOON, "SPAM", is_quarantined=True),) * 10
    ended = Ended(Outcome.AMBIGUOUS, Code.SEVERAL_MATCHES, "10 messages ...", candidates)
    row = request_row(*ids, ended=dict.fromkeys(ids, ended))
    kept = ledger_items.request_row(ledger_items.request_item(row))
    assert kept == replace(row, ended=dict.fromkeys(ids, replace(ended, candidates=candidates[:shown])))
