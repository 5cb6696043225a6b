"""The dashboards by the names of their files, which `make docs` writes and a test compares with this source."""

from __future__ import annotations

import json
from typing import Final

from deploy.grafana.source.dns import dns
from deploy.grafana.source.faults import faults
from deploy.grafana.source.overview import overview
from deploy.grafana.source.pair import pair
from deploy.grafana.source.pipeline import pipeline

DASHBOARDS: Final = {"overview": overview, "workload-pair": pair, "faults": faults, "dns": dns, "pipeline": pipeline}


def dashboard_text(name: str) -> str:
    """What is in deploy/grafana/<name>.json."""
    return json.dumps(DASHBOARDS[name](), indent=2, ensure_ascii=False) + "\n"
