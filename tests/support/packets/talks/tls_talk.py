"""TLS conversations in capture files: real handshakes of OpenSSL, made in memory, cut into segments as a network would."""

from __future__ import annotations

import contextlib
import functools
import ssl
import tempfile
from pathlib import Path

from tests.support.certificates import make_certificates
from tests.support.packets.pcap import ACK, FIN, PSH, Conversation

CLIENT_ISN, SERVER_ISN = 1000, 5000


@functools.cache
def certificates():
    """Of a server called shop.example, in a folder that is gone when the tests are."""
    folder = tempfile.TemporaryDirectory(prefix="wirespan-tls-")
    made = make_certificates(Path(folder.name), name="shop.example")
    return made, folder


def contexts(version=ssl.TLSVersion.TLSv1_3, *, trusted=True, protocols=(), chosen=(), ciphers=None):
    """A client's and a server's."""
    made, _ = certificates()
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(made.server_certificate, made.server_key)
    if trusted:
        client.load_verify_locations(made.authority)
    for context, offered in ((client, protocols), (server, chosen)):
        context.minimum_version = context.maximum_version = version
        if offered:
            context.set_alpn_protocols(list(offered))
    if ciphers:
        client.set_ciphers(ciphers)
    return client, server


class TlsTalk(Conversation):
    """One connection, whose handshake is at the same times whatever is in it: 10 ms a flight."""

    def __init__(self, port=40000, *, segment=1400, client="10.0.0.1"):
        super().__init__(client=client, client_port=port, server_port=8443)
        self._segment = segment
        self._next = {"client": CLIENT_ISN + 1, "server": SERVER_ISN + 1}
        self.seconds = 0.010
        self.sent = []
        """Seconds, sender and payload of each segment."""
        self.handshake()

    def say(self, sender, payload):
        """Send what is cut into segments."""
        other = "server" if sender == "client" else "client"
        for begin in range(0, len(payload), self._segment):
            part = payload[begin : begin + self._segment]
            self.seconds += 0.0001
            self.sent.append((self.seconds, sender, part))
            self.tcp(self.seconds, sender, PSH | ACK, seq=self._next[sender], ack=self._next[other], payload=part)
            self._next[sender] += len(part)

    def close(self):
        """FIN from both ends."""
        for sender, other in (("client", "server"), ("server", "client")):
            self.seconds += 0.001
            self.tcp(self.seconds, sender, FIN | ACK, seq=self._next[sender], ack=self._next[other])
            self._next[sender] += 1


def talk(client, server, *, name="shop.example", port=40000, segment=1400, session=None, say=True, before=()):
    """A whole connection; with what the client's end was in the end: its version, cipher and session, or what it failed by.

    `before` are pairs of sender and payload: what is said in the clear first.
    """
    made = TlsTalk(port, segment=segment)
    for sender, payload in before:
        made.seconds += 0.010
        made.say(sender, payload)
    bios = {end: (ssl.MemoryBIO(), ssl.MemoryBIO()) for end in ("client", "server")}
    ends = {
        "client": client.wrap_bio(*bios["client"], server_hostname=name, session=session),
        "server": server.wrap_bio(*bios["server"], server_side=True),
    }
    done, failed = set(), None
    for sender in ("client", "server") * 4:
        try:
            ends[sender].do_handshake()
            done.add(sender)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            failed = failed or error
        _pass_on(made, bios, sender)
    if not failed and say:
        for sender in ("client", "server"):
            ends[sender].write(sender.encode() * 10)
            _pass_on(made, bios, sender)
            with contextlib.suppress(ssl.SSLWantReadError):
                ends["server" if sender == "client" else "client"].read(1000)
    made.close()
    return made, ends["client"], failed


def _pass_on(made, bios, sender):
    written = bios[sender][1].read()
    if written:
        made.seconds += 0.010
        made.say(sender, written)
        bios["server" if sender == "client" else "client"][0].write(written)
