"""Credentials that are renewed in their files, against real servers whose own are renewed too."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import grpc
import pytest

from services.exporter.delivery.environment import OtlpSettings
from services.exporter.delivery.header_files import read_header_files
from services.exporter.delivery.opening import open_endpoint
from services.exporter.delivery.sink import Accepted, Rejected, Retry, Sink
from services.runtime.errors import SettingsError
from tests.support.certificates import Certificates, make_certificates
from tests.support.pipeline.otlp_receiver import OtlpReceiver, Refuse, export_request


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
    return open_endpoint(OtlpSettings(protocol=protocol, endpoint=endpoint, secure=True, timeout_seconds=20, **secret))


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


def with_header(receiver: OtlpReceiver, protocol: str, *items: str) -> Sink:
    """A sink as the exporter makes it, with headers from files, and an older value of one of them in its settings."""
    endpoint = receiver.grpc_endpoint.rpartition("/")[2] if protocol == "grpc" else f"{receiver.http_endpoint}/v1/traces"
    headers = {"headers": (("Authorization", "Bearer of-the-settings"),), "header_files": read_header_files(items)}
    return open_endpoint(OtlpSettings(protocol=protocol, endpoint=endpoint, secure=False, timeout_seconds=20, **headers))


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
async def test_headers_in_files_are_read_again(tmp_path: Path, protocol: str) -> None:
    """When their file changes; and where it does not seem to have, when the backend rejects them: then the attempt is made once
    more. Rejected again, or with nothing new in the file, it is rejected.
    """
    token, key = tmp_path / "token", tmp_path / "key"
    token.write_text("first-token\n")
    key.write_text("api-key")
    refusal = Refuse(grpc.StatusCode.UNAUTHENTICATED if protocol == "grpc" else 401, "not with first-token")

    with OtlpReceiver() as receiver:

        def sent(name: str = "authorization") -> list[str]:
            return [request.headers[name] for request in receiver.requests]

        sink = with_header(receiver, protocol, f"Authorization=Bearer {token}", f"x-api-key={key}")
        assert await sink.send(export_request(1)) == Accepted()
        assert (sent(), sent("x-api-key")) == (["Bearer first-token"], ["api-key"])
        receiver.script(refusal)
        outcome = await sink.send(export_request(1))
        assert isinstance(outcome, Rejected)
        assert "first-token" not in outcome.detail
        before = token.stat()
        token.write_text("other-token\n")
        os.utime(token, ns=(before.st_atime_ns, before.st_mtime_ns))
        receiver.script(refusal)
        assert await sink.send(export_request(1)) == Accepted()
        assert sent()[1:] == ["Bearer first-token", "Bearer first-token", "Bearer other-token"]
        token.write_text("third-token")
        assert await sink.send(export_request(1)) == Accepted()
        assert sent()[-1] == "Bearer third-token"
        token.write_text("")
        assert await sink.send(export_request(1)) == Accepted()
        await sink.close()


@pytest.mark.parametrize(
    ("item", "content"),
    [
        ("authorization", "x"),
        ("=FILE", "x"),
        ("a b=FILE", "x"),
        ("a=FILE", ""),
        ("a=FILE", "secret\nsecret"),
        ("a=FILE/x", "x"),
    ],
)
def test_a_header_file_that_is_none_is_a_fault_without_its_content(tmp_path: Path, item: str, content: str) -> None:
    """Said at the start, by the setting's name."""
    (tmp_path / "file").write_text(content)
    with pytest.raises(SettingsError, match="WIRESPAN_EXPORTER_HEADER_FILES") as raised:
        read_header_files([item.replace("FILE", str(tmp_path / "file"))])
    assert "secret" not in str(raised.value)
