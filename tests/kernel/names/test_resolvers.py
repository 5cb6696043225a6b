"""Unbound, which asks dnsmasq over UDP or TCP: what the live tap tells of both is what Unbound's own log says it answered."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator

import dns.message
import pytest

from proto.columns import NAMES, NO_INDEX, RAW, Reason, Role
from proto.flow_batch import decode
from services.capture.flows.datagrams import DatagramRules
from services.capture.live.reader import LiveOptions, LiveReader
from services.capture.live.tap.socket_tap import TapRules
from services.capture.names.question_records import QuestionRules
from tests.support.node import dnsmasq
from tests.support.node.live_capture import reason_to_skip, wait_until
from tests.support.node.lossy_path import captured
from tests.support.node.namespaces import Network, Pod
from tests.support.packets.oracle.tshark_names import of_tshark, of_wirespan_by_question

pytestmark = [
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
    pytest.mark.skipif(shutil.which("unbound") is None, reason="unbound is not installed (apt-get install unbound)"),
    pytest.mark.skipif(shutil.which("dnsmasq") is None, reason="dnsmasq is not installed (apt-get install dnsmasq-base)"),
]
MISSING = [name for name in ("tshark", "dumpcap") if shutil.which(name) is None]
"""What the capture is made and read with."""
CLIENT, RESOLVER, AUTHORITY = "10.46.0.12", "10.46.0.13", "10.46.0.14"
ASKED = [("cart.shop.example", "A"), ("www.shop.example", "A"), ("Nobody.shop.example", "AAAA"), ("long.shop.example", "TXT")]
CODES = {"NOERROR": 0, "SERVFAIL": 2, "NXDOMAIN": 3}
SETTINGS = """server:
  interface: 0.0.0.0
  access-control: 0.0.0.0/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  log-replies: yes
  module-config: "iterator"
  do-not-query-localhost: no
  tcp-upstream: {over_tcp}
remote-control:
  control-enable: no
forward-zone:
  name: "shop.example"
  forward-addr: {authority}
forward-zone:
  name: "broken.example"
  forward-addr: {authority}
"""


@pytest.fixture(scope="module")
def pods() -> Iterator[list[Pod]]:
    """A client, a resolver, and whom the resolver asks."""
    with Network() as network:
        node = network.node("resolve", "10.46.0.1/24")
        yield [node.pod(f"r{number}", f"{address}/24") for number, address in enumerate((CLIENT, RESOLVER, AUTHORITY))]


@pytest.fixture(scope="module", autouse=True)
def authority(pods) -> Iterator[None]:
    """A dnsmasq that knows the shop, and refuses what is asked of others."""
    command = [*dnsmasq.COMMAND]
    command += ["--address=/cart.shop.example/192.0.2.1", "--local=/shop.example/"]
    command += ["--host-record=cart.shop.example,192.0.2.1", "--cname=www.shop.example,cart.shop.example"]
    command += [f"--txt-record=long.shop.example,{number}{'x' * 250}" for number in range(8)]
    process = pods[2].namespace.spawn(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: ask(pods[1], AUTHORITY, "cart.shop.example", "A") is not None)
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def live() -> Iterator[LiveReader]:
    """Capture as it runs, with a record for every question."""
    options = LiveOptions(
        capacity=4096, names="dns", datagrams=DatagramRules(dns_ports=(53,), rest_seconds=0),
        rules=TapRules(allow_networks=("10.46.0.0/24",)), questions=QuestionRules(spans="all"),
    )  # fmt: skip
    with LiveReader(node="n", epoch="e", options=options, leave_out_own=False) as reader:
        yield reader


def ask(pod: Pod, server: str, name: str, kind: str, patience=0.2):
    """The answer; None where none comes."""
    with pod.namespace.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(patience)
        client.sendto(dns.message.make_query(name, kind, use_edns=0, payload=4096).to_wire(), (server, 53))
        try:
            return dns.message.from_wire(client.recv(65535))
        except OSError:
            return None


def questions(reader: LiveReader) -> Counter:
    """Who told what: role, the other end's address and port, transport, name, type, code, and records in the answer."""
    found: Counter = Counter()
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            decoded = decode(message.message)
            for row in range(decoded.count):
                values = {column.name: decoded.column(column.name)[row].tolist() for column in RAW + NAMES}
                if values["reason"] == Reason.EXCHANGE and values["dns_first_name"] != NO_INDEX:
                    local, remote = (
                        socket.inet_ntop(socket.AF_INET6, bytes(values[f"{end}_address"])) for end in ("local", "remote")
                    )
                    name = decoded.names[values["dns_first_name"]]
                    told = (name, values["dns_first_type"], values["dns_first_code"], values["dns_first_answers"])
                    found[Role(values["role"]), local[7:], remote[7:], values["transport"], *told] += 1
        reader.accept(batch)
    return found


@pytest.mark.parametrize("over_tcp", [False, True], ids=["UDP", "TCP"])
def test_all_ends_tell_what_the_resolver_says_that_it_answered(live, pods, tmp_path, over_tcp) -> None:
    """The client, the resolver on both its sides, and whom it asks: names, types, codes and numbers of records."""
    settings = tmp_path / "unbound.conf"
    settings.write_text(SETTINGS.format(folder=tmp_path, authority=AUTHORITY, over_tcp="yes" if over_tcp else "no"))
    capture = contextlib.nullcontext() if MISSING else captured(pods[1].namespace, tmp_path / "dns.pcapng", "port 53")
    process = pods[1].namespace.spawn(["unbound", "-d", "-c", str(settings)], stderr=subprocess.PIPE)
    try:
        wait_until(lambda: ask(pods[1], RESOLVER, "ready.invalid", "A") is not None)
        with capture:
            answers = [ask(pods[0], RESOLVER, name, kind, 20) for name, kind in [*ASKED, ("db.broken.example", "A")]]
    finally:
        process.terminate()
        log = process.communicate()[1].decode()
    said = re.findall(rf"{CLIENT} (\S+)\. (\S+) IN (\S+)", log)
    assert [(name.lower(), code) for name, _, code in said] == [
        ("cart.shop.example", "NOERROR"), ("www.shop.example", "NOERROR"), ("nobody.shop.example", "NXDOMAIN"),
        ("long.shop.example", "NOERROR"), ("db.broken.example", "SERVFAIL"),
    ]  # fmt: skip
    found = questions(live)
    records = [sum(len(each) for each in answer.answer) for answer in answers]
    told = {
        (name.lower(), {"A": 1, "AAAA": 28, "TXT": 16}[kind], CODES[code], count)
        for (name, kind, code), count in zip(said, records, strict=True)
    }
    for role, local, remote in ((Role.CLIENT, CLIENT, RESOLVER), (Role.SERVER, RESOLVER, CLIENT)):
        assert {each[4:] for each in found if each[:4] == (role, local, remote, 17)} == told
    transports = {6} if over_tcp else {6, 17}  # what does not fit into a datagram is asked for once more
    asked = [
        {each[4:] for each in found if each[:3] == (role, *ends) and each[3] in transports}
        for role, *ends in ((Role.CLIENT, RESOLVER, AUTHORITY), (Role.SERVER, AUTHORITY, RESOLVER))
    ]
    assert asked[0] >= {each for each in told if each[2] != CODES["SERVFAIL"] and each[0] != "www.shop.example"}
    assert asked[1] == asked[0]
    if not MISSING:
        replayed = of_wirespan_by_question(tmp_path / "dns.pcapng")
        assert replayed == of_tshark(tmp_path / "dns.pcapng")[1] + of_tshark(tmp_path / "dns.pcapng", "tcp")[1]
        assert {each[:4] for each in replayed} <= {each[4:] for each in found}
    assert live.counters["pieces_lost_dns"] == live.counters["pieces_lost_dns_tcp"] == live.counters["pieces_unreadable"] == 0
