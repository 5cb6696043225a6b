"""Capture files as a source: what opens, what is refused, what a broken file still gives, and order."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest

import bpf
from proto.columns import Outcome, Reason
from services.capture.errors import CaptureError, CaptureFileError
from services.capture.flows.layout import State
from services.capture.flows.table import FlowTable
from services.capture.replay import library
from services.capture.replay.replaying import replay
from services.capture.replay.source import ReplaySource, Stop
from tests.support.packets import pcap
from tests.support.packets.pcap import SECOND, START, Conversation, Frame, ethernet, ip, udp, write
from tests.support.packets.replayed import replay_files, replay_frames


@pytest.fixture
def capture(tmp_path):
    """A capture of ten datagrams of one flow, one a second."""
    talk = Conversation()
    for second in range(10):
        talk.udp(second, "client", b"x")
    return write(tmp_path / "ten.pcap", talk.frames)


def datagrams(count, *, step=1000):
    """`count` frames of as many flows, `step` ns apart."""
    sources = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(count)]
    return [Frame(START + i * step, ethernet(ip(source, "10.200.0.1", 17, udp(1, 2)))) for i, source in enumerate(sources)]


@pytest.mark.parametrize("content", [b"", b"not a capture, whatever its name says", b"\xd4\xc3\xb2\xa1"])
def test_a_file_that_is_no_capture_is_refused_before_anything_is_read(tmp_path, capture, content):
    """The error names the file and says why; a good file before it is not begun."""
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(content)
    with pytest.raises(CaptureFileError) as caught:
        ReplaySource([capture, bad])
    assert caught.value.path == bad
    assert caught.value.detail
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.pcap", "."])
def test_a_path_that_is_no_file_is_refused(tmp_path, name):
    """A missing file and a folder give the same kind of error."""
    with pytest.raises(CaptureFileError):
        ReplaySource([tmp_path / name])


@pytest.mark.parametrize("lost", [1, 20, 45])
@pytest.mark.parametrize("make", [pcap.pcap_file, pcap.pcapng_file])
def test_a_capture_cut_in_the_middle_gives_what_it_holds(tmp_path, lost, make):
    """The packets before the cut count, `truncated_file` says that there was one, and the next file is read."""
    talk = Conversation()
    for second in range(3):
        talk.udp(second, "client", b"x")
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.write_bytes(make(talk.frames)[:-lost])
    whole.write_bytes(make(talk.frames))
    replayed = replay_files([cut, whole])
    assert replayed.counters["truncated_file"] == 1
    assert replayed.total("packets") == 5


def test_advance_stops_at_the_time_asked_for(capture):
    """Packets up to and including `until` are taken; the next one's time is told."""
    with ReplaySource([capture]) as source:
        assert source.advance(2**63).stop is Stop.END_OF_FILE
        assert source.open_next_file()
        ahead = source.advance(START + 3 * SECOND)
        assert (ahead.stop, ahead.next_unix_ns, source.packets) == (Stop.UNTIL, START + 4 * SECOND, 4)
        assert source.clock_unix_ns == START + 3 * SECOND
        assert source.advance(2**63, max_packets=2).stop is Stop.PACKETS
        assert source.packets == 6
        assert source.slots["tx_packets"][0] == 6
        assert source.advance(2**63).stop is Stop.END_OF_FILE
        assert not source.open_next_file()
        assert source.file_bytes_read == source.file_bytes_total == capture.stat().st_size


def test_a_closed_source_keeps_its_numbers(capture):
    """Counters and slots stay readable; calls that need the library fail in words."""
    source = ReplaySource([capture])
    source.open_next_file()
    source.advance(2**63)
    source.close()
    source.close()
    assert source.packets == 10
    assert source.slots["tx_packets"][0] == 10
    with pytest.raises(CaptureError, match="closed"):
        source.advance(0)


def test_a_retired_slot_gets_no_more_packets(capture):
    """After `retire` the same key begins another flow; after `release` the slot is empty."""
    with ReplaySource([capture]) as source:
        source.open_next_file()
        source.advance(START)
        source.retire(np.array([0], np.uint32))
        source.advance(START + SECOND)
        assert source.slots["tx_packets"][:2].tolist() == [1, 1]
        assert source.slots["id"][:2].tolist() == [1, 2]
        source.release(np.array([0, 0, 77, 2**31], np.uint32))
        assert (source.slots["id"][0], source.slots["state"][0], source.used_slots) == (0, State.FREE, 1)


def test_a_gap_ends_a_flow_before_the_packet_behind_it(tmp_path):
    """A datagram 120 s later is a new flow, however few packets lie between."""
    talk = Conversation().udp(0, "client", b"x").udp(120, "client", b"x")
    first, second = replay_frames(tmp_path, talk.frames).records
    assert (first["reason"], second["reason"]) == (Reason.IDLE_TIMEOUT, Reason.SHUTDOWN)
    assert second["flow_id"] == 2
    assert second["start_unix_ns"] == START + 120 * SECOND


def test_pieces_of_one_capture_go_on_in_the_same_flows(tmp_path):
    """Files of a rotated capture are one capture, in whatever order they are named."""
    talk = Conversation().udp(0, "client", b"x")
    later = Conversation().udp(5, "client", b"x")
    pieces = [write(tmp_path / "2", talk.frames), write(tmp_path / "1", later.frames), write(tmp_path / "0", [])]
    for order in (pieces, pieces[::-1]):
        assert replay_files(order).only["tx_packets"] == 2


def test_captures_of_the_same_time_are_two(tmp_path):
    """A file that begins before the one before it ends is another capture: the flows of the earlier end there."""
    one = Conversation().udp(0, "client", b"x").udp(9, "client", b"x")
    other = Conversation().udp(5, "client", b"x")
    pieces = [write(tmp_path / "1", one.frames), write(tmp_path / "2", other.frames)]
    for order in (pieces, pieces[::-1]):
        assert [record["tx_packets"] for record in replay_files(order).records] == [2, 1]


def test_the_look_at_the_table_is_at_what_lives(tmp_path):
    """After a burst of flows only the block of the one that lives is looked at; new ones take the lowest places."""
    later = [Frame(frame.time_ns + SECOND, frame.data) for frame in datagrams(30_000)[-500:]]
    with ReplaySource([write(tmp_path / "burst", datagrams(20_000, step=1) + later)], 1 << 15) as source:
        source.open_next_file()
        source.advance(START + 20_000)
        assert sum(len(slots) for _, slots in source.windows()) == source.high_slot == 20_000
        source.release(np.delete(np.arange(20_000, dtype=np.uint32), 15_000))
        assert [(first, len(slots)) for first, slots in source.windows()] == [(14 * 1024, 1024)]
        source.advance(2**63)
        assert [(first, len(slots)) for first, slots in source.windows()] == [(0, 1024), (14 * 1024, 1024)]
        assert source.used_slots == 501


def test_the_same_files_give_the_same_records(tmp_path):
    """Byte for byte, though the library's hash is seeded anew each time; flows come in the order of their ids."""
    frames = datagrams(3000, step=SECOND // 100)
    path = write(tmp_path / "many", frames)

    def run():
        chunks = []
        with ReplaySource([path], 4096) as source:
            table = FlowTable(source)
            for emission in replay(source, table):
                assert (np.diff(emission.columns["flow_id"].astype(np.int64)) > 0).all()
                chunks.append(b"".join(column.tobytes() for column in emission.columns.values()))
                table.accept(emission)
        return chunks

    assert run() == run()


def test_last_records_of_flows_come_together(tmp_path):
    """A connection a second, over within it: they are told some at a time, whole, and as they are told one by one."""
    frames = []
    for second in range(40):
        talk = Conversation(client_port=40_000 + second).handshake(second)
        talk.tcp(second + 0.02, "client", pcap.FIN | pcap.ACK, seq=1001, ack=5001)
        talk.tcp(second + 0.03, "server", pcap.FIN | pcap.ACK, seq=5001, ack=1002)
        frames += talk.frames
    path = write(tmp_path / "ends.pcap", frames)

    def told(*, at_once):
        with ReplaySource([path]) as source:
            table = FlowTable(source)
            emissions = []
            for emission in replay(source, table, at_once=at_once):
                emissions.append(emission.columns)
                table.accept(emission)
        columns = {name: np.concatenate([each[name] for each in emissions]) for name in emissions[0]}
        order = np.argsort(columns["flow_id"])
        return len(emissions), {name: column[order].tolist() for name, column in columns.items()}

    one_by_one, expected = told(at_once=True)
    together, found = told(at_once=False)
    assert found == expected
    assert len(found["flow_id"]) == 40
    assert 2 * together < one_by_one


def test_more_flows_than_slots_evict_the_longest_idle(tmp_path):
    """A table of 64 slots takes 5,000 flows of one moment and loses not a packet."""
    replayed = replay_frames(tmp_path, datagrams(5000), capacity=64)
    assert len(replayed.records) == replayed.total("packets") == 5000
    reasons = {record["reason"] for record in replayed.records}
    assert reasons == {Reason.TABLE_PRESSURE, Reason.SHUTDOWN}


@pytest.mark.parametrize("capacity", [1, 2, 3])
def test_the_smallest_tables_work(tmp_path, capacity):
    """Even where every flow evicts another."""
    assert replay_frames(tmp_path, datagrams(50), capacity=capacity).total("packets") == 50


def test_a_scan_is_one_flow_per_port_with_its_outcome(tmp_path):
    """A scan's thousands of attempts: refused where a RST came, timed out where nothing did."""
    frames = []
    for port in range(2000):
        talk = Conversation(server_port=port + 1).tcp(port / 1000, "client", pcap.SYN, seq=port)
        if port % 2:
            talk.tcp(port / 1000 + 0.0001, "server", pcap.RST | pcap.ACK, ack=port + 1)
        frames += talk.frames
    frames.append(Frame(START + 60 * SECOND, ethernet(bytes(28), ethertype=0x0806)))
    records = replay_frames(tmp_path, frames, capacity=4096).records
    outcomes = [record["outcome"] for record in records]
    assert (outcomes.count(Outcome.REFUSED), outcomes.count(Outcome.TIMEOUT)) == (1000, 1000)


@pytest.mark.parametrize("source", ["void replay_layout(unsigned long *sizes) { sizes[0] = 8; }", "int other;"])
def test_a_library_of_another_version_is_refused(tmp_path, monkeypatch, source):
    """It is said in one line, and nothing is read with the wrong eyes."""
    (tmp_path / "old.c").write_text(source)
    subprocess.run(["cc", "-shared", "-o", tmp_path / "old.so", tmp_path / "old.c"], check=True)
    monkeypatch.setattr(bpf, "REPLAY_LIBRARY", tmp_path / "old.so")
    library.library.cache_clear()
    try:
        with pytest.raises(CaptureError, match=r"of another version.*make setup"):
            ReplaySource([])
    finally:
        library.library.cache_clear()
