"""The groups of settings that all services share, and what every service's settings hold.

How they are read is `settings_loading`'s; its `load` and `describe` can be had here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from services.runtime.errors import SettingsError
from services.runtime.settings_loading import PROCESS_PREFIX, Variable, describe, load

__all__ = [
    "PROCESS_PREFIX",
    "ClusterSettings",
    "HealthSettings",
    "LogSettings",
    "NatsSettings",
    "ServiceSettings",
    "SettingsError",
    "StreamSettings",
    "TelemetrySettings",
    "Variable",
    "describe",
    "load",
]

_SECRET: Final[dict[str, Any]] = {"secret": True}


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach NATS, and as whom."""

    url: Annotated[str, Meta(description="NATS servers: one URL, or several separated by commas")] = "nats://127.0.0.1:4222"
    user: Annotated[str | None, Meta(description="user name; needs the password too")] = None
    password: Annotated[str | None, Meta(description="password of the user", extra=_SECRET)] = None
    token: Annotated[str | None, Meta(description="token, instead of user and password", extra=_SECRET)] = None
    creds_file: Annotated[Path | None, Meta(description="credentials file (user JWT and seed)")] = None
    nkey_file: Annotated[Path | None, Meta(description="file with an nkey seed")] = None
    tls_ca: Annotated[Path | None, Meta(description="PEM file of the authority that signed the server's certificate")] = None
    tls_cert: Annotated[Path | None, Meta(description="PEM file of this client's certificate; needs its key too")] = None
    tls_key: Annotated[Path | None, Meta(description="PEM file of the key of this client's certificate")] = None
    tls_first: Annotated[bool, Meta(description="begin TLS before the server's greeting (`handshake_first`)")] = False
    inbox_prefix: Annotated[
        str, Meta(pattern=r"^[A-Za-z0-9_.-]+$", description="first tokens of reply subjects, for users with narrow permissions")
    ] = "_INBOX"
    jetstream_domain: Annotated[str, Meta(description="JetStream domain, where the streams live behind a leaf node")] = ""
    connect_timeout_seconds: Annotated[
        float, Meta(gt=0, description="longest wait for a server to answer a new connection")
    ] = 5.0
    reconnect_seconds: Annotated[float, Meta(gt=0, description="wait between attempts to connect, jittered by half")] = 1.0
    ping_interval_seconds: Annotated[
        float, Meta(gt=0, description="a server that leaves two pings in a row unanswered is given up")
    ] = 10.0
    publish_timeout_seconds: Annotated[
        float, Meta(gt=0, description="wait for a message to be stored before it is sent again under the same id")
    ] = 5.0
    unsynced_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="how long an acknowledged message is kept, to be published again to the next server should this one's"
            " machine lose it: twice the server's `sync_interval`; 0 keeps none",
        ),
    ] = 2.0
    unsynced_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="most bytes that are kept so; the oldest go first. As many again while those are published once more",
        ),
    ] = 8 << 20

    def __post_init__(self) -> None:
        """Refuse combinations that cannot work. Raises ValueError."""
        if (self.user is None) != (self.password is None):
            raise ValueError("user and password need each other")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key need each other")
        ways = (self.user, self.token, self.creds_file, self.nkey_file)
        if sum(way is not None for way in ways) > 1:
            raise ValueError("only one of user, token, creds_file, nkey_file can be used")
        for url in filter(None, (part.strip() for part in self.url.split(","))):
            if not _names_a_server(url):
                raise ValueError(f"url names no server: {url.rpartition('@')[2]!r}")


def _names_a_server(url: str) -> bool:
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    try:
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or none there is
        return False


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the streams. Every service that shares a NATS must be given the same."""

    raw_bytes: Annotated[int, Meta(ge=1 << 20, description="most bytes in FLOWS_RAW; more is refused, and capture merges")] = (
        1 << 30
    )
    raw_node_share: Annotated[
        float,
        Meta(
            gt=0,
            le=1,
            description="most of FLOWS_RAW that the batches of one node may fill, each taken for the 512 KiB that it may have;"
            " more of them is refused, and that node merges; 1 is as much as there is",
        ),
    ] = 0.5
    enriched_bytes: Annotated[
        int, Meta(ge=1 << 20, description="most bytes in FLOWS_ENRICHED; more is refused, and the enricher waits")
    ] = 1 << 30
    dead_bytes: Annotated[int, Meta(ge=1 << 20, description="most bytes in FLOWS_DEAD; the oldest go first")] = 256 << 20
    cache_bytes: Annotated[
        int, Meta(ge=1 << 20, description="most bytes in KUBE_CACHE, the enrichers' shared index of the cluster")
    ] = 256 << 20
    dead_max_age_seconds: Annotated[int, Meta(ge=1, description="how long FLOWS_DEAD keeps a message")] = 7 * 86_400
    recent_bytes: Annotated[
        int,
        Meta(
            ge=0,
            description="most bytes in FLOWS_RECENT, copies of the latest enriched batches in the server's memory, which"
            " `wirespan tap --last` and `--since` look back at; 0 keeps none",
        ),
    ] = 32 << 20
    duplicate_window_seconds: Annotated[
        int, Meta(ge=1, description="how long a stream remembers message ids; longer than any outage to ride out")
    ] = 600
    partitions: Annotated[
        int,
        Meta(
            ge=1,
            le=16,
            description="streams that FLOWS_RAW and FLOWS_ENRICHED are each, all of a node's batches in the same one; each has"
            " a leader, and the bytes, of its own",
        ),
    ] = 1
    partitions_consumed: Annotated[
        int,
        Meta(
            ge=0,
            le=16,
            description="of how many streams services take batches, where that is more than WIRESPAN_STREAMS_PARTITIONS: before"
            " there are more, and until those are empty that there were",
        ),
    ] = 0
    replicas: Annotated[int, Meta(ge=1, le=5, description="servers that hold each stream")] = 1
    storage: Annotated[Literal["file", "memory"], Meta(description="where the streams are kept")] = "file"

    @property
    def kept_partitions(self) -> int:
        """How many streams of each there are to be, and to be consumed."""
        return max(self.partitions, self.partitions_consumed)


class LogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is logged, and how. Logs go to standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Meta(description="least level that is logged")] = "info"
    format: Annotated[
        Literal["auto", "json", "console"], Meta(description="`auto` is console on a terminal and JSON elsewhere")
    ] = "auto"


class HealthSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where /healthz, /readyz and /metrics are served."""

    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 serves nothing")] = 0


class TelemetrySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The service's own metrics. They are exported over OTLP where `OTEL_METRICS_EXPORTER` is `otlp`."""

    enabled: Annotated[bool, Meta(description="count at all")] = True


class ClusterSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cluster that the flows belong to."""

    name: Annotated[str, Meta(description="`k8s.cluster.name`; also seeds trace ids, so all services need the same")] = ""


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every service's settings hold; services inherit it."""

    nats: NatsSettings = NatsSettings()
    streams: StreamSettings = StreamSettings()
    log: LogSettings = LogSettings()
    health: HealthSettings = HealthSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    drain_seconds: Annotated[
        float, Meta(ge=0, description="after a stop signal, time to finish what is in flight before it is cut off")
    ] = 25.0
