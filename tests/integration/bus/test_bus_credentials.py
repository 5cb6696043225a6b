"""Credentials in files that are renewed, against a server that looks at when they expire."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from services.runtime.nats.bus import connect
from services.runtime.settings import NatsSettings
from tests.support.pipeline.nats_accounts import Account
from tests.support.pipeline.nats_server import NatsServer

FEW_SECONDS = 5
NONSENSE = "nonsense-of-a-creds-file"


@pytest.fixture
def account() -> Account:
    """Whose users are let in."""
    return Account()


@pytest.fixture
def server(tmp_path: Path, account: Account) -> Iterator[NatsServer]:
    """A server that knows the account."""
    with NatsServer(tmp_path / "nats", config=account.server_config(tmp_path / "store")) as running:
        yield running


def put(file: Path, content: str) -> None:
    """Replace a file as a whole."""
    scratch = file.with_name("scratch")
    scratch.write_text(content)
    scratch.replace(file)


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds."""
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.02)


async def test_credentials_that_expire_are_renewed_in_their_file(tmp_path: Path, server: NatsServer, account: Account) -> None:
    """The server ends the connection when they expire; the next one is made with what the file holds by then."""
    creds = tmp_path / "user.creds"
    put(creds, account.credentials(seconds=FEW_SECONDS))
    with capture_logs() as logs:
        async with connect(NatsSettings(url=server.url, creds_file=creds, reconnect_seconds=0.05), name="test") as bus:
            await bus.ensure_streams()
            put(creds, account.credentials())
            await until(lambda: [line["event"] for line in logs].count("bus.connected") == 2)
            await bus.ensure_streams()
    assert any("expired" in str(line.get("error", "")).lower() for line in logs)


@pytest.mark.parametrize("content", ["", f"{NONSENSE}\n", f"-----BEGIN NATS USER JWT-----\n{NONSENSE}\n------END"])
async def test_credentials_may_come_later(tmp_path: Path, server: NatsServer, account: Account, content: str) -> None:
    """A file that is not there, or holds none, is read again with the next attempt, and what it held is not said."""
    creds = tmp_path / "user.creds"
    with capture_logs() as logs:
        async with connect(NatsSettings(url=server.url, creds_file=creds, reconnect_seconds=0.05), name="test") as bus:
            await until(lambda: "user.creds" in bus.trouble)
            put(creds, content)
            await until(lambda: "user.creds" not in bus.trouble)
            put(creds, account.credentials())
            await bus.wait_connected()
            await bus.ensure_streams()
    assert NONSENSE not in str(logs)
