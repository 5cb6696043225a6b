"""What live records tell of TLS handshakes."""

from __future__ import annotations

from proto.columns import NO_INDEX, RAW, TLS, Reason, Role
from proto.flow_batch import decode
from services.capture.live.reader import LiveReader


def handshakes_told(reader: LiveReader, *ports: int) -> dict[int, dict[Role, dict[str, object]]]:
    """The last records by their client's port, these or all, and by role; through the wire, with the names of TLS as text."""
    found: dict[int, dict[Role, dict[str, object]]] = {}
    for batch in reader.read(Reason.SHUTDOWN):
        for message in batch.messages:
            decoded = decode(message.message)
            for row in range(decoded.count):
                values = {column.name: decoded.column(column.name)[row].tolist() for column in RAW + TLS}
                for name in ("tls_server_name", "tls_protocol", "tls_offered_protocols"):
                    values[name] = decoded.names[values[name]] if values[name] != NO_INDEX else None
                port = values["remote_port" if values["role"] == Role.SERVER else "local_port"]
                if not ports or port in ports:
                    found.setdefault(port, {})[values["role"]] = values
        reader.accept(batch)
    return found
