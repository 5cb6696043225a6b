"""What publishes a release: a workflow of well-known actions and of `make` targets that run anywhere, and what those write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support.tools import ToolUnavailableError, tool

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.timeout(1800)  # the first to ask builds the linter
@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_the_linter_finds_nothing(workflow: Path) -> None:
    """Actionlint has nothing to say against a workflow."""
    try:
        linter = tool("actionlint")
    except ToolUnavailableError as error:
        pytest.skip(f"actionlint is not available: {error}")
    done = subprocess.run([linter, "-no-color", workflow], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_steps_are_targets_of_the_makefile(workflow: Path) -> None:
    """Every `make` of a workflow names a target that there is, so a release can be tried without the forge."""
    steps = [step for job in yaml.safe_load(workflow.read_text())["jobs"].values() for step in job["steps"]]
    wanted = {name for step in steps for name in re.findall(r"^make ([a-z-]+)", step.get("run", ""), re.MULTILINE)}
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert wanted
    assert wanted <= targets


def test_a_tag_of_another_version_is_refused() -> None:
    """A release is of the version that package and chart have; a tag that says otherwise stops it."""
    command = ["make", "--no-print-directory", "release-version"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0
    refused = subprocess.run([*command, "TAG=v99.0.0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert refused.returncode != 0
    assert "v99.0.0" in refused.stdout


def test_a_bill_of_materials_names_each_package_once() -> None:
    """What is installed becomes components with package URLs, the artifact itself apart, the same every time."""
    contents = [
        {"type": "pypi", "name": "Typing_Extensions", "version": "4.1", "license": "PSF-2.0"},
        {"type": "pypi", "name": "typing-extensions", "version": "4.1", "license": None},
        {"type": "pypi", "name": "wirespan", "version": "1.0"},
        {"type": "deb", "name": "libstdc++6", "version": "1:12.2", "architecture": "arm64"},
    ]
    command = [sys.executable, ROOT / "deploy" / "release" / "sbom.py", "wirespan", "1.0"]
    lines = "\n".join(map(json.dumps, contents))
    bills = [subprocess.run(command, input=lines, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert bills[0] == bills[1]
    bill = json.loads(bills[0])
    assert [component["purl"] for component in bill["components"] if "pkg:npm/" not in component["purl"]] == [
        "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2?arch=arm64",
        "pkg:pypi/typing-extensions@4.1",
    ]
    assert bill["metadata"]["component"]["name"] == "wirespan"


@pytest.mark.parametrize(
    ("base", "purl"),
    [
        ("debian:bookworm-slim", "pkg:docker/debian@bookworm-slim"),
        ("debian:12@sha256:ab", "pkg:oci/debian@sha256%3Aab?repository_url=docker.io/library/debian&tag=12"),
        ("here:5000/b", "pkg:docker/b@latest"),
        ("here:5000/a/b:1@sha256:ab", "pkg:oci/b@sha256%3Aab?repository_url=here:5000/a/b&tag=1"),
    ],
)
def test_what_an_image_is_made_on_is_in_its_bill_of_materials(base: str, purl: str) -> None:
    """By the digest that the release was built on, where a registry gave one."""
    command = [sys.executable, ROOT / "deploy" / "release" / "sbom.py", "wirespan-exporter", "1.0", base]
    bill = json.loads(subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout)
    assert [each["purl"] for each in bill["components"] if each["type"] == "container"] == [purl]


def test_the_page_is_in_each_bill_of_materials() -> None:
    """A wheel's and an image's: what is bundled into the page has package URLs too, by what its package.json depends on, and
    nothing that only builds.
    """
    command = [sys.executable, ROOT / "deploy" / "release" / "sbom.py", "wirespan-exporter", "1.0"]
    bill = json.loads(subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout)
    wanted = json.loads((ROOT / "services" / "cli" / "view" / "web" / "package.json").read_text())
    found = {component["name"]: component for component in bill["components"]}
    assert wanted["dependencies"].keys() <= found.keys()
    assert not wanted["devDependencies"].keys() & found.keys()
    assert found["@dagrejs/dagre"]["purl"] == f"pkg:npm/%40dagrejs/dagre@{wanted['dependencies']['@dagrejs/dagre']}"


def test_what_cannot_be_built_is_said(tmp_path: Path) -> None:
    """Without a Docker engine there are no images: the reason is printed and kept, and is an error where all is wanted."""
    command = [ROOT / "deploy" / "release" / "images.sh", tmp_path, "1.0"]
    environment = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (tmp_path / "SKIPPED").read_text() == "skipped: images: no Docker engine answers\n"
    strict = subprocess.run(command, env={**environment, "RELEASE_STRICT": "1"}, capture_output=True, check=False)
    assert strict.returncode != 0
