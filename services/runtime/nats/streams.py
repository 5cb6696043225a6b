"""The streams that this process makes, or counts on: they are made again, or changed back, wherever they turn out otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable, Mapping
from typing import Any, Final

import structlog

from proto import subjects
from services.runtime.errors import ApiError, PermissionDeniedError, StreamConfigError
from services.runtime.nats.connection import Connection
from services.runtime.nats.jetstream import JetStream, recent_config, stream_configs
from services.runtime.nats.standing import Standing
from services.runtime.settings import StreamSettings

logger = structlog.get_logger()

_CHECK_SECONDS: Final = 60.0
"""How often the streams are looked at, about."""


class KeptStreams:
    """Made by `Bus`, whose methods say what is promised; `run` looks after them."""

    def __init__(self, connection: Connection, jetstream: JetStream) -> None:
        self._connection = connection
        self._jetstream = jetstream
        self._standing = Standing(jetstream)
        self._settings: StreamSettings | None = None
        self._cache = False
        self._are_made = False
        """Whether this user may make streams, and this process has."""
        self._restoring = asyncio.Lock()
        self._said: set[tuple[str, ...]] = set()

    async def ensure(self, settings: StreamSettings | None, *, cache: bool) -> None:
        """Make them, or change them to what the settings say."""
        settings = settings or StreamSettings()
        try:
            await self._ensure(stream_configs(settings, cache=cache))
        except PermissionDeniedError as error:
            logger.info("streams.not_permitted", error=str(error))
            return
        await self._ensure_recent(settings)
        # Last: from here on they are looked at from time to time, and what is made then is said to be made again.
        self._settings, self._cache, self._are_made = settings, cache, True

    def expect(self, settings: StreamSettings | None) -> None:
        """Count on somebody else to make them."""
        self._settings = settings or StreamSettings()

    async def restore(self) -> None:
        """Make again, or change back, what this process had made and finds otherwise."""
        if self._settings is None:
            return
        under_way = self._restoring.locked()
        async with self._restoring:
            if under_way:  # somebody else has just done so
                return
            try:
                await self.ensure(self._settings, cache=self._cache)
            except ApiError as error:
                self._say("streams.not_restored", error=str(error))

    async def run(self) -> None:
        """Look at streams and consumers with every new connection, and now and then: what a server has is lost, people change
        things.
        """
        generation = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_SECONDS * random.uniform(0.5, 1.5)):  # noqa: S311 - only spreads clients out
                    generation = await self._connection.opened(after=generation)
            if self._are_made and self._settings is not None:
                await self.restore()
                await self._standing.put_right(self._settings.kept_partitions)

    async def _ensure_recent(self, settings: StreamSettings) -> None:
        recent = recent_config(settings)
        try:
            if recent is not None:
                await self._ensure([recent])
            elif await self._jetstream.exists(subjects.RECENT_STREAM):
                self._say("stream.left_over", stream=subjects.RECENT_STREAM, hint="no settings ask for it: delete it")
        except (PermissionDeniedError, StreamConfigError) as error:
            self._say("streams.nothing_to_look_back_at", error=str(error))

    async def _ensure(self, configs: Iterable[Mapping[str, Any]]) -> None:
        for config in configs:
            done = await self._jetstream.ensure_stream(config)
            if done:
                logger.info(
                    "stream.restored" if self._restoring.locked() else "stream.ensured", stream=config["name"], done=done
                )

    def _say(self, event: str, **words: str) -> None:
        """Warn, once of each."""
        said = (event, *words.values())
        if said not in self._said:
            self._said.add(said)
            logger.warning(event, **words)
