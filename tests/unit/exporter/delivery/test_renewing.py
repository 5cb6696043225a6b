"""Credentials that are renewed in their files, against real servers whose own are renewed too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from services.exporter.__main__ import _endpoint_sink
from services.exporter.delivery.environment import OtlpSettings
from services.exporter.delivery.sink import Accepted, Retry, Sink
from tests.support.certificates import Certificates, make_certificates
from tests.support.pipeline.otlp_receiver import OtlpReceiver, export_request


def made(folder: Path) -> Certificates:
    """Certificates of an authority of their own."""
    folder.mkdir()
    return make_certificates(folder)


def put(certificates: Certificates, live: Path, *names: str) -> None:
    """Replace files of `live`, each as a whole, by those of `certificates`."""
    for name in names or ("authority.pem", "client.pem", "client.key"):
        shutil.copy(certificates.authority.parent / name, live / f"{name}.new")
        (live / f"{name}.new").replace(live / name)


def opened(receiver: OtlpReceiver, live: Path, protocol: str) -> Sink:
    """A sink as the exporter makes it, with the credentials of `live`."""
    secret = {"ca_file": live / "authority.pem", "client_key_file": live / "client.key"}
    secret["client_certificate_file"] = live / "client.pem"
    endpoint = f"localhost:{receiver.grpc_port}" if protocol == "grpc" else f"{receiver.http_endpoint}/v1/traces"
    return _endpoint_sink(OtlpSettings(protocol=protocol, endpoint=endpoint, secure=True, timeout_seconds=20, **secret))


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_renewed_credentials_are_used_without_a_restart(tmp_path: Path, protocol: str) -> None:
    """Authority, certificate and key are replaced while the backend gets its own: spans arrive again. Before all
    three are there, nothing is changed.
    """
    one, two, live = made(tmp_path / "one"), made(tmp_path / "two"), tmp_path / "live"
    live.mkdir()
    put(one, live)
    with OtlpReceiver(tls=one, client_certificates=True) as receiver:
        sink = opened(receiver, live, protocol)
        assert await sink.send(export_request(1)) == Accepted()
        put(two, live, "client.pem")
        assert await sink.send(export_request(1)) == Accepted()
        receiver.stop()
        receiver._tls = two
        receiver.start()
        assert isinstance(await sink.send(export_request(1)), Retry)
        put(two, live)
        outcome = await sink.send(export_request(1))
        while isinstance(outcome, Retry):
            outcome = await sink.send(export_request(1))
        assert outcome == Accepted()
        await sink.close()
