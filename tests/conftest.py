"""Fixtures that every test may ask for."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from services.runtime.nats.bus import Bus, connect
from services.runtime.privacy import redaction
from services.runtime.settings import NatsSettings
from tests.support.pipeline.nats_server import NatsServer

# A machine under load is slow now and then, which is no finding, nor is how long examples take to be drawn. Where a change
# is judged, every run draws the same ones.
hypothesis.settings.register_profile(
    "everywhere",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("everywhere")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """FUZZ_TIMES: property-based tests draw so many times as many examples as they do in every run (`make fuzz-inputs`)."""
    times = int(os.environ.get("FUZZ_TIMES", "1"))
    for test in {getattr(item, "obj", None) for item in items} if times > 1 else ():
        if hypothesis.is_hypothesis_test(test):
            own = test._hypothesis_internal_use_settings  # type: ignore[union-attr]
            test._hypothesis_internal_use_settings = hypothesis.settings(own, max_examples=own.max_examples * times)  # type: ignore[union-attr]


@pytest.fixture(autouse=True)
def _nothing_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test holds as a secret is a word like any other in the next."""
    monkeypatch.setattr(redaction, "_hidden", {})
    monkeypatch.setattr(redaction, "_pattern", None)


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that a test calls in this process configures all logs of it; the next test has those of before."""
    root, before = logging.getLogger(), structlog.get_config()
    level, handlers = root.level, root.handlers.copy()
    yield
    structlog.configure(**before)
    root.setLevel(level)
    for handler in root.handlers.copy():
        if type(handler) is logging.StreamHandler and handler not in handlers:
            root.removeHandler(handler)


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A real nats-server with JetStream and an empty store, for this test alone."""
    with NatsServer(tmp_path / "nats") as server:
        yield server


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """The test's own connection to that server, with the streams made."""
    async with connect(NatsSettings(url=nats_server.url), name="test") as connected:
        await connected.ensure_streams()
        yield connected
