"""What is published can be fetched again: images for each architecture under one tag, and the chart. A real registry."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ports import free_ports
from tests.support.tools import ToolUnavailableError, tool

pytestmark = pytest.mark.timeout(1800)  # the first to ask builds the registry

ROOT = Path(__file__).parents[2]
VERSION = "1.2.3"
IMAGES = ("wirespan-capture", "wirespan-capture-bcc", "wirespan-enricher", "wirespan-exporter", "wirespan")


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which `helm` and `crane` are found, with skopeo."""
    folder = tmp_path_factory.mktemp("bin")
    try:
        for name in ("helm", "crane"):
            (folder / name).symlink_to(tool(name))
    except ToolUnavailableError as error:
        pytest.skip(f"{name} is not available: {error}")
    if shutil.which("skopeo") is None:
        pytest.skip("there is no skopeo")
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PLAIN_HTTP": "1", "HOME": str(folder)}


@pytest.fixture
def registry(tools: dict[str, str]) -> Iterator[str]:
    """The address of an empty registry."""
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    command = ["crane", "registry", "serve", "--address", address]
    process = subprocess.Popen(command, env=tools, stderr=subprocess.PIPE, text=True)
    try:
        assert "serving" in process.stderr.readline()
        yield address
    finally:
        process.terminate()
        process.communicate()


def image(path: Path, architecture: str) -> None:
    """Write an OCI archive of an image without any file."""
    blobs: dict[str, bytes] = {}

    def stored(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layer = io.BytesIO()
    tarfile.open(fileobj=layer, mode="w").close()
    layers = [stored(layer.getvalue(), "layer.v1.tar")]
    config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [layers[0]["digest"]]}}
    manifest = {"schemaVersion": 2, "config": stored(json.dumps(config).encode(), "config.v1+json"), "layers": layers}
    manifests = [stored(json.dumps(manifest).encode(), "manifest.v1+json")]
    files = {"index.json": json.dumps({"schemaVersion": 2, "manifests": manifests}).encode(), **blobs}
    with tarfile.open(path, "w") as archive:
        for name, data in {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_what_was_published_can_be_fetched(tools: dict[str, str], registry: str, tmp_path: Path) -> None:
    """Each image has both architectures under its tag, with the contents that were built, and the digest that was written down
    before; the chart is there too, and takes images by their digests.
    """
    for name in IMAGES:
        for architecture in ("amd64", "arm64"):
            image(tmp_path / f"{name}-{VERSION}-{architecture}.oci.tar", architecture)

    def run(*command: str | Path) -> str:
        return subprocess.run(command, env=tools, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    run("helm", "package", ROOT / "deploy" / "helm" / "wirespan", "--version", VERSION, "--destination", tmp_path)
    run(sys.executable, ROOT / "deploy" / "release" / "digests.py", tmp_path, VERSION)
    run(ROOT / "deploy" / "release" / "publish.sh", tmp_path, VERSION, f"{registry}/them")
    digests = tmp_path / f"wirespan-{VERSION}-digests.yaml"
    for name in IMAGES:
        digest = run("crane", "digest", f"{registry}/them/{name}:{VERSION}").strip()
        assert digest in digests.read_text()
        index = json.loads(
            run("skopeo", "inspect", "--tls-verify=false", "--raw", f"docker://{registry}/them/{name}:{VERSION}")
        )
        assert {each["platform"]["architecture"] for each in index["manifests"]} == {"amd64", "arm64"}
        for each in index["manifests"]:
            with tarfile.open(tmp_path / f"{name}-{VERSION}-{each['platform']['architecture']}.oci.tar") as archive:
                assert f"blobs/{each['digest'].replace(':', '/')}" in archive.getnames()
    chart = f"oci://{registry}/them/charts/wirespan"
    render = ("helm", "template", "x", chart, "--version", VERSION, "--plain-http", "--set", "otlp.endpoint=http://x:4317")
    assert "ghcr.io/wirespan/wirespan-capture:" in run(*render)
    digest = run("crane", "digest", f"{registry}/them/wirespan-capture:{VERSION}").strip()
    assert f"ghcr.io/wirespan/wirespan-capture@{digest}" in run(*render, "--values", digests)


def test_nothing_is_published_of_half_a_release(tools: dict[str, str], registry: str, tmp_path: Path) -> None:
    """Where an image is missing, none is sent."""
    image(tmp_path / f"{IMAGES[0]}-{VERSION}-amd64.oci.tar", "amd64")
    command = [ROOT / "deploy" / "release" / "publish.sh", tmp_path, VERSION, registry]
    done = subprocess.run(command, env=tools, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "make release-images" in done.stderr
    assert subprocess.run(["crane", "catalog", registry], env=tools, capture_output=True, text=True, check=True).stdout == ""
