"""`wirespan snapshot` without a cluster; tests/e2e/kubernetes/test_kubernetes.py has one."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from services.cli.errors import UsageError
from services.cli.snapshot import snapshot


def run(*arguments: str) -> BaseException | None:
    """What the command ends with."""
    return CliRunner().invoke(snapshot, arguments).exception


def test_a_key_needs_pseudonyms() -> None:
    """A key or a map that would have no effect is refused."""
    assert isinstance(run("--pseudonym-key", "k"), UsageError)
    assert isinstance(run("--pseudonym-map", "m"), UsageError)


def test_a_kubeconfig_that_is_not_there_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One line names the file, and nothing is written."""
    output = tmp_path / "out.json"
    assert isinstance(run("--kubeconfig", str(tmp_path / "gone"), "--output", str(output)), UsageError)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "gone" in lines[0]
    assert not output.exists()
