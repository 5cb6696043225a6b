"""How far our records agree with tshark's tcp.analysis: `make accuracy` writes docs/accuracy.md.

The captures are the files of the folder that WIRESPAN_PCAPS names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.support.meeting import curve
from tests.support.packets.oracle import tshark_names, tshark_quic, tshark_tls
from tests.support.packets.oracle.tshark import Conversation, Key, of_tshark, of_wirespan

DOCUMENT: Final = Path(__file__).parents[4] / "docs" / "accuracy.md"
OUTSIDE: Final = {
    "icmp-tunnel.pcap": "no TCP but in ICMP",
    "fuzz-2006-06-26-2594.pcap": "broken headers",
    "ip_fragmented_garbage.pcap": "broken headers",
}
"""Files that are not compared, and why: tshark guesses on where headers contradict."""
RTT_TOLERANCE_NS: Final = 1000


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One measure of one conversation on which the two differ."""

    measure: str
    reason: str
    """Empty where none is known."""
    frame: int | None
    """A frame of the file that shows it."""


@dataclass(slots=True)
class FileAccuracy:
    """What comparing one capture came to."""

    name: str
    conversations: int = 0
    agreeing: dict[str, int] = field(default_factory=dict)
    """Conversations that agree, by measure."""
    events: dict[str, tuple[int, int]] = field(default_factory=dict)
    """What tshark and we counted in the whole file, by measure."""
    disagreements: list[Disagreement] = field(default_factory=list)


def _equal(name: str) -> Callable[[Conversation, Conversation], bool]:
    return lambda theirs, ours: bool(getattr(theirs, name) == getattr(ours, name))


def _same_rtts(theirs: Conversation, ours: Conversation) -> bool:
    left, right = sorted(theirs.initial_rtts_ns), sorted(ours.initial_rtts_ns)
    return len(left) == len(right) and all(abs(a - b) <= RTT_TOLERANCE_NS for a, b in zip(left, right, strict=True))


MEASURES: Final[dict[str, Callable[[Conversation, Conversation], bool]]] = {
    "packets and bytes": _equal("sent"),
    "retransmissions": _equal("retransmits"),
    "out of order": _equal("out_of_order"),
    "zero windows": _equal("zero_windows"),
    "window full": _equal("window_full"),
    "keep-alives": _equal("keep_alives"),
    "duplicate ACKs": _equal("duplicate_acks"),
    "SYN outcome": lambda theirs, ours: sorted(theirs.outcomes) == sorted(ours.outcomes),
    "SYN repeats": _equal("syn_repeats"),
    "initial RTT": _same_rtts,
}
"""What is compared of each conversation."""
_COUNTED: Final = {
    "retransmissions": "retransmits",
    "out of order": "out_of_order",
    "zero windows": "zero_windows",
    "window full": "window_full",
    "keep-alives": "keep_alives",
    "duplicate ACKs": "duplicate_acks",
    "SYN repeats": "syn_repeats",
}


def captures(folder: Path) -> list[Path]:
    """The folder's files that are compared."""
    return sorted(path for path in folder.iterdir() if path.suffix in {".pcap", ".pcapng", ".cap"} and path.name not in OUTSIDE)


def compare(tshark: str, path: Path) -> FileAccuracy:
    """Both readers over one file."""
    theirs, ours = of_tshark(tshark, path), of_wirespan(path)
    found = FileAccuracy(path.name, agreeing=dict.fromkeys(MEASURES, 0))
    for key in sorted(theirs.keys() | ours.keys(), key=sorted):
        found.conversations += 1
        left, right = theirs.get(key, Conversation()), ours.get(key, Conversation())
        for measure, agree in MEASURES.items():
            if agree(left, right):
                found.agreeing[measure] += 1
            else:
                found.disagreements.append(_explain(measure, left, right))
    for measure, name in _COUNTED.items():
        found.events[measure] = _total(theirs, name), _total(ours, name)
    return found


def _total(conversations: dict[Key, Conversation], name: str) -> int:
    return sum(getattr(conversation, name) for conversation in conversations.values())


def _explain(measure: str, theirs: Conversation, ours: Conversation) -> Disagreement:
    """Name the class that a disagreement belongs to."""
    frames = theirs.frames.get(_COUNTED.get(measure, ""), [])
    reason = ""
    if measure == "duplicate ACKs" and theirs.duplicate_acks > ours.duplicate_acks:
        reason = (
            "tshark counts an ACK that repeats the last one although nothing is outstanding (the answer to a segment sent in "
            "vain, an ACK behind a FIN, a pure ACK amid data, a packet captured twice); RFC 5681 asks for outstanding data, "
            "and so do we"
        )
    elif measure == "keep-alives" and _asked(theirs) == _asked(ours):
        reason = "tshark takes Linux's question whether a closed window has room for a keep-alive; we count it as what it is"
    elif measure == "initial RTT":
        frames = [frame for frame in theirs.first_frames if frame]
        if theirs.outcomes == ["refused"] and not ours.initial_rtts_ns:
            reason = "tshark times a refusal, SYN to RST; we have no round trip without a SYN-ACK"
        elif "answered" not in theirs.outcomes and not ours.initial_rtts_ns:
            reason = "tshark times SYN to ACK although the SYN-ACK is not in the capture; we do not date such a handshake"
        elif theirs.syn_repeats:
            reason = (
                "the SYN was sent twice: tshark times from the last one, we from the first, for the caller has waited since"
            )
    return Disagreement(measure, reason, frames[-1] if frames else None)


def _asked(conversation: Conversation) -> int:
    return conversation.keep_alives + conversation.zero_window_probes


def results() -> list[FileAccuracy]:
    """Every file of the folder. Raises SystemExit where folder or tshark is missing."""
    folder, tshark = os.environ.get("WIRESPAN_PCAPS"), shutil.which("tshark")
    if not folder or not tshark:
        sys.exit("set WIRESPAN_PCAPS to a folder of captures, and install tshark")
    return [found for found in (compare(tshark, path) for path in captures(Path(folder))) if found.conversations]


def markdown(found: list[FileAccuracy], version: str, names: str) -> str:
    """Return docs/accuracy.md; `names` are its sections of names and TLS handshakes."""
    return "".join(_lines(found, version, names))


def _lines(found: list[FileAccuracy], version: str, names: str) -> Iterator[str]:
    yield f"""\
# Accuracy

What a capture's records say of its TCP conversations, beside what {version} says of the same file. `make accuracy` makes this
document anew from the captures in the folder that WIRESPAN_PCAPS names, and a test holds the figures.

Both read every packet by themselves. Compared are, per conversation: packets and IP bytes of each direction; segments that were
sent again and segments that were overtaken, each by its own count; segments that close or fill a window; keep-alives; duplicate
ACKs; how the SYN was answered and how often it was repeated; and the initial round trip, within 1 us. tshark counts SYNs and
FINs that were sent again among its retransmissions; here they have counts of their own, so only segments with payload are
compared there.

## Conversations that agree

| capture | conversations | {" | ".join(MEASURES)} |
|---|---|{"---|" * len(MEASURES)}
"""
    for file in found:
        shares = " | ".join(str(file.agreeing[measure]) for measure in MEASURES)
        yield f"| {file.name} | {file.conversations} | {shares} |\n"
    conversations = sum(file.conversations for file in found)
    agreeing = {measure: sum(file.agreeing[measure] for file in found) for measure in MEASURES}
    shares = " | ".join(f"{count} ({100 * count / conversations:.2f} %)" for count in agreeing.values())
    yield f"| **all** | {conversations} | {shares} |\n"
    yield "\n## Events\n\nWhat both counted over all files.\n\n| | tshark | Wirespan |\n|---|---|---|\n"
    for measure in _COUNTED:
        theirs, ours = (sum(file.events[measure][side] for file in found) for side in (0, 1))
        yield f"| {measure} | {theirs} | {ours} |\n"
    yield """
These captures hold few losses, so they say little of late segments. `tests/kernel/faults/test_accuracy_under_loss.py` therefore
sends real connections through a router that loses 3 % of the packets and captures on both sides of it: more than a hundred
retransmissions a run, held to the same reach.

Both tell late segments apart by Wireshark's rules, which have to do with any capture point, and which call overtaken
segments retransmissions where two duplicate ACKs came first. A receiver's socket knows better, and says so live. Over a
path of 40 ms that held every twentieth full segment back for 5 ms and lost nothing, the sender sent 6 segments again; the
receiver's socket said 6 sent again and 83 overtaken, tshark on the receiver's capture 47 and 40. Where 3 % were lost and
nothing was reordered, 57 were sent again; the socket said 57 and 0, tshark 29 and 25
(`tests/kernel/faults/test_path_measures.py` holds the socket to it).
"""
    yield "\n## Where they disagree, and why\n\n| measure | conversations | why | for example |\n|---|---|---|---|\n"
    classes: dict[tuple[str, str], list[str]] = {}
    for file in found:
        for one in file.disagreements:
            place = f"{file.name}, packet {one.frame}" if one.frame else file.name
            classes.setdefault((one.measure, one.reason), []).append(place)
    for (measure, reason), places in sorted(classes.items()):
        yield f"| {measure} | {len(places)} | {reason or 'not known'} | {places[0]} |\n"
    yield names
    yield "\n## What is not compared\n\n| capture | why |\n|---|---|\n"
    for name, why in OUTSIDE.items():
        yield f"| {name} | {why} |\n"


def main() -> None:
    """Write the document."""
    found = results()
    paths = captures(Path(os.environ["WIRESPAN_PCAPS"]))
    compared = [*tshark_names.accuracy(paths), *tshark_tls.accuracy(paths), *tshark_quic.accuracy(paths)]
    names = "".join([*compared, *(f"\n{line}" for line in curve.section())])
    first = subprocess.run(["tshark", "-v"], check=True, capture_output=True, text=True).stdout.split("\n", 1)[0]
    DOCUMENT.write_text(markdown(found, f"tshark {first.split()[2]}", names))
    sys.stdout.write(f"{DOCUMENT.name}: {sum(file.conversations for file in found)} conversations\n")


if __name__ == "__main__":
    main()
