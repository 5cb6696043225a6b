"""Settings of capture: variables `WIRESPAN_CAPTURE_*` and the groups that all services share."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from services.capture.flows.datagrams import DatagramRules
from services.capture.flows.timing import FlowTableSettings
from services.capture.live_options import DEFAULT_CAPACITY as LIVE_CAPACITY
from services.capture.live_options import LiveOptions, TapRules
from services.capture.names.pieces import Names
from services.capture.names.question_records import QuestionRules, QuestionSpans
from services.capture.replay.source import DEFAULT_CAPACITY as REPLAY_CAPACITY
from services.runtime.settings import ServiceSettings

_FLOWS = FlowTableSettings()
_DATAGRAMS = DatagramRules()
_QUESTIONS = QuestionRules()


class CaptureSettings(ServiceSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What capture reads, and when it emits records."""

    node: Annotated[str, Meta(description="name of this node in every batch; the host's name where it is empty")] = ""
    epoch: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]*$",
            description="identity of this run. A replay under the same epoch sends the same messages, which are stored once. "
            "Where it is empty: for a replay that ends made of this host's name, the files and the settings, so that one that "
            "is killed and started again loses and doubles nothing; random otherwise",
        ),
    ] = ""
    replay_files: Annotated[
        tuple[Path, ...],
        Meta(
            description="capture files (pcap, pcapng) to read, separated by commas; without any, this node's sockets are tapped"
        ),
    ] = ()
    replay_loop: Annotated[
        bool, Meta(description="read the files again and again, at the speed of their clock, as if it happened now")
    ] = False
    replay_speed: Annotated[
        float, Meta(gt=0, le=1e6, description="of such a loop: how many times as fast as the files' clock")
    ] = 1.0
    replay_questions: Annotated[
        Path | None,
        Meta(
            description="replay: spans of applications to tell exchanges of, as `python -m services.enricher.ask` makes them; "
            "`wirespan replay --spans` does both"
        ),
    ] = None
    progress_file: Annotated[
        Path | None, Meta(description="JSON file that says how far the replay is; replaced atomically")
    ] = None
    max_flows: Annotated[
        int | None,
        Meta(
            ge=1024,
            le=1 << 24,
            description=f"flows open at the same time ({LIVE_CAPACITY} live, {REPLAY_CAPACITY} in a replay); beyond it the "
            "longest idle ones end, and live, the packets of those that find no place are counted as unattributed",
        ),
    ] = None
    drain_interval_seconds: Annotated[float, Meta(gt=0, le=60, description="live: how often the flows are looked at")] = 1.0
    cgroup_root: Annotated[
        Path | None,
        Meta(description="live: where the host's cgroup2 tree is mounted, there or below; empty: found in /proc/mounts"),
    ] = None
    succession: Annotated[
        str,
        Meta(
            description="live: what captures have in common that replace each other on a node (the chart: its release). While "
            "two of them see the node, each connection is told by one; empty: this one tells whatever it sees"
        ),
    ] = ""
    loopback: Annotated[bool, Meta(description="live: keep connections of 127.0.0.0/8 and ::1 too")] = False
    process_names: Annotated[
        bool,
        Meta(
            description="live: name the program that holds a socket outside any pod and container, where it can be known: in "
            "the host's PID and network namespaces. `wirespan up` asks for it"
        ),
    ] = False
    trace_context: Annotated[
        bool,
        Meta(
            description="look for a W3C `traceparent` in clear-text HTTP/1 requests and tell the exchanges of sampled "
            "traces within those traces (docs/correlation.md)"
        ),
    ] = True
    meeting: Annotated[
        bool,
        Meta(
            description="live: remember every exchange for a while, whatever its protocol and in TLS too, and tell those of "
            "the application spans that enrichers ask for (docs/correlation.md). Needs `trace_context`, and `names` of `tls` "
            "or `all`, by which handshakes are told from what follows"
        ),
    ] = False
    meeting_bytes: Annotated[
        int, Meta(ge=1 << 20, le=1 << 30, description="memory for what `meeting` remembers; the oldest is forgotten")
    ] = 16 << 20
    dns_ports: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=65535)], ...],
        Meta(
            description="ports that are read as DNS: of UDP header and question, to match answers with their questions; of TCP "
            "only for names"
        ),
    ] = _DATAGRAMS.dns_ports
    names: Annotated[
        Names,
        Meta(
            description="what is read of names: `dns` for those that are looked up, with their response codes; `tls` for "
            "the hellos of TLS handshakes: the server's name, version and cipher; `all`, or `off` for nothing "
            "(docs/security.md)"
        ),
    ] = "all"
    hidden_names: Annotated[
        tuple[str, ...],
        Meta(
            description="domains: of a name in one of them, looked up or asked for, only the domain is kept: of "
            "`db.corp.example` `corp.example`"
        ),
    ] = ()
    replay_pseudonym_key: Annotated[
        str,
        Meta(
            description="replay: names that were looked up or asked for are told by the pseudonyms that `wirespan snapshot` "
            "makes with this `--pseudonym-key`, label by label; empty: by themselves",
            extra={"secret": True},
        ),
    ] = ""
    question_spans: Annotated[
        QuestionSpans,
        Meta(
            description="which DNS questions are spans of their own, beside that of their flow: `failed_or_slow` those "
            "never answered, answered slowly, or by another code than NOERROR and NXDOMAIN; `all`; `off`"
        ),
    ] = _QUESTIONS.spans
    slow_question_seconds: Annotated[
        float,
        Meta(
            ge=0,
            description="a DNS question that takes as long is slow: a resolver that knows the name answers within a few "
            "milliseconds, one that has to ask others within some ten",
        ),
    ] = _QUESTIONS.slow_ns / 1e9
    allow_networks: Annotated[
        tuple[str, ...], Meta(description="live: keep only flows whose remote address is in one of these (CIDR)")
    ] = ()
    deny_networks: Annotated[
        tuple[str, ...], Meta(description="live: keep no flow whose remote address is in one of these (CIDR)")
    ] = ()
    allow_ports: Annotated[
        tuple[int, ...], Meta(description="live: keep only flows that have one of these ports at an end")
    ] = ()
    deny_ports: Annotated[tuple[int, ...], Meta(description="live: keep no flow that has one of these ports at an end")] = ()
    transports: Annotated[
        tuple[int, ...], Meta(description="live: keep only these IANA protocol numbers (6 is TCP, 17 UDP)")
    ] = ()
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
        """Refuse networks that are none, and a meeting without what it stands on. Raises ValueError."""
        for network in (*self.allow_networks, *self.deny_networks):
            ipaddress.ip_network(network)
        if self.meeting and not (self.trace_context and self.names in {"tls", "all"}):
            raise ValueError("meeting needs trace_context, and names of tls or all")

    @property
    def node_name(self) -> str:
        """The node's name in every batch."""
        return self.node or socket.gethostname()

    @property
    def replay_capacity(self) -> int:
        """Flows that a replay holds open at the same time."""
        return self.max_flows or REPLAY_CAPACITY

    @property
    def live(self) -> LiveOptions:
        """How this node's sockets are tapped."""
        rules = TapRules(
            loopback=self.loopback,
            allow_networks=self.allow_networks,
            deny_networks=self.deny_networks,
            allow_ports=self.allow_ports,
            deny_ports=self.deny_ports,
            transports=self.transports,
        )
        return LiveOptions(
            capacity=self.max_flows or LIVE_CAPACITY,
            drain_interval_seconds=self.drain_interval_seconds,
            rules=rules,
            cgroup_root=self.cgroup_root,
            succession=self.succession,
            trace_context=self.trace_context,
            process_names=self.process_names,
            datagrams=self.datagrams,
            names=self.names,
            hidden_names=self.hidden_names,
            questions=self.questions,
            meeting_bytes=self.meeting_bytes if self.meeting else 0,
        )

    @property
    def datagrams(self) -> DatagramRules:
        """How datagrams are read."""
        return DatagramRules(dns_ports=self.dns_ports, rest_seconds=self.udp_idle_seconds)

    @property
    def questions(self) -> QuestionRules:
        """Which DNS questions are told by themselves."""
        return QuestionRules(self.question_spans, round(self.slow_question_seconds * 1e9))

    @property
    def flow_table(self) -> FlowTableSettings:
        """When records are emitted."""
        return FlowTableSettings(
            active_interval_seconds=self.active_interval_seconds,
            linger_seconds=self.linger_seconds,
            tcp_idle_seconds=self.tcp_idle_seconds,
            udp_idle_seconds=self.udp_idle_seconds,
        )
