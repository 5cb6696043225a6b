"""`make bench`: what it runs is there, what fails says so, and its section of the document is replaced by the next run's."""

from __future__ import annotations

import importlib.util

from tests.bench.__main__ import BENCHES, Bench, run, written
from tests.bench.load import document


def test_every_benchmark_of_a_run_is_there() -> None:
    """One that was moved or renamed is found here and not in a run of a quarter of an hour."""
    assert all(importlib.util.find_spec(f"tests.bench.{bench.name}") for bench in BENCHES)


def test_a_benchmark_that_fails_says_why_and_the_run_goes_on() -> None:
    """The last line of its errors stands where its figures would."""
    said = run(Bench("bench_that_is_none"), (), 60)
    assert said.startswith("(failed: ")
    assert "bench_that_is_none" in said


def test_a_run_replaces_the_section_of_the_one_before() -> None:
    """And leaves the rest of the document as it is."""
    once = written("# Performance\n\ntext\n", "first\n")
    assert once.startswith("# Performance\n\ntext\n\n<!-- made by `make bench` -->\nfirst\n")
    again = written(once + "\nafter\n", "second \\1\n")
    assert "first" not in again
    assert again == once.replace("first", "second \\1") + "\nafter\n"


def test_a_run_of_some_curves_leaves_those_of_the_others() -> None:
    """Only what was measured is replaced; a run of all replaces everything, and what is around stays."""
    order = ("Load", "Soak", "Pods")
    page = "# Performance\n\ntext\n\n<!-- made by `make bench` -->\nbenches\n"
    whole = document.written(page, "## Curves\n\n- one", {"Load": "1 \\1", "Soak": "2", "Pods": "3\n\n| a |"}, order)
    assert whole.replace("\n\n<!-- made by `make curves` -->", "").startswith("# Performance\n\ntext\n## Curves")
    assert whole.endswith("<!-- curves until here -->\n\n<!-- made by `make bench` -->\nbenches\n")
    some = document.written(whole, "## Curves\n\n- two", {"Soak": "4"}, order)
    assert some == whole.replace("### Soak\n\n2", "### Soak\n\n4")
    again = document.written(some, "## Curves\n\n- two", dict.fromkeys(order, "5"), order)
    assert [line for line in again.splitlines() if line in {"5", "- one", "- two"}] == ["- two", "5", "5", "5"]
