"""The shop's command line, as far as nothing has to run: its faults, its databases, its control groups."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli.__main__ import wirespan
from services.cli.errors import CliError, UsageError
from services.cli.shop.control_groups import inside
from services.cli.shop.places import FAULTS, SOURCES, Databases


def test_each_fault_is_made_somewhere_and_told_of() -> None:
    """What can be asked for is what the shop's services ask for, and what its document says."""
    made = {name for source in SOURCES.glob("*.py") for name in re.findall(r'is_made\("(.*?)"\)', source.read_text())}
    assert made == set(FAULTS)
    told = re.findall(r"^\| `(.*?)` \|", (SOURCES / "README.md").read_text(), re.MULTILINE)
    assert set(told) == set(FAULTS)


def test_the_shops_services_know_nothing_of_wirespan() -> None:
    """They import neither it nor OpenTelemetry: `opentelemetry-instrument` does that."""
    for source in SOURCES.glob("*.py"):
        assert not re.search(r"wirespan|^(?:import|from) (?:services|proto|opentelemetry)", source.read_text(), re.MULTILINE)


def test_what_is_missing_is_said_and_a_fault_that_needs_it_refused() -> None:
    """Without Postgres the shop runs, but for the faults that are Postgres'."""
    nothing = Databases(None, None)
    assert len(nothing.missing()) == 2
    nothing.check("slow-reader")
    with pytest.raises(CliError, match="apt install postgresql"):
        nothing.check("slow-database")


def test_a_part_of_the_shop_enters_its_control_group_before_it_becomes_itself() -> None:
    """Where there is a group; else the command is as it was."""
    assert inside(None, ("/bin/true",)) == ("/bin/true",)
    command = inside(Path("/sys/fs/cgroup/a b"), ("/bin/true", "x"))
    assert command[:2] == ("/bin/sh", "-c")
    assert command[3:] == ("/sys/fs/cgroup/a b/cgroup.procs", "/bin/true", "x")


def test_a_fault_is_of_the_shop() -> None:
    """Nothing else has one."""
    result = CliRunner().invoke(wirespan, ["up", "--fault", "slow-reader"])
    assert isinstance(result.exception, UsageError)
    assert "--demo shop" in str(result.exception)
