"""Connections of pods, and a client of a page that shows them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from proto.flow_batch import Entity, FlowBatch
from services.cli.view.access import Access
from services.cli.view.kept import Kept
from services.cli.view.listening import listener
from services.cli.view.server import Page, serving
from tests.unit.cli.flow_records import record_batch


def pod(namespace: str, name: str) -> Entity:
    """A pod of a deployment."""
    return Entity("k8s.pod", {"k8s.namespace.name": namespace, "k8s.deployment.name": name, "k8s.pod.name": f"{name}-1"})


def between(source: str, destination: str, **changes: Any) -> FlowBatch:
    """A connection of two pods, `namespace/name` each."""
    ends = [pod(*source.split("/")), pod(*destination.split("/"))]
    return record_batch(entities=ends, **{"local_entity": 0, "remote_entity": 1, **changes})


@contextlib.asynccontextmanager
async def asking(kept: Kept, folder: Path, **access: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a page over what is kept."""
    async with (
        serving(Page(kept, "a test"), Access(**access), listener("127.0.0.1", 0), folder) as url,
        aiohttp.ClientSession(url) as session,
    ):
        yield session


async def answer(session: aiohttp.ClientSession, path: str) -> Any:
    """What the API says."""
    async with session.get(f"/api/{path}") as response:
        assert response.status == 200, await response.text()
        return await response.json()
