"""What happened on a connection, in order: one line for each thing that took time or went wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from services.cli.explain.connections import Connection, Record
from services.cli.views import units

_ENDINGS = {"source": "by the client", "destination": "by the server"}


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened, so long after the connection began; None: all along."""

    after_ns: int | None
    text: str


def story(connection: Connection) -> list[Step]:
    """Return what happened, in order. What the client saw goes first, since it is the client who waits."""
    record = connection.told
    if record.view.exchange is not None:
        return list(_request(connection))
    steps = list(_connecting(connection))
    steps += _tls(record)
    steps += _answers(connection)
    steps += _lookups(record)
    steps += _losses(connection)
    steps += _ending(record)
    return steps


def _request(connection: Connection) -> Iterator[Step]:
    client = connection.told
    exchange = client.view.exchange
    assert exchange is not None  # noqa: S101 - asked for by who knows
    again = units.counted(client.view.retransmits, "segment") + " sent again" if client.view.retransmits else "no loss"
    if exchange.is_part:
        yield Step(None, "what the connection did meanwhile, which other requests share")
        yield Step(None, again)
        return
    name = client.row.get("http_method")
    yield Step(
        0, f"request{f' ({str(name).upper()})' if name and name != 'unknown' else ''}, sent within {_time(exchange.request_ns)}"
    )
    if exchange.wait_ns is None:
        yield Step(exchange.request_ns, f"no answer ({exchange.end})")
        return
    server = connection.of_server.view.exchange if connection.of_server and connection.client else None
    share = _share(exchange.wait_ns, server.wait_ns) if server and server.wait_ns is not None else ""
    answered = exchange.request_ns + exchange.wait_ns
    yield Step(answered, f"answered after {_time(exchange.wait_ns)}{share}")
    status = client.row.get("http_status")
    took = exchange.response_ns or 0
    yield Step(answered + took, f"the answer{f' ({status})' if status else ''} took {_time(took)} to arrive")
    yield Step(None, again)


def _connecting(connection: Connection) -> Iterator[Step]:
    record = next((one for one in connection.client if one.view.first), connection.told)
    view = record.view
    if view.transport != "tcp" or not view.first:
        return
    syns = f"{view.syn_repeats + 1} SYNs" if view.syn_repeats else "a SYN"
    took = view.end_unix_ns - record.row["start_unix_ns"]
    if view.outcome == "refused":
        yield Step(took, "refused: a RST was the answer")
    elif view.outcome == "timeout" or (view.connect_ns is None and not record.of_server("packets_total")):
        yield Step(took, f"{syns} in {_time(took)}, and no answer{_arrived(connection)}")
    elif view.connect_ns is not None:
        yield Step(view.connect_ns, f"connected in {_time(view.connect_ns)}{f', after {syns}' if view.syn_repeats else ''}")


def _arrived(connection: Connection) -> str:
    """What the server's end says of SYNs without an answer."""
    server = connection.of_server
    if server is None or not connection.client:
        return ""
    return f"; {units.counted(server.view.syn_repeats + 1, 'SYN')} arrived at the server's socket"


def _tls(record: Record) -> Iterator[Step]:
    took = record.row.get("tls_handshake_time_ns") or 0
    if took:
        name = record.row.get("tls_server_name")
        yield Step((record.view.connect_ns or 0) + took, f"TLS{f' to {name}' if name else ''} in {_time(took)}")


def _answers(connection: Connection) -> Iterator[Step]:
    record = connection.told
    view = record.view
    if view.responses:
        server = connection.of_server if connection.client else None
        share = _share(view.response_max_ns, server.view.response_max_ns) if server and server.view.responses else ""
        what = "1 request answered" if view.responses == 1 else f"{units.count(view.responses)} requests answered, the slowest"
        yield Step(None, f"{what} after {_time(view.response_max_ns)}{share}")
    waiting = int(record.row["request_waits"])
    if waiting and view.outcome not in {"timeout", "refused"}:
        yield Step(None, f"{units.counted(waiting, 'request')} without an answer")


def _share(client_ns: int, server_ns: int) -> str:
    """Of what the client waited, what the server took; all else is the path's."""
    if server_ns > client_ns:
        return f": the server took {_time(server_ns)}"
    return f": the server took {_time(server_ns)} of it, the path {_time(client_ns - server_ns)}"


def _lookups(record: Record) -> Iterator[Step]:
    for lookup in record.view.lookups:
        took = f" in {_time(lookup.time_ns)}" if lookup.time_ns else ""
        again = f", asked {lookup.repeats + 1} times" if lookup.repeats else ""
        yield Step(None, f"{lookup.type} {lookup.name}: {lookup.code}{took}{again}")


def _losses(connection: Connection) -> Iterator[Step]:
    if connection.told.view.transport != "tcp" or connection.told.view.outcome in {"timeout", "refused"}:
        return
    lossless = not connection.told.view.syn_repeats
    for who, to, sender, receiver in (
        ("client", "server", connection.client, connection.server),
        ("server", "client", connection.server, connection.client),
    ):
        of = Record.of_client if who == "client" else Record.of_server
        told = sender or receiver
        again = sum(of(record, "retransmits") - of(record, "spurious_retransmits") for record in told)
        if again > 0:
            lossless = False
            of_all = sum(of(record, "packets") for record in told)
            yield Step(
                None, f"{again} of {units.counted(of_all, 'segment')} to the {to} sent again{_missing(who, sender, receiver)}"
            )
        other = Record.of_server if who == "client" else Record.of_client
        if any(other(record, "zero_window_probes") for record in told):
            times = sum(of(record, "zero_windows") for record in told)
            yield Step(None, f"the {who} closed its window {units.counted(times, 'time')}: it did not read")
    if lossless:
        yield Step(None, "no loss")


def _missing(who: str, sender: list[Record], receiver: list[Record]) -> str:
    """What the sender sent and the receiver never saw, to the packet, where both have told."""
    if not sender or not receiver:
        return ""
    of = Record.of_client if who == "client" else Record.of_server
    lost = max(of(one, "packets_total") for one in sender) - max(of(one, "packets_total") for one in receiver)
    return f", {units.count(lost)} never arrived" if lost > 0 else ""


def _ending(record: Record) -> Iterator[Step]:
    view, row = record.view, record.row
    after = view.end_unix_ns - row["flow_start_unix_ns"]
    if view.outcome in {"closed", "reset"}:
        closer = "source" if (row["closed_by"] == "local") == view.local_is_source else "destination"
        how = "reset" if view.outcome == "reset" else "closed"
        yield Step(after, f"{how} {_ENDINGS[closer]}" if row["closed_by"] in {"local", "remote"} else how)
    elif view.outcome == "established":
        yield Step(after, "still open")


def _time(nanoseconds: int) -> str:
    return units.duration(nanoseconds)
