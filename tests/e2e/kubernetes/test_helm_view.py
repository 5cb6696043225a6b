"""The chart's page: off by default, never open to all, and served with the rendered arguments to whom it should be."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.cli.view.assets import why_not_built
from tests.e2e.conftest import ROOT, WIRESPAN
from tests.support.ended import ended
from tests.support.kubernetes.helm_chart import MATRIX, NAMESPACE, RELEASE, HelmError, Rendered, merged, render
from tests.support.kubernetes.helm_nats import RenderedNats, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

NAME = f"{RELEASE}-wirespan-view"
SERVICE_HOST = f"{NAME}.{NAMESPACE}.svc"
INGRESS = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}}]
PATIENCE_SECONDS = 120
BY_HEADER = {"enabled": True, "auth": {"method": "header", "header": "X-Forwarded-User"}}


def test_without_being_asked_for_there_is_none(helm_binary: Path) -> None:
    """Off by default: no pod, no Service, no policy."""
    assert not [each for each in render(helm_binary, {}).objects if "view" in each["metadata"]["name"]]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"view": BY_HEADER}, "networkPolicy.viewFrom"),
        ({"view": BY_HEADER, "networkPolicy": {"enabled": False, "viewFrom": INGRESS}}, "networkPolicy.viewFrom"),
        ({"view": {"enabled": True, "auth": {"method": "header"}}, "networkPolicy": {"viewFrom": INGRESS}}, "view.auth.header"),
        ({"view": {"enabled": True, "auth": {"header": "X-Forwarded-User"}}}, "view.auth.header"),
        ({"view": {"enabled": True, "auth": {"method": "none"}}}, "method"),
        ({"view": {"enabled": True, "auth": {"method": ""}}}, "method"),
        ({"view": {"enabled": True, "auth": {"existingSecretKey": ""}}}, "existingSecretKey"),
    ],
)
def test_what_would_be_open_is_refused(helm_binary: Path, given: dict[str, Any], said: str) -> None:
    """A header that anybody could send, both ways at once or neither: helm says which value it is."""
    with pytest.raises(HelmError, match=said):
        render(helm_binary, given)


def test_a_header_is_believed_of_the_ingress_alone(helm_binary: Path) -> None:
    """The policy lets in whom the values name, at the page's port; the page has no token, and knows its names."""
    rendered = render(helm_binary, MATRIX["everything on"])
    (rule,) = rendered.one("NetworkPolicy", NAME)["spec"]["ingress"]
    assert rule == {"ports": [{"port": 8080, "protocol": "TCP"}], "from": INGRESS}
    assert {"--trusted-header=X-Forwarded-User", "--host=flows.example.com"} <= set(arguments(rendered))
    assert not [each for each in rendered.of_kind("Secret") if each["metadata"]["name"] == NAME]


def test_the_page_lets_in_whoever_has_the_token(helm_binary: Path, tmp_path: Path) -> None:
    """Run as rendered, as the bus's reader: what is probed answers, the API only by the Secret's token and a name it has."""
    if reason := why_not_built():
        pytest.skip(reason)
    values = merged(MATRIX["a user for each node"], {"view": {"enabled": True}})
    rendered = render(helm_binary, values)
    probe = rendered.pod("view")["containers"][0]["readinessProbe"]["httpGet"]
    token = rendered.data("Secret", NAME)["token"].decode()
    with running(rendered, tmp_path) as bus, serving(bus, tmp_path) as url:
        (host,) = probe["httpHeaders"]
        assert status(url + probe["path"][1:], Host=host["value"]) == 200
        assert status(url + "api/pipeline", Host=SERVICE_HOST) == 401
        assert status(url + "api/pipeline", Host=SERVICE_HOST, Authorization="Bearer " + "x" * 40) == 401
        assert status(url + "api/pipeline", Host="elsewhere.example", Authorization=f"Bearer {token}") == 421
        said = until_asked(url, Host=SERVICE_HOST, Authorization=f"Bearer {token}")
        assert {"FLOWS_RAW", "FLOWS_ENRICHED"} <= {name for name, _ in said["rows"]}, said


def arguments(rendered: Rendered) -> list[str]:
    """Those of the page's container."""
    given: list[str] = rendered.pod("view")["containers"][0]["args"]
    return given


@contextlib.contextmanager
def serving(bus: RenderedNats, folder: Path) -> Iterator[str]:
    """The command as the container has it, on a port of this machine; yields where it says that it is."""
    files = bus.rendered.write_files("view", folder / "page")
    own = {"--listen=0.0.0.0": "--listen=127.0.0.1", "--port=8080": "--port=0"}
    given = [own.get(each, each) for each in arguments(bus.rendered)]
    for place, file in files.items():
        given = [each.replace(place, str(file)) for each in given]
    environ = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"], **bus.environment("view")}
    command = [*WIRESPAN, *given]
    process = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    with ended(process):
        assert process.stderr is not None
        told = next((line for line in process.stderr if "look at http://" in line), "")
        assert told, f"it ended with {process.wait()}"
        yield told.split()[2]


def until_asked(url: str, **headers: str) -> Any:
    """What the page says of the pipeline, once it has asked the bus; of one that does not answer it says so, without rows."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with urllib.request.urlopen(urllib.request.Request(url + "api/pipeline", headers=headers), timeout=60) as response:
            said = json.load(response)
        if said["rows"] or time.monotonic() > deadline:
            return said


def status(url: str, **headers: str) -> int:
    """What it answers."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
