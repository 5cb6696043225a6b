"""Fixtures for tests with real neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.pipeline.otlp_receiver import OtlpReceiver


@pytest.fixture
def otlp_receiver() -> Iterator[OtlpReceiver]:
    """An OTLP backend on free ports, gRPC and HTTP, for this test alone."""
    with OtlpReceiver() as receiver:
        yield receiver
