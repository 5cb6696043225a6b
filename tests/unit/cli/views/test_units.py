"""Numbers as people read them."""

from __future__ import annotations

import pytest

from services.cli.views import units


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0 ns"),
        (850, "850 ns"),
        (1_000, "1.0 µs"),
        (12_345, "12 µs"),
        (999_600, "1.0 ms"),
        (1_234_567, "1.2 ms"),
        (9_960_000, "10 ms"),
        (345_000_000, "345 ms"),
        (1_500_000_000, "1.5 s"),
        (59_400_000_000, "59 s"),
        (59_600_000_000, "1 min"),
        (125_000_000_000, "2 min 5 s"),
        (11_520_000_000_000, "3 h 12 min"),
    ],
)
def test_durations_are_in_the_unit_that_fits(nanoseconds, text) -> None:
    """Two or three digits and a unit, and no unit is used beyond its range, not even by rounding."""
    assert units.duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (10_200, "10 KiB"),
        (1_048_300, "1.0 MiB"),
        (3_565_158, "3.4 MiB"),
        (1 << 62, "4.0 EiB"),
        (1 << 74, "16384 EiB"),
    ],
)
def test_bytes_are_in_binary_units(number, text) -> None:
    """Bytes below 1 KiB are exact, all others rounded to what can be told apart by eye."""
    assert units.byte_count(number) == text


def test_counts_have_their_thousands_apart_and_their_noun_in_number() -> None:
    """One record, two records, 12,345 batches."""
    assert units.counted(1, "record") == "1 record"
    assert units.counted(2, "record") == "2 records"
    assert units.counted(12_345, "batch", "batches") == "12,345 batches"


def test_durations_are_read_as_people_write_them() -> None:
    """One unit or several, each with its number."""
    assert units.nanoseconds("250us") == units.nanoseconds("250µs") == 250_000
    assert units.nanoseconds("1.5s") == 1_500_000_000
    assert units.nanoseconds("1h30m") == 5_400_000_000_000
    for text in ("", "10", "s", "1 s", "-1s", "1s!"):
        with pytest.raises(ValueError, match="is no duration"):
            units.nanoseconds(text)
