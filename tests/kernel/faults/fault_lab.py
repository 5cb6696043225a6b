"""The faults of the lab: each makes its harm with real sockets, and returns what is known of it from elsewhere."""

from __future__ import annotations

import enum
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.node.fault_lab import (
    FAR_SERVER,
    SERVER,
    WAIT_SECONDS,
    FaultLab,
    all_acknowledged,
    close_both,
    read_all,
    reset,
    total_retransmits,
    wait_until,
    window_of_peer,
    window_probes,
)
from tests.support.packets.talks import dns

if TYPE_CHECKING:
    from collections.abc import Callable

THINK_SECONDS: Final = 0.2
"""How long a slow server thinks."""
GIVE_UP_SECONDS: Final = 3.3
"""How long a client waits to be connected: a SYN unanswered for 3 s counts as timed out when capture ends."""
SLOWER_SECONDS: Final = 0.3
"""How long one thinks that is slow every time: as long as counts as slow for sure in a histogram of powers of two."""
LARGE, SMALL = 1_500_000, 500
ROOM_FOR_ALL: Final = 16 * LARGE
"""A receive buffer that no transfer here fills, however late it is read."""
REQUEST: Final = b"q" * 100


class Port(enum.IntEnum):
    """The server's port of each fault."""

    DNS_LATE = 53
    HEALTHY = 7000
    REFUSED = 7001
    BLACKHOLED = 7002
    LOSS_DOWN = 7003
    LOSS_UP = 7004
    SYN_LOST = 7005
    SYN_ACK_LOST = 7006
    SLOW_SERVER = 7007
    SLOW_READER = 7008
    SERVER_RESETS = 7009
    CLIENT_ABORTS = 7010
    ACCEPT_QUEUE_FULL = 7011
    PARTITION = 7012
    DNS_SILENT = 7013
    SLOW_PATH = 7014
    LARGE_LOST = 7015
    SLOWER_SERVER = 7016
    ACCEPT_QUEUE_LATE = 7017


def ask(client: socket.socket, server: socket.socket, response: bytes, *, think_seconds: float = 0) -> None:
    """One exchange."""
    client.sendall(REQUEST)
    assert server.recv(1000) == REQUEST
    time.sleep(think_seconds)
    server.sendall(response)
    left = len(response)
    while left:
        left -= len(client.recv(left))


def healthy(lab: FaultLab) -> None:
    """Nothing is wrong."""
    client, server = lab.connected(Port.HEALTHY)
    ask(client, server, bytes(20_000))
    close_both(client, server)


def refused(lab: FaultLab) -> None:
    """Nobody listens."""
    with lab.client.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect((SERVER, Port.REFUSED))


def blackholed(lab: FaultLab) -> None:
    """SYNs go nowhere."""
    lab.listen(Port.BLACKHOLED)
    lab.drop("-p", "tcp", "--dport", str(int(Port.BLACKHOLED)))
    _give_up(lab, Port.BLACKHOLED)


def _give_up(lab: FaultLab, port: Port) -> None:
    with lab.client.socket() as client:
        client.settimeout(GIVE_UP_SECONDS)
        with pytest.raises(TimeoutError):
            client.connect((SERVER, port))


def loss_down(lab: FaultLab) -> dict[str, int]:
    """Every hundredth full segment of the response is lost."""
    port = str(int(Port.LOSS_DOWN))
    lab.drop("-p", "tcp", "--sport", port, *_nth_large(100))
    client, server = lab.connected(Port.LOSS_DOWN, receive_buffer=ROOM_FOR_ALL)
    client.sendall(REQUEST)
    server.recv(1000)
    return _transfer(lab, server, client, f"spt:{port}")


def loss_up(lab: FaultLab) -> dict[str, int]:
    """Every twentieth full segment of the request is lost."""
    port = str(int(Port.LOSS_UP))
    lab.drop("-p", "tcp", "--dport", port, *_nth_large(20))
    client, server = lab.connected(Port.LOSS_UP, receive_buffer=ROOM_FOR_ALL)
    return _transfer(lab, client, server, f"dpt:{port}")


def _nth_large(every: int) -> list[str]:
    nth = ["-m", "statistic", "--mode", "nth", "--every", str(every), "--packet", str(every // 2)]
    return ["-m", "length", "--length", "1000:65535", *nth]


def _transfer(lab: FaultLab, sender: socket.socket, receiver: socket.socket, rule: str) -> dict[str, int]:
    received: Future[int] = Future()
    thread = threading.Thread(target=lambda: received.set_result(read_all(receiver)))
    thread.start()
    sender.sendall(bytes(LARGE))
    wait_until(lambda: all_acknowledged(sender))
    facts = {"total_retrans": total_retransmits(sender), "dropped": lab.dropped(rule)}
    sender.shutdown(socket.SHUT_WR)
    thread.join()
    assert received.result() == LARGE
    receiver.close()
    assert read_all(sender) == 0
    sender.close()
    return facts


def syn_lost(lab: FaultLab) -> None:
    """The first SYN is lost, and nothing else."""
    first = ["-m", "statistic", "--mode", "nth", "--every", "1000", "--packet", "0"]
    lab.drop("-p", "tcp", "--dport", str(int(Port.SYN_LOST)), "--syn", *first)
    client, server = lab.connected(Port.SYN_LOST)
    ask(client, server, bytes(SMALL))
    close_both(client, server)


def syn_ack_lost(lab: FaultLab) -> None:
    """The first SYN-ACK is lost, and nothing else."""
    first = ["-m", "statistic", "--mode", "nth", "--every", "1000", "--packet", "0"]
    lab.drop("-p", "tcp", "--sport", str(int(Port.SYN_ACK_LOST)), "--tcp-flags", "SYN,ACK", "SYN,ACK", *first)
    client, server = lab.connected(Port.SYN_ACK_LOST)
    ask(client, server, bytes(SMALL))
    close_both(client, server)


def slow_server(lab: FaultLab) -> None:
    """The server thinks before it answers."""
    client, server = lab.connected(Port.SLOW_SERVER)
    ask(client, server, bytes(SMALL))
    ask(client, server, bytes(SMALL), think_seconds=THINK_SECONDS)
    close_both(client, server)


def slower_server(lab: FaultLab) -> None:
    """The server thinks before every answer."""
    client, server = lab.connected(Port.SLOWER_SERVER)
    for _ in range(3):
        ask(client, server, bytes(SMALL), think_seconds=SLOWER_SECONDS)
    close_both(client, server)


def slow_path(lab: FaultLab) -> None:
    """The server answers at once; the way to it is long."""
    client, server = lab.connected(Port.SLOW_PATH, address=FAR_SERVER)
    ask(client, server, bytes(SMALL))
    ask(client, server, bytes(SMALL))
    close_both(client, server)


def slow_reader(lab: FaultLab) -> None:
    """The client lets the response wait until its buffer is full and the server has probed its window."""
    client, server = lab.connected(Port.SLOW_READER, receive_buffer=65536)
    client.sendall(REQUEST)
    server.recv(1000)
    sender = threading.Thread(target=server.sendall, args=(bytes(LARGE),))
    sender.start()
    # A probe of a window that is only too small for a segment fills it; then it is zero.
    wait_until(lambda: window_probes(server) > 0 and window_of_peer(server) == 0)
    left = LARGE
    while left:
        left -= len(client.recv(left))
    sender.join()
    close_both(client, server)


def server_resets(lab: FaultLab) -> None:
    """The server resets in the middle of its response."""
    client, server = lab.connected(Port.SERVER_RESETS)
    ask(client, server, bytes(20_000))
    reset(server)
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def client_aborts(lab: FaultLab) -> None:
    """The client resets without waiting for its response."""
    client, server = lab.connected(Port.CLIENT_ABORTS)
    client.sendall(REQUEST)
    assert server.recv(1000) == REQUEST
    reset(client)
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def accept_queue_full(lab: FaultLab) -> None:
    """One connection waits to be accepted, which is all that the queue holds; the next is not answered."""
    lab.listen(Port.ACCEPT_QUEUE_FULL, backlog=0)
    lab.keep(lab.client.socket()).connect((SERVER, Port.ACCEPT_QUEUE_FULL))
    _give_up(lab, Port.ACCEPT_QUEUE_FULL)


def accept_queue_late(lab: FaultLab) -> None:
    """The queue is full when the SYN comes, and has room when it comes again."""
    listener = lab.listen(Port.ACCEPT_QUEUE_LATE, backlog=0)
    first = lab.keep(lab.client.socket())
    first.connect((SERVER, Port.ACCEPT_QUEUE_LATE))
    second = lab.keep(lab.client.socket())
    second.settimeout(0)
    second.connect_ex((SERVER, Port.ACCEPT_QUEUE_LATE))
    wait_until(lambda: total_retransmits(second) > 0)
    server, _ = listener.accept()
    second.settimeout(WAIT_SECONDS)
    ask(first, lab.keep(server), bytes(SMALL))
    close_both(first, server)
    server, _ = listener.accept()
    ask(second, lab.keep(server), bytes(SMALL))
    close_both(second, server)


def partition(lab: FaultLab) -> dict[str, int]:
    """An open connection whose path is cut both ways; the client asks once more."""
    client, server = lab.connected(Port.PARTITION)
    ask(client, server, bytes(SMALL))
    for way in ("--dport", "--sport"):
        lab.drop("-p", "tcp", way, str(int(Port.PARTITION)))
    client.sendall(REQUEST)
    wait_until(lambda: total_retransmits(client) >= 2)
    return {"total_retrans": total_retransmits(client)}


def large_lost(lab: FaultLab) -> dict[str, int]:
    """A link on the way is narrower than both ends think, and nobody says so: what is small passes, what is large does not."""
    lab.drop("-p", "tcp", "--sport", str(int(Port.LARGE_LOST)), "-m", "length", "--length", "1001:65535")
    client, server = lab.connected(Port.LARGE_LOST)
    ask(client, server, bytes(SMALL))
    client.sendall(REQUEST)
    assert server.recv(1000) == REQUEST
    server.sendall(bytes(1448))
    wait_until(lambda: total_retransmits(server) >= 2)
    return {"total_retrans": total_retransmits(server)}


def dns_late(lab: FaultLab) -> None:
    """A resolver that answers late."""
    client, server = lab.datagram_ends(Port.DNS_LATE)
    client.send(dns.question(1, "cart.shop"))
    _, asker = server.recvfrom(1000)
    time.sleep(THINK_SECONDS)
    server.sendto(dns.answer(1, "cart.shop"), asker)
    client.recv(1000)


def dns_silent(lab: FaultLab) -> None:
    """A resolver that is asked twice and never answers."""
    client, server = lab.datagram_ends(Port.DNS_SILENT)
    for _ in range(2):
        client.send(dns.question(1, "cart.shop"))
        server.recv(1000)


FAULTS: Final[dict[Port, Callable[[FaultLab], dict[str, int] | None]]] = {
    Port.HEALTHY: healthy,
    Port.REFUSED: refused,
    Port.BLACKHOLED: blackholed,
    Port.LOSS_DOWN: loss_down,
    Port.LOSS_UP: loss_up,
    Port.SYN_LOST: syn_lost,
    Port.SYN_ACK_LOST: syn_ack_lost,
    Port.SLOW_SERVER: slow_server,
    Port.SLOWER_SERVER: slower_server,
    Port.SLOW_READER: slow_reader,
    Port.SERVER_RESETS: server_resets,
    Port.CLIENT_ABORTS: client_aborts,
    Port.ACCEPT_QUEUE_FULL: accept_queue_full,
    Port.ACCEPT_QUEUE_LATE: accept_queue_late,
    Port.PARTITION: partition,
    Port.SLOW_PATH: slow_path,
    Port.LARGE_LOST: large_lost,
    Port.DNS_LATE: dns_late,
    Port.DNS_SILENT: dns_silent,
}


def run_all(lab: FaultLab) -> dict[Port, Future[dict[str, int] | None]]:
    """Every fault at once; returns when all are over, and what each has found or how it failed."""
    with ThreadPoolExecutor(len(FAULTS)) as pool:
        return {port: pool.submit(fault, lab) for port, fault in FAULTS.items()}
