"""Headers of the backend out of Secrets that others renew: what the chart mounts is what the exporter reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.exporter.delivery.header_files import read_header_files
from tests.support.kubernetes.helm_chart import RELEASE, notes, render

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]  # the first to ask for a tool may build it

TOKEN: dict[str, Any] = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "backend-token"}}
FILES = [
    {"name": "Authorization", "scheme": "Bearer", "secret": "backend-token", "key": "token"},
    {"name": "X-Scope-OrgID", "secret": "backend-token", "key": "tenant"},
]


def test_headers_are_read_from_secrets_and_renewed(helm_binary: Path, tmp_path: Path) -> None:
    """Each header has the value of its Secret's key, and another once the kubelet has written it: the volume is mounted as a
    whole, for what is mounted by subPath is never written again. Files that the settings name besides are kept.
    """
    secret = TOKEN | {"stringData": {"token": "first", "tenant": "shop"}}
    own = tmp_path / "own"
    own.write_text("from-an-agent")
    settings = {"header_files": [f"x-agent={own}"]}
    rendered = render(
        helm_binary, {"otlp": {"headerFiles": FILES}, "exporter": {"settings": settings}, "extraObjects": [secret]}
    )
    (mount,) = [each for each in rendered.pod("exporter")["containers"][0]["volumeMounts"] if each["name"] == "otlp-headers"]
    assert mount == {"name": "otlp-headers", "mountPath": "/etc/wirespan/otlp-headers", "readOnly": True}

    written = rendered.write_files("exporter", tmp_path)
    named = rendered.environment("exporter")["WIRESPAN_EXPORTER_HEADER_FILES"]
    for path, file in written.items():
        named = named.replace(path, str(file))
    headers = {each.name: each for each in read_header_files(named.split(","))}
    values = {name: each.value() for name, each in headers.items()}
    assert values == {"authorization": "Bearer first", "x-scope-orgid": "shop", "x-agent": "from-an-agent"}
    written["/etc/wirespan/otlp-headers/authorization"].write_text("second\n")
    assert headers["authorization"].value() == "Bearer second"


def test_without_header_files_nothing_is_mounted(helm_binary: Path) -> None:
    """The Secret stays one of the exporter alone: no other pod has the volume, and without the value nobody has it."""
    for given, holders in (({}, set()), ({"headerFiles": FILES}, {"exporter"})):
        rendered = render(helm_binary, {"otlp": given, "toolbox": {"enabled": True}})
        volumes = [(name, volume["name"]) for name, spec in rendered.pods() for volume in spec.get("volumes", ())]
        having = {name for name, volume in volumes if volume == "otlp-headers"}
        assert having == holders
        secrets = {each["metadata"]["name"] for each in rendered.of_kind("Secret")}
        assert f"{RELEASE}-wirespan-otlp" not in secrets


def test_the_notes_name_the_secrets_that_have_to_be_there(helm_binary: Path, tmp_path: Path) -> None:
    """A pod waits without a word for a Secret that is not there, so `helm install` says which one and which key."""
    assert "Header Authorization is sent as key token of Secret backend-token" in notes(
        helm_binary, tmp_path, {"otlp": {"headerFiles": FILES}}
    )
