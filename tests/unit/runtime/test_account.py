"""The account of a service: what came in, what became of it, and that nothing is missing without being seen."""

from __future__ import annotations

import pytest

from services.runtime.account import Account
from services.runtime.telemetry import Telemetry


def test_what_is_in_hand_is_held_and_then_told() -> None:
    """At every moment what was taken is what became of some, and what is held."""
    account = Account("stored", "dead")
    with account.over(5) as records:
        assert (account.held, account.difference) == (5, 0)
        records.tell("dead", 2)
        assert (account.held, account.difference) == (3, 0)
        records.tell("stored")
    assert account.told == {"taken": 5, "stored": 3, "dead": 2, "given_back": 0}
    assert (account.held, account.difference) == (0, 0)


def test_an_error_gives_back_what_was_not_told() -> None:
    """A batch that is not brought to its end comes again: it is not missing."""
    account = Account("stored")
    with pytest.raises(ZeroDivisionError), account.over(5) as records:
        records.tell("stored", 5 // (records.left - 5))
    assert account.told == {"taken": 5, "stored": 0, "given_back": 5}
    assert account.difference == 0


def test_what_nobody_tells_of_is_a_difference() -> None:
    """A way through the service that forgets records is seen in its metrics, for good."""
    with Telemetry("test") as telemetry:
        account = Account("stored")
        account.show(telemetry, "enricher", "record")
        with account.over(5) as records:
            records.tell("stored", 3)
        said = telemetry.prometheus().decode()
    assert account.difference == 2
    assert "wirespan_enricher_ledger_records_difference 2.0" in said
    assert 'wirespan_enricher_ledger_records_total{entry="taken"} 5.0' in said
    assert "wirespan_enricher_ledger_records_held 0.0" in said
