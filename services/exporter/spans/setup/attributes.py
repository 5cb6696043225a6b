"""The attributes of the steps of a connection's set-up."""

from __future__ import annotations

from typing import Final

from proto.exchange_phases import Phase
from services.exporter.spans.attributes import OURS, Integer, Integers

STEP_INTEGERS: Final[dict[Phase, tuple[Integers, ...]]] = {
    Phase.CONNECT: (
        Integers("`connect`", None, (
            Integer("flow.tcp.connect.time", OURS, "first SYN to the ACK that completes the handshake, lost SYNs and their "
                    "waits included", "ns", lambda records: records.elapsed("syn_unix_ns", "handshake_ack_unix_ns")),
            Integer("flow.tcp.syn_repeats", OURS, "SYNs after the first", "packets",
                    lambda records: records.column("syn_repeats")),
        )),
    ),
    Phase.TLS_HANDSHAKE: (
        Integers("`tls handshake`", None, (
            Integer("flow.tls.handshake.time", OURS, "from the ClientHello's first byte to the client's first record of "
                    "application data", "ns", lambda records: records.column("tls_handshake_time_ns")),
        )),
    ),
    Phase.DNS_LOOKUP: (
        Integers("`dns lookup`", None, (
            Integer("flow.dns.time", OURS, "how long the answer took since the question was first asked", "ns",
                    lambda records: records.column("dns_first_time_ns")),
        )),
        Integers("`dns lookup`, it was sent again", lambda records: records.nonzero("dns_first_repeats"), (
            Integer("flow.dns.repeats", OURS, "how often", "", lambda records: records.column("dns_first_repeats")),
        )),
    ),
}  # fmt: skip
