"""Fixtures for the ways out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.pipeline.otlp_receiver import OtlpReceiver


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    """A backend with nothing scripted."""
    with OtlpReceiver() as receiver:
        yield receiver
