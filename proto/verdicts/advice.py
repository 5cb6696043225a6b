"""What each verdict says in a sentence, by the measure that decided it, and what to look at next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proto.verdicts.names import Verdict, VerdictMeasure

_V, _M = Verdict, VerdictMeasure


@dataclass(frozen=True, slots=True)
class Advice:
    """A sentence, and where to go on."""

    sentence: str
    next: str
    section: str = ""
    """Of docs/diagnosis.md."""


_OF_SERVER: Final = (
    "the server's own spans for the same trace; its CPU, its pool of threads or connections, and what it asks itself: a slow "
    "server is often one that waits for another"
)
_OF_LOSS: Final = (
    "the drops of both hosts' interfaces (`ip -s link`, `ethtool -S`) and `nstat TcpRetransSegs`; other connections of the "
    "same two nodes: if they lose too it is the path, if not this one's sender or receiver"
)
_OF_QUEUE: Final = (
    "`ss -ltn` on the server: Recv-Q as large as Send-Q is a full queue; `nstat TcpExtListenOverflows`. The process does not "
    "accept as fast as clients come, or its backlog (and net.core.somaxconn) is small"
)
_OF_MTU: Final = "a tunnel or VPN on the way whose MTU is smaller, and a firewall that drops ICMP's `fragmentation needed`"
_OF_OTHER_END: Final = "the server's own record of it: it says whether the server took so long, or the path"
_OF_RESOLVER: Final = "the resolver's own span of the question, its upstream servers, and `flow.dns.*` of other clients"

ADVICE: Final[dict[tuple[Verdict, VerdictMeasure], Advice]] = {
    (_V.REFUSED, _M.OUTCOME): Advice(
        "nobody listens at that port; the host answered, so the path works",
        "whether the process is up and listens on this address and port (`ss -ltn`); in Kubernetes the Service's `targetPort` "
        "and the pod's readiness",
        "refused",
    ),
    (_V.REFUSED, _M.ICMP_ERRORS): Advice(
        "nobody listens at that port, or a firewall says so (ICMP port unreachable)",
        "whether the process is up and listens there (`ss -ltnu`), then the rules that reject (`nft list ruleset`)",
        "refused",
    ),
    (_V.UNREACHABLE, _M.ICMP_ERRORS): Advice(
        "a router or the host says that there is no way to it",
        "the route from the client (`ip route get`), and whether the address is still anybody's",
        "blackholed",
    ),
    (_V.UNREACHABLE, _M.REQUEST_UNANSWERED): Advice(
        "pings had no answer: the way there drops them, or the host does", "whether ICMP is let through at all", "blackholed"
    ),
    (_V.ACCEPT_QUEUE, _M.SYN_REPEATS): Advice(
        "the server's accept queue is full: the SYNs arrived at its socket and got no answer", _OF_QUEUE, "full-accept-queue"
    ),
    (_V.ACCEPT_QUEUE, _M.HANDSHAKE_LATENCY): Advice(
        "the server's accept queue was full for a while: the first SYNs arrived at its socket and got no answer",
        _OF_QUEUE,
        "full-accept-queue",
    ),
    (_V.PATH_OR_SERVER, _M.OUTCOME): Advice(
        "connecting was never answered: the way there drops it, or the server's host does",
        "whether the server's end tells of this connection. Where its node is captured and it does not, nothing arrived: a "
        "network policy, a security group, a route, a Service without a live endpoint",
        "blackholed",
    ),
    (_V.PATH_OR_SERVER, _M.SYN_REPEATS): Advice(
        "connecting took a second or more: a SYN or its answer was lost, or the server's accept queue was full",
        "the server's own record of it: it says which SYNs arrived",
        "lost-syns",
    ),
    (_V.PATH_OR_SERVER, _M.RESPONSE_TIME_MAX): Advice(
        "an answer was late, by the path or by the server", _OF_OTHER_END, "slow-server"
    ),
    (_V.PATH_OR_SERVER, _M.RESPONSE_TIME): Advice(
        "the answer to this request was late, by the path or by the server", _OF_OTHER_END, "slow-server"
    ),
    (_V.PATH_OR_SERVER, _M.EXCHANGE_END): Advice(
        "this request was never answered: it did not arrive, or the server let it lie", _OF_OTHER_END, "slow-server"
    ),
    (_V.RESET_BY_SERVER, _M.CLOSED_BY): Advice(
        "the server broke the connection off while something was under way",
        "the server's log of that moment: a crash, a close with unread data, a proxy's timeout",
        "resets",
    ),
    (_V.RESET_BY_CLIENT, _M.CLOSED_BY): Advice(
        "the client broke the connection off while something was under way: it gave up, or crashed",
        "the client's timeout, and what it waited for",
        "resets",
    ),
    (_V.MTU, _M.RETRANSMIT_BYTES): Advice(
        "full segments to the server do not arrive, small ones do: an MTU on the path is smaller than the ends believe",
        _OF_MTU,
        "path-mtu-blackhole",
    ),
    (_V.MTU, _M.REVERSE_RETRANSMIT_BYTES): Advice(
        "full segments to the client do not arrive, small ones do: an MTU on the path is smaller than the ends believe",
        _OF_MTU,
        "path-mtu-blackhole",
    ),
    (_V.ZERO_WINDOW, _M.ZERO_WINDOW): Advice(
        "the client does not read what it asked for: the server had to wait for room",
        "what the client does between two reads: its CPU, a lock, a disk that it writes to",
        "slow-reader",
    ),
    (_V.ZERO_WINDOW, _M.REVERSE_ZERO_WINDOW): Advice(
        "the server does not read what it is sent: the client had to wait for room",
        "what the server does between two reads: its CPU, a lock, a disk that it writes to",
        "slow-reader",
    ),
    (_V.PATH_LOSS, _M.RETRANSMITS): Advice("the path loses packets on the way to the server", _OF_LOSS, "loss-on-the-path"),
    (_V.PATH_LOSS, _M.REVERSE_RETRANSMITS): Advice(
        "the path loses packets on the way to the client", _OF_LOSS, "loss-on-the-path"
    ),
    (_V.PATH_LOSS, _M.SYN_ACK_REPEATS): Advice(
        "the server's SYN-ACK was lost on the way to the client, which cost a second or more", _OF_LOSS, "lost-syns"
    ),
    (_V.PATH_LOSS, _M.SYN_REPEATS): Advice(
        "a SYN was lost on the way to the server, which cost a second or more", _OF_LOSS, "lost-syns"
    ),
    (_V.PATH_LOSS, _M.RESPONSE_TIME_MAX): Advice(
        "an answer was late because a segment was lost on the path and sent again", _OF_LOSS, "loss-on-the-path"
    ),
    (_V.PATH_LOSS, _M.RESPONSE_TIME): Advice(
        "this request's answer was late because a segment was lost on the path and sent again", _OF_LOSS, "loss-on-the-path"
    ),
    (_V.SERVER_SLOW, _M.RESPONSE_TIME_MAX): Advice("the server is slow, not the network", _OF_SERVER, "slow-server"),
    (_V.SERVER_SLOW, _M.RESPONSE_TIME): Advice(
        "the server took long for this request, not the network", _OF_SERVER, "slow-server"
    ),
    (_V.SERVER_SLOW, _M.EXCHANGE_END): Advice("the server has this request and never answered it", _OF_SERVER, "slow-server"),
    (_V.PATH_SLOW, _M.RTT_MIN): Advice(
        "the path is long, the server is not slow: each round trip takes it",
        "where the two ends are (zone, region, a VPN between them); fewer round trips, or a nearer server",
        "slow-path",
    ),
    (_V.PATH_SLOW, _M.CONNECT_TIME): Advice(
        "the path is long: connecting, in which no process has a part, took as long",
        "where the two ends are (zone, region, a VPN between them)",
        "slow-path",
    ),
    (_V.PATH_SLOW, _M.RESPONSE_TIME_MAX): Advice(
        "the path was slow, not the other end", "where the two ends are, and what else passes there at that time", "slow-path"
    ),
    (_V.PATH_SLOW, _M.RESPONSE_TIME): Advice(
        "the path was slow for this request, not the server", "what else passes there at that time", "slow-path"
    ),
    (_V.CLIENT_SLOW, _M.REQUEST_TRANSFER_TIME): Advice(
        "the client is slow to say what it asks for",
        "the client's spans before and within this request: what it computes while it sends",
        "verdicts",
    ),
    (_V.NAME_RESOLUTION, _M.DNS_SERVFAIL): Advice(
        "the resolver says that it failed (SERVFAIL)", "the resolver's log and its upstream servers", "dns"
    ),
    (_V.NAME_RESOLUTION, _M.DNS_UNANSWERED): Advice("the resolver never answered a question", _OF_RESOLVER, "dns"),
    (_V.NAME_RESOLUTION, _M.REQUEST_UNANSWERED): Advice("the resolver never answered a question", _OF_RESOLVER, "dns"),
    (_V.NAME_RESOLUTION, _M.QUESTION_REPEATS): Advice(
        "a question had no answer in time and was asked again: it was lost, or the resolver is silent", _OF_RESOLVER, "dns"
    ),
    (_V.NAME_RESOLUTION, _M.RESPONSE_TIME_MAX): Advice(
        "the resolver is slow, and connecting waits for the name", _OF_RESOLVER, "dns"
    ),
    (_V.OK, _M.NONE): Advice("nothing that is measured was wrong", "the application's own spans"),
    (_V.UNKNOWN, _M.NONE): Advice("nobody can know from what was seen", "the other end, or a longer look"),
}
