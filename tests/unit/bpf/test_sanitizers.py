"""The C of replay under AddressSanitizer and UndefinedBehaviorSanitizer, over captures whole, cut and mutated."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

import bpf
from tests.support.packets import pcap
from tests.support.packets.pcap import ACK, FIN, RST, SYN, Conversation, Frame, ethernet, icmp, ip, link, tcp, udp

SEED = 20_240_229
MUTATIONS = 400
FLAGS = ["-std=gnu11", "-g", "-O1", "-Wall", "-Wextra", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module")
def checker(tmp_path_factory):
    """The checking program, built with sanitizers."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler `cc`")
    program = tmp_path_factory.mktemp("sanitized") / "replay_check"
    source = Path(__file__).with_name("replay_check.c")
    command = [compiler, *FLAGS, f"-I{bpf.SOURCE_DIRECTORY}", "-o", program, source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip("the compiler has no sanitizer libraries")
    assert built.returncode == 0, built.stderr
    assert not built.stderr
    return program


def run(checker, files):
    """Run the checker over files; returns how many had packets."""
    result = subprocess.run([checker, *files], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]
    return int(result.stdout)


def seeds():
    """Captures that reach every part of the parser."""
    talk = Conversation().handshake().tcp(1, "client", ACK, seq=1001, ack=5001, payload=b"abc")
    talk.tcp(1, "client", ACK, seq=1001, ack=5001, payload=b"abc").tcp(1.2, "server", ACK, seq=5001, ack=1004, payload=b"x")
    talk.tcp(2, "server", FIN | ACK, seq=5002).tcp(2, "client", RST, seq=1004).handshake(3, client_isn=77)
    six = Conversation("2001:db8::1", "2001:db8::2").handshake().icmp(1, "client", icmp(128, identifier=2))
    chain = bytes([43, 0]) + bytes(6) + bytes([44, 1]) + bytes(14) + struct.pack("!BBHI", 17, 0, 1, 9)
    v6 = ("2001:db8::1", "2001:db8::2")
    odd = [
        ethernet(ip("10.0.0.1", "10.0.0.2", 17, udp(1, 2, bytes(16)), fragment=0x2000, identification=9)),
        ethernet(ip("10.0.0.1", "10.0.0.2", 17, bytes(16), fragment=2, identification=9)),
        ethernet(ip(*v6, 0, udp(5, 6, b"data"), extensions=chain)),
        ethernet(ip("10.0.0.1", "10.0.0.2", 6, tcp(1, 2, SYN, options=bytes(20)), options=bytes(8)), tags=(0x88A8, 0x8100)),
        ethernet(struct.pack("!BBHHH", 0x11, 0, 1, 50, 0x57) + ip(*v6, 132, bytes(20)), ethertype=0x8864),
        ethernet(bytes(28), ethertype=0x0806),
    ]
    frames = talk.frames + six.frames + [Frame(pcap.START + i, data) for i, data in enumerate(odd)]
    yield pcap.pcap_file(frames)
    yield pcap.pcapng_file(frames, order=">")
    yield pcap.pcapng_file(frames, interfaces=[pcap.Interface(resolution=0x89, offset=-5)]) + pcap.pcapng_file(frames, kind=3)
    for link_type in pcap.LINK_TYPES[1:]:
        yield pcap.pcap_file([Frame(f.time_ns, link(link_type, f.data[14:])) for f in frames[:20]], link_type=link_type)


def mutated(random_, data):
    """Flip, overwrite, cut or double some bytes, mostly past the file's header."""
    data = bytearray(data)
    for _ in range(random_.randrange(1, 12)):
        at = random_.randrange(0 if random_.random() < 0.1 else 24, len(data))
        kind = random_.randrange(4)
        if kind == 0:
            data[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            data[at : at + 2] = random_.choice([b"\xff\xff", b"\0\0", b"\x7f\xff", b"\x08\0", b"\x45\0"])
        elif kind == 2 and len(data) > 100:
            del data[at : at + random_.randrange(1, 9)]
        else:
            data[at:at] = data[at : at + random_.randrange(1, 40)]
    return bytes(data)


def test_generated_and_mutated_captures(checker, tmp_path):
    """No overflow, no undefined behaviour, and every packet counted, whatever is in the file."""
    random_ = random.Random(SEED)
    whole = list(seeds())
    files = []
    for number, data in enumerate(whole + [mutated(random_, random_.choice(whole)) for _ in range(MUTATIONS)]):
        files.append(tmp_path / f"{number}.pcap")
        files[-1].write_bytes(data)
    assert run(checker, files[: len(whole)]) == len(whole)
    assert run(checker, files) > MUTATIONS // 4


def test_real_captures(checker):
    """The same over the captures named by WIRESPAN_PCAPS."""
    folder = os.environ.get("WIRESPAN_PCAPS")
    if not folder:
        pytest.skip("WIRESPAN_PCAPS names no folder of captures")
    files = sorted(path for path in Path(folder).iterdir() if path.is_file())
    assert run(checker, files) > 0
