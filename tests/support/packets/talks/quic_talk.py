"""QUIC's Initial packets, sealed by `cryptography`: the hellos of OpenSSL in as many and as torn frames as one likes."""

from __future__ import annotations

import itertools
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hmac import HMAC
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.support.packets.pcap import Conversation
from tests.support.packets.talks.tls_talk import contexts, talk

V1, V2 = 1, 0x6B3343CF
SALTS = {V1: "38762cf7f55934b34d179ae6a4c80cadccbb7f0a", V2: "0dede3def700a6db819381be6e269dcbf9bd2ed9"}
FIRST_ID, CLIENT_ID, SERVER_ID = bytes.fromhex("8394c8f03e515708"), b"\xc1\x1e\x17\xd0", b"\xf0\x67\xa5\x50"
LEAST = 1200
"""Bytes of a datagram that holds a hello."""


def hellos(**how):
    """A client's and a server's, as messages: those of a connection of TLS 1.3 without their records."""
    made, _, _ = talk(*contexts(**how))
    payloads = [next(payload for _, who, payload in made.sent if who == sender) for sender in ("client", "server")]
    return [payload[5 : 5 + int.from_bytes(payload[3:5])] for payload in payloads]


def crypto(content, *places, behind=0):
    """CRYPTO frames that hold all of it, cut at these places; `behind` so much that was said before."""
    edges = sorted({0, len(content), *places})
    parts = itertools.pairwise(edges)
    return [b"\6" + variable(behind + begin) + variable(end - begin) + content[begin:end] for begin, end in parts]


def variable(number):
    """A number as QUIC writes it, in two bytes."""
    return (0x4000 | number).to_bytes(2)


def initial(frames, *, version=V1, keyed_by=FIRST_ID, client=CLIENT_ID, of_server=False, number=0, token=b""):
    """A datagram with one Initial packet, filled up with PADDING."""
    key, nonce, header_key = keys(version, keyed_by, of_server=of_server)
    first = (0xC0 if version == V1 else 0xD0) | 1
    ids = (client, SERVER_ID) if of_server else (keyed_by, client)
    header = bytes((first,)) + struct.pack(">I", version) + b"".join(bytes((len(each),)) + each for each in ids)
    header += variable(len(token)) + token
    content = b"".join(frames)
    content += bytes(max(LEAST - len(header) - 2 - 2 - len(content) - 16, 0))
    header += variable(2 + len(content) + 16) + number.to_bytes(2)
    sealed = AESGCM(key).encrypt((int.from_bytes(nonce) ^ number).to_bytes(12), content, header)
    mask = Cipher(algorithms.AES(header_key), modes.ECB()).encryptor().update(sealed[2:18])
    hidden = bytes(one ^ other for one, other in zip(header[-2:], mask[1:], strict=False))
    return bytes((header[0] ^ mask[0] & 0x0F,)) + header[1:-2] + hidden + sealed


def keys(version, connection, *, of_server=False):
    """An end's key, nonce and key of headers."""
    mixed = HMAC(bytes.fromhex(SALTS[version]), hashes.SHA256())
    mixed.update(connection)
    secret = expand(mixed.finalize(), "server in" if of_server else "client in", 32)
    name = "quic" if version == V1 else "quicv2"
    return [expand(secret, f"{name} {what}", size) for what, size in (("key", 16), ("iv", 12), ("hp", 16))]


def expand(secret, label, size):
    """HKDF-Expand-Label."""
    name = f"tls13 {label}".encode()
    return HKDFExpand(hashes.SHA256(), size, size.to_bytes(2) + bytes((len(name),)) + name + b"\0").derive(secret)


def conversation(*datagrams, port=40000):
    """Datagrams with their senders, 10 ms apart."""
    made = Conversation(client_port=port, server_port=443)
    for number, (sender, payload) in enumerate(datagrams):
        made.udp(0.010 * (number + 1), sender, payload)
    return made
