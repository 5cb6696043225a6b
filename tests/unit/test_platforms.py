"""What was run where: from a run's fragment to the document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support import platforms


@pytest.fixture(autouse=True)
def _own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's runs, and nothing for the repository."""
    monkeypatch.setenv("WIRESPAN_PLATFORMS", str(tmp_path / "fragments"))
    monkeypatch.setattr(platforms, "COMMITTED", tmp_path / "platforms.json")


def run(name: str, result: str = platforms.PASSED, version: str = "v1.34.1") -> None:
    """Leave a fragment."""
    platforms.record("cluster", name, version=version, kernel="6.18", arch="x86_64", checks=["It runs."], result=result)


def test_what_passed_is_told() -> None:
    """Runs that passed are in the document with what they held; a later one takes an earlier one's place."""
    run("one node", version="v1.33.0")
    platforms.gather()
    run("one node")
    run("two nodes")
    platforms.gather()
    assert [(each["name"], each["version"]) for each in platforms.committed()] == [
        ("one node", "v1.34.1"),
        ("two nodes", "v1.34.1"),
    ]
    text = platforms.markdown()
    assert "| one node | v1.34.1 | 6.18 | x86_64 | 1 |" in text
    assert "Held on one node, two nodes:\n\n- It runs." in text


def test_what_failed_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    """A run that failed is left out, with a word; what passed before stays."""
    run("one node", version="v1.33.0")
    platforms.gather()
    run("one node", result="failed: it does not run")
    platforms.gather()
    assert [each["version"] for each in platforms.committed()] == ["v1.33.0"]
    assert "it does not run" in capsys.readouterr().out
    assert json.loads((platforms.fragments() / "cluster-one-node.json").read_text())["result"].startswith("failed")
