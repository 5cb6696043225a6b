"""Settings of capture: variables `WIRESPAN_CAPTURE_*` and the groups that all services share."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from services.capture.flow_table import FlowTableSettings
from services.runtime.settings import ServiceSettings

_FLOWS = FlowTableSettings()


class CaptureSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What capture reads, and when it emits records."""

    node: Annotated[str, Meta(description="name of this node in every batch; the host's name where it is empty")] = ""
    epoch: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]*$",
            description="identity of this run; random where it is empty. A replay under the same epoch sends the same messages",
        ),
    ] = ""
    replay_files: Annotated[
        tuple[Path, ...], Meta(description="capture files (pcap, pcapng) to read, separated by commas")
    ] = ()
    replay_loop: Annotated[
        bool, Meta(description="read the files again and again, at the speed of their clock, as if it happened now")
    ] = False
    progress_file: Annotated[
        Path | None, Meta(description="JSON file that says how far the replay is; replaced atomically")
    ] = None
    max_flows: Annotated[
        int, Meta(ge=1024, le=1 << 24, description="flows open at the same time; beyond it the longest idle ones end")
    ] = 1 << 20
    active_interval_seconds: Annotated[
        float, Meta(gt=0, description="a flow that lives and moves gives a record this often")
    ] = _FLOWS.active_interval_seconds
    linger_seconds: Annotated[
        float, Meta(ge=0, description="quiet time after which a closed, reset or refused connection gives its last record")
    ] = _FLOWS.linger_seconds
    tcp_idle_seconds: Annotated[
        float, Meta(gt=0, description="an open connection without a packet for this long has ended")
    ] = _FLOWS.tcp_idle_seconds
    udp_idle_seconds: Annotated[
        float, Meta(gt=0, description="a UDP flow without a packet for this long has ended; so for all other transports")
    ] = _FLOWS.udp_idle_seconds

    def __post_init__(self) -> None:
        """Refuse what cannot start. Raises ValueError."""
        if not self.replay_files:
            raise ValueError("replay_files must name at least one capture file")

    @property
    def node_name(self) -> str:
        """The node's name in every batch."""
        return self.node or socket.gethostname()

    @property
    def flow_table(self) -> FlowTableSettings:
        """When records are emitted."""
        return FlowTableSettings(
            active_interval_seconds=self.active_interval_seconds,
            linger_seconds=self.linger_seconds,
            tcp_idle_seconds=self.tcp_idle_seconds,
            udp_idle_seconds=self.udp_idle_seconds,
        )
