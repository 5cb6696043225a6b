"""Presets: one word chooses, single settings go before it, and what contradicts is said."""

import pytest

from services.cli.plan.figures import PRESETS as PLANNED
from services.exporter.presets import PRESETS, Choice
from services.exporter.settings import ExporterSettings
from services.exporter.spans.summary import Thinning
from services.runtime.settings import load


def settings(**given: str) -> ExporterSettings:
    """The exporter's settings with these variables."""
    return load(
        ExporterSettings, prefix="WIRESPAN_EXPORTER_", environ={f"WIRESPAN_EXPORTER_{k.upper()}": v for k, v in given.items()}
    )


def test_the_default_keeps_every_connection() -> None:
    """Where nothing is said, every flow is sent with the standard attributes."""
    assert settings().choice == Choice("standard", 1.0, keep_troubles=True)
    assert settings().thinning is None


def test_a_preset_sets_all() -> None:
    """`troubles` keeps what had trouble and sums up the rest; `map` sums up everything, with the fewest attributes."""
    assert settings(preset="troubles").thinning == Thinning(0.0, 10**9, keep_troubles=True)
    assert settings(preset="map").thinning == Thinning(0.0, 10**9, keep_troubles=False)
    assert settings(preset="map").choice.attributes == "lean"


def test_the_plan_knows_the_same_presets() -> None:
    """`wirespan plan` has a figure for each preset, with the attributes that the exporter gives it."""
    assert {name: choice.attributes for name, choice in PRESETS.items()} == {
        name: planned.attributes for name, planned in PLANNED.items()
    }
    assert {name: choice.keep_ratio < 1 for name, choice in PRESETS.items()} == {
        name: planned.sums_up for name, planned in PLANNED.items()
    }


def test_single_settings_go_before_a_preset() -> None:
    """What is set by itself wins, and what refines a preset contradicts nothing."""
    chosen = settings(preset="troubles", attributes="full", keep_ratio="0.05")
    assert chosen.choice == Choice("full", 0.05, keep_troubles=True)
    assert chosen.contradictions == []


@pytest.mark.parametrize(
    ("given", "winner"),
    [
        ({"keep_ratio": "0.1"}, "keep_ratio wins"),
        ({"preset": "troubles", "keep_ratio": "1"}, "keep_ratio wins"),
        ({"preset": "map", "keep_ratio": "1"}, "keep_ratio wins"),
        ({"preset": "map", "keep_troubles": "true"}, "keep_troubles wins"),
        ({"preset": "troubles", "keep_troubles": "false"}, "keep_troubles wins"),
        ({"keep_troubles": "false"}, "changes nothing"),
    ],
)
def test_contradictions_are_said(given: dict[str, str], winner: str) -> None:
    """A setting that turns a preset into another is named, with who wins."""
    (said,) = settings(**given).contradictions
    assert winner in said
