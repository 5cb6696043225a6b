"""What `wirespan view` refuses before it looks at anything."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from services.cli.errors import UsageError
from services.cli.view.command import view


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--port", "4281"], "--port"),
        (["--listen", "127.0.0.1"], "--listen"),
        (["--host", "flows.example.com", "--port", "0"], "--port, --host"),
        (["--token-file", __file__], "--token-file"),
        (["--trusted-header", "X-Forwarded-User"], "--trusted-header"),
    ],
)
def test_a_terminal_takes_nothing_that_is_of_the_page(given: list[str], said: str) -> None:
    """Not without a word: somebody would look for the page there."""
    refused = CliRunner().invoke(view, ["--terminal", *given])
    assert isinstance(refused.exception, UsageError)
    assert str(refused.exception) == f"--terminal shows no page: leave out {said}"
