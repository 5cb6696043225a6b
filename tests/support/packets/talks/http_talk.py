"""HTTP/1 over one connection, segment by segment, and the exchanges that replay tells of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from services.capture.flows.timing import FlowTableSettings
from tests.support.packets.pcap import ACK, PSH, SECOND, START, Conversation
from tests.support.packets.replayed import Replayed, replay_frames

if TYPE_CHECKING:
    from pathlib import Path

PARENTS = [bytes([number] * 8) for number in range(1, 5)]
TIMES = ("request_first", "request_last", "response_first", "response_last")
_OTHER = {"client": "server", "server": "client"}


def traceparent(number: int, flags: str = "01") -> str:
    """The header of a request whose caller is span PARENTS[number]."""
    return f"traceparent: 00-{'ab' * 16}-{PARENTS[number].hex()}-{flags}"


def request(number: int, flags: str = "01", size: int = 200, line: str = "POST /cart HTTP/1.1") -> bytes:
    """The beginning of a request of `size` bytes whose caller is span PARENTS[number]."""
    return f"{line}\r\n{traceparent(number, flags)}\r\n\r\n".encode().ljust(size, b".")


def reply(size: int = 80, status: str = "200 OK") -> bytes:
    """A response, or its beginning, of `size` bytes."""
    return f"HTTP/1.1 {status}\r\nServer: x\r\n\r\n".encode().ljust(size, b".")


class Talk(Conversation):
    """A connection that keeps track of its sequence numbers."""

    def __init__(self, **ends: Any) -> None:
        super().__init__(**ends)
        self.handshake()
        self.at = {"client": 1001, "server": 5001}

    def say(self, seconds: float, sender: str, payload: bytes, flags: int = PSH | ACK, *, lost: bool = False) -> Talk:
        """Send payload that was not sent before; it does not come by here if it is `lost`."""
        if not lost:
            self.tcp(seconds, sender, flags, seq=self.at[sender], ack=self.at[_OTHER[sender]], payload=payload)
        self.at[sender] += len(payload)
        return self

    def ask(self, seconds: float, payload: bytes) -> Talk:
        """The client says something."""
        return self.say(seconds, "client", payload)

    def answer(self, seconds: float, payload: bytes) -> Talk:
        """The server does."""
        return self.say(seconds, "server", payload)

    def again(self, seconds: float, sender: str, payload: bytes, *, before: int = 0) -> Talk:
        """Send payload again, whose last byte lies `before` bytes below the highest."""
        sequence = self.at[sender] - before - len(payload)
        self.tcp(seconds, sender, PSH | ACK, seq=sequence, ack=self.at[_OTHER[sender]], payload=payload)
        return self

    def acknowledge(self, seconds: float, sender: str) -> Talk:
        """Acknowledge everything the other end has said."""
        return self.say(seconds, sender, b"", ACK)

    def end(self, seconds: float, sender: str, flags: int) -> Talk:
        """Send a segment without payload whose `flags` say that something ends."""
        self.tcp(seconds, sender, flags, seq=self.at[sender], ack=self.at[_OTHER[sender]])
        return self

    def pass_time(self, seconds: float) -> Talk:
        """Another connection's packet is seen, so that the capture's clock goes on."""
        frame = self.frames[0]
        self.frames.append(type(frame)(START + round(seconds * SECOND), frame.data.replace(b"\x9c\x40", b"\x9c\x41", 1)))
        return self


def told(folder: Path, talk: Conversation, **settings: Any) -> tuple[list[dict[str, Any]], Replayed]:
    """The exchanges of a connection, and the replay they come from."""
    replayed = replay_frames(folder, talk.frames, trace_context=True, settings=FlowTableSettings(**settings))
    return replayed.exchanges, replayed


def seconds(exchange: dict[str, Any]) -> list[float | None]:
    """Its four times in seconds after START, None where there is none."""
    times = (exchange[f"{name}_unix_ns"] for name in TIMES)
    return [round((time - START) / SECOND, 3) if time else None for time in times]


def counted(replayed: Replayed) -> dict[str, int]:
    """What became of requests and connections, where it is not 0."""
    found = {name: number for name, number in replayed.counters.items() if name.startswith(("requests_", "connections_"))}
    return {name: number for name, number in found.items() if number}
