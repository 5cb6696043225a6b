"""JetStream's administrative interface, as far as Wirespan uses it: streams and durable consumers."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from proto import subjects
from services.runtime.errors import ApiError, ConsumerConfigError, DisconnectedError, RequestTimeoutError, StreamConfigError
from services.runtime.nats.connection import NO_RESPONDERS, Connection, Message
from services.runtime.settings import StreamSettings

logger = structlog.get_logger()

STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
CONSUMER_NOT_CREATED: Final = 10012
_NOT_OURS: Final[Mapping[str, Any]] = dict.fromkeys(
    ("filter_subject", "filter_subjects", "headers_only", "backoff", "inactive_threshold", "rate_limit_bps", "max_bytes")
)
"""Of a consumer: what somebody else set keeps messages, or their content, from us."""
_KEPT: Mapping[str, Any] = {"mem_storage": True}
"""Where consumers are kept: one that is lost is made again, and is given all that its stream holds. Kept in a file it could
outlive what a power cut takes from the stream, and the server deletes what is stored in its place: that was acknowledged.
"""
_STREAM_IN_USE: Final = 10058
_NO_MESSAGE: Final = frozenset({10037, 10043, 10057})
"""Message not found, sequence not found, and the failed deletion of what is not there."""
_PASSING: Final = frozenset({10004, 10007, 10008, 10009, 10041, 10118, 10167})
_TIMEOUT_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 0.25
_BATCH_BYTES: Final = subjects.MAX_BATCH_BYTES + 4096
"""What a batch has at the most, with its headers."""
_PER_SUBJECT: Final = ("max_msgs_per_subject", "discard_new_per_subject")
_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream holds."""

    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    consumers: int
    max_bytes: int
    """More is refused, or the oldest go; below 1 for no bound."""


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """Where a durable consumer stands."""

    pending: int
    """Messages not delivered yet."""
    ack_pending: int
    """Messages delivered and not acknowledged."""
    redelivered: int
    """Messages among `ack_pending` that were delivered more than once."""
    asking: int
    """Requests for messages that wait: 0 where nobody consumes, or all who do have their hands full."""
    acknowledged: datetime | None
    """When a message was last acknowledged, by the server's clock."""
    acknowledged_sequence: int
    """All messages of the stream up to this one have been acknowledged."""


def stream_configs(settings: StreamSettings, *, cache: bool = False) -> list[dict[str, Any]]:
    """The streams as JetStream wants them described; with `cache` that of the shared Kubernetes cache too."""
    shared: dict[str, Any] = {
        "storage": settings.storage,
        "num_replicas": settings.replicas,
        "duplicate_window": settings.duplicate_window_seconds * _NS,
        "allow_direct": True,
        "max_msgs": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "max_msgs_per_subject": -1,
        "discard_new_per_subject": False,
        "no_ack": False,
    }
    share = max(1, int(settings.raw_bytes * settings.raw_node_share / subjects.MAX_BATCH_BYTES))
    per_node = {"max_msgs_per_subject": share, "discard_new_per_subject": True, "max_msg_size": _BATCH_BYTES}
    queue = shared | {"retention": "workqueue", "discard": "new", "max_age": 0}
    streams: list[dict[str, Any]] = []
    for partition in range(settings.kept_partitions):
        raw, enriched = (
            subjects.partition_subject(each, partition) for each in (subjects.RAW_SUBJECTS, subjects.ENRICHED_SUBJECTS)
        )
        streams += (
            queue
            | {
                "name": subjects.partition_stream(subjects.RAW_STREAM, partition),
                "subjects": [raw],
                "max_bytes": settings.raw_bytes,
                "republish": {"src": raw, "dest": subjects.RAW_SEEN_SUBJECTS},
            }
            | (per_node if settings.raw_node_share < 1 else {}),
            queue
            | {
                "name": subjects.partition_stream(subjects.ENRICHED_STREAM, partition),
                "subjects": [enriched],
                "max_bytes": settings.enriched_bytes,
                "republish": {"src": enriched, "dest": subjects.RECENT_SUBJECTS} if settings.recent_bytes else None,
            },
        )
    streams.append(
        shared
        | {
            "name": subjects.DEAD_STREAM,
            "subjects": [subjects.DEAD_SUBJECTS],
            "retention": "limits",
            "discard": "old",
            "max_bytes": settings.dead_bytes,
            "max_age": settings.dead_max_age_seconds * _NS,
            "duplicate_window": min(settings.duplicate_window_seconds, settings.dead_max_age_seconds) * _NS,
        }
    )
    if cache:
        kept: dict[str, Any] = {"retention": "limits", "discard": "new", "max_age": 0, "allow_rollup_hdrs": True}
        kept |= {"republish": {"src": subjects.CACHE_SUBJECTS, "dest": subjects.CACHE_BELL_SUBJECTS, "headers_only": True}}
        names = {"name": subjects.CACHE_STREAM, "subjects": [subjects.CACHE_SUBJECTS], "max_bytes": settings.cache_bytes}
        streams.append(shared | kept | names)
    return streams


def recent_config(settings: StreamSettings) -> dict[str, Any] | None:
    """The stream of copies to look back at; None where none are kept. One server's memory is enough for it."""
    if not settings.recent_bytes:
        return None
    return {
        "name": subjects.RECENT_STREAM,
        "subjects": [subjects.RECENT_SUBJECTS],
        "retention": "limits",
        "discard": "old",
        "storage": "memory",
        "num_replicas": 1,
        "max_bytes": settings.recent_bytes,
        "allow_direct": True,
    }


def server_time(text: str) -> datetime:
    """Return a time as a server writes it: RFC 3339 to the nanosecond, of which Python reads six digits; UTC."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6].ljust(6, '0')}+00:00")


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Names of the fields that are not as they should be. A server leaves out what is 0, false or empty."""
    return sorted(name for name, value in wanted.items() if (found.get(name) or None) != (value or None))


def _would_delete(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a server that is told so may delete what is stored: where a subject is to hold less than it does, it makes it
    so, whatever it would do with what is new. Half is left for what is published meanwhile.
    """
    most, before = (config.get("max_msgs_per_subject") or -1 for config in (wanted, found["config"]))
    return most > 0 and not 0 < before <= most and found["state"]["messages"] > most // 2


class JetStream:
    """Administrative requests over one connection. Every method waits for the server and asks again until it answers."""

    def __init__(self, connection: Connection, *, domain: str) -> None:
        self._connection = connection
        self.prefix = f"$JS.{domain}.API" if domain else "$JS.API"
        self._unavailable = False

    async def ensure_stream(self, config: Mapping[str, Any]) -> str:
        """Make the stream, or change it to what `config` says; return what was done, empty for nothing.

        Our fields alone: the operator's (placement, mirrors, descriptions) stay as they are. Raises StreamConfigError where the
        stream cannot be that.
        """
        name = config["name"]
        try:
            found = await self._found(f"STREAM.INFO.{name}", STREAM_NOT_FOUND)
            if found is None:
                await self._ask(f"STREAM.CREATE.{name}", config)
                return "made"
        except ApiError as error:
            if error.code != _STREAM_IN_USE:
                raise StreamConfigError(name, error.code, error.description) from error
            found = await self._ask(f"STREAM.INFO.{name}")
        if _would_delete(found, config):
            logger.warning(
                "stream.too_full_for_shares", stream=name, hint="nodes have shares of it after an enricher's next start"
            )
            config = {**config, **{field: found["config"].get(field) for field in _PER_SUBJECT}}
        changed = _differences(found["config"], config)
        if not changed:
            return ""
        try:
            await self._ask(f"STREAM.UPDATE.{name}", {**found["config"], **config})
        except ApiError as error:
            raise StreamConfigError(name, error.code, error.description) from error
        return f"changed: {', '.join(changed)}"

    async def exists(self, stream: str) -> bool:
        """Whether there is a stream of that name."""
        return await self._found(f"STREAM.INFO.{stream}", STREAM_NOT_FOUND) is not None

    async def ensure_consumer(self, stream: str, durable: str, *, max_ack_pending: int, ack_wait_seconds: float) -> str:
        """Make the durable pull consumer, or change it to these values; return what was done, empty for nothing.

        Raises ConsumerConfigError where there is another that cannot be changed, ApiError (STREAM_NOT_FOUND among others).
        """
        config: dict[str, Any] = {
            "name": durable,
            "durable_name": durable,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait_seconds * _NS),
            "max_ack_pending": max_ack_pending,
            "max_deliver": -1,
            "replay_policy": "instant",
        }
        operation = f"{stream}.{durable}"
        found = await self._found(f"CONSUMER.INFO.{operation}", CONSUMER_NOT_FOUND)
        changed = [] if found is None else _differences(found["config"], {**config, **_NOT_OURS})
        if found is not None and not changed:
            return ""
        config |= _KEPT if found is None else {name: found["config"].get(name) for name in _KEPT}  # which cannot be changed
        try:
            await self._ask(f"CONSUMER.CREATE.{operation}", {"stream_name": stream, "config": config})
        except ApiError as error:
            if found is None:
                raise
            raise ConsumerConfigError(stream, durable, error.code, f"{error.description}; {', '.join(changed)}") from error
        return f"changed: {', '.join(changed)}" if found is not None else "made"

    async def stream_state(self, stream: str) -> StreamState:
        """Return what the stream holds. Raises ApiError where there is none."""
        info = await self._ask(f"STREAM.INFO.{stream}")
        state = info["state"]
        return StreamState(
            messages=state["messages"],
            bytes=state["bytes"],
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
            consumers=state["consumer_count"],
            max_bytes=info["config"].get("max_bytes", -1),
        )

    async def consumer_state(self, stream: str, durable: str) -> ConsumerState:
        """Return where the consumer stands. Raises ApiError where there is none."""
        info = await self._ask(f"CONSUMER.INFO.{stream}.{durable}")
        return ConsumerState(
            pending=info["num_pending"],
            ack_pending=info["num_ack_pending"],
            redelivered=info["num_redelivered"],
            asking=info["num_waiting"],
            acknowledged=server_time(last) if (last := info["ack_floor"].get("last_active")) else None,
            acknowledged_sequence=info["ack_floor"]["stream_seq"],
        )

    async def delete_consumer(self, stream: str, durable: str) -> None:
        """Delete the consumer, not what it consumes. Raises ApiError where there is none."""
        await self._ask(f"CONSUMER.DELETE.{stream}.{durable}")

    async def stream_subjects(self, stream: str, subject_pattern: str) -> dict[str, int]:
        """Return how many messages the stream holds under each subject of the pattern. Raises ApiError where there is none."""
        info = await self._ask(f"STREAM.INFO.{stream}", {"subjects_filter": subject_pattern})
        found: dict[str, int] = info["state"].get("subjects") or {}
        return found

    async def delete_message(self, stream: str, sequence: int) -> bool:
        """Take one message out of a stream; return whether it was there."""
        try:
            await self._ask(f"STREAM.MSG.DELETE.{stream}", {"seq": sequence, "no_erase": True})
        except ApiError as error:
            if error.code not in _NO_MESSAGE:
                raise
            return False
        return True

    async def next_message(self, stream: str, sequence: int, subject_pattern: str = ">") -> Message | None:
        """Return the stream's first message at or after `sequence` under such a subject, without consuming it; None where
        there is none.
        """
        return await self._message(stream, {"seq": sequence, "next_by_subj": subject_pattern})

    async def leaders_message(self, stream: str, sequence: int) -> tuple[int, str, bytes] | None:
        """Return sequence, subject and data of the stream's first message at or after `sequence`, as its leader has it; None
        where there is none.

        `next_message` may be answered by any replica. After a power cut of several machines one of them can have kept what the
        leader lost, and it keeps that: nats-server takes what the leader stores in its place for what it has already.
        """
        try:
            answer = await self._ask(f"STREAM.MSG.GET.{stream}", {"seq": sequence, "next_by_subj": ">"})
        except ApiError as error:
            if error.code not in _NO_MESSAGE:
                raise
            return None
        message = answer["message"]
        return message["seq"], message["subject"], base64.b64decode(message.get("data", ""))

    async def last_message(self, stream: str, subject: str) -> Message | None:
        """Return the stream's last message under that subject, without consuming it; None where there is none."""
        return await self._message(stream, {"last_by_subj": subject})

    async def _message(self, stream: str, which: Mapping[str, Any]) -> Message | None:
        body = msgspec.json.encode(which)
        message = await self._request(f"DIRECT.GET.{stream}", body)
        # A stored message comes with the headers it was published with, whatever they are called.
        found = "Nats-Sequence" in message.headers
        if not found and message.status == 404:
            return None
        if not found and message.status:
            raise ApiError(message.status, message.description)
        return message

    async def purge(self, stream: str, *, before: int) -> None:
        """Delete the stream's messages before a sequence."""
        await self._ask(f"STREAM.PURGE.{stream}", {"seq": before})

    async def _found(self, operation: str, absent: int) -> dict[str, Any] | None:
        try:
            return await self._ask(operation)
        except ApiError as error:
            if error.code != absent:
                raise
            return None

    async def _ask(self, operation: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        payload = msgspec.json.encode(body) if body is not None else b""
        while True:
            answer: dict[str, Any] = msgspec.json.decode((await self._request(operation, payload)).data)
            fault = answer.get("error")
            if fault is None:
                return answer
            code = fault.get("err_code", fault.get("code", 0))
            if code not in _PASSING:
                raise ApiError(code, fault.get("description", ""))
            await asyncio.sleep(_RETRY_SECONDS)

    async def _request(self, operation: str, payload: bytes) -> Message:
        while True:
            await self._connection.wait_connected()
            try:
                answer = await self._connection.request(f"{self.prefix}.{operation}", payload, timeout_seconds=_TIMEOUT_SECONDS)
            except (DisconnectedError, RequestTimeoutError):
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if answer.status != NO_RESPONDERS:
                self._unavailable = False
                return answer
            if not self._unavailable:
                self._unavailable = True
                logger.warning("jetstream.unavailable", operation=operation)
            await asyncio.sleep(_RETRY_SECONDS)
