"""How the commands reach the bus: one that runs already, or the one they start."""

from __future__ import annotations

import os

import msgspec

from services.cli.errors import UsageError
from services.cli.run.processes.nats_server import NatsAddress, running_bus
from services.runtime.errors import SettingsError
from services.runtime.settings import NatsSettings, StreamSettings, load
from services.runtime.settings_loading import CONFIG_VARIABLE

_SAYING_WHERE = ("WIRESPAN_NATS_URL", CONFIG_VARIABLE)
_EMBEDDED_STREAM_BYTES = 128 << 20
_EMBEDDED_RECENT_BYTES = 16 << 20


class BusSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the bus is, as whom to connect, and what its streams are like."""

    nats: NatsSettings = NatsSettings()
    streams: StreamSettings = StreamSettings()

    def environ(self) -> dict[str, str]:
        """Return the variables from which a service reads exactly this; only of what differs from the defaults."""
        variables: dict[str, str] = {}
        for group, settings, default in (("NATS", self.nats, NatsSettings()), ("STREAMS", self.streams, StreamSettings())):
            for name in settings.__struct_fields__:
                value = getattr(settings, name)
                if value != getattr(default, name):
                    variables[f"WIRESPAN_{group}_{name.upper()}"] = str(value)
        return variables


def bus_settings(url: str | None) -> BusSettings:
    """Return what the WIRESPAN_NATS_* and WIRESPAN_STREAMS_* variables say, with `url` instead of theirs where it is given.

    Where nothing says where the bus is, it is that of a `wirespan up` or `replay` of this user that runs now. Raises UsageError
    with every fault in the variables.
    """
    if url is None and not any(name in os.environ for name in _SAYING_WHERE) and (found := running_bus()) is not None:
        return embedded_bus_settings(found)
    environ = os.environ if url is None else {**os.environ, "WIRESPAN_NATS_URL": url}
    try:
        return load(BusSettings, prefix="WIRESPAN_CLI_", environ=environ)
    except SettingsError as error:
        raise UsageError("; ".join(error.faults)) from error


def embedded_bus_settings(address: NatsAddress) -> BusSettings:
    """Return settings for a server of our own. Its streams are small: they are a buffer, and the reader of a file can wait."""
    return BusSettings(
        # What would lose power is all of it: there is nobody to publish anything again, and a replay begins anew.
        nats=NatsSettings(url=address.url, token=address.token, unsynced_seconds=0),
        streams=StreamSettings(
            raw_bytes=_EMBEDDED_STREAM_BYTES,
            raw_node_share=1.0,  # there is but one node
            enriched_bytes=_EMBEDDED_STREAM_BYTES,
            dead_bytes=_EMBEDDED_STREAM_BYTES,
            recent_bytes=_EMBEDDED_RECENT_BYTES,
        ),
    )
