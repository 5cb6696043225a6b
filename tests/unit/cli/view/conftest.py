"""What most tests of the page look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from proto.columns import Outcome
from services.cli.view.kept import Kept
from tests.unit.cli.view.asking import between


@pytest.fixture
def kept() -> Kept:
    """Two connections that are well, and one that was refused."""
    some = Kept()
    some.add(between("shop/frontend", "shop/cart", flow_id=1, local_port=1001))
    some.add(between("shop/frontend", "shop/redis", flow_id=2, local_port=1002, remote_port=6380))
    some.add(between("web/ingress", "shop/frontend", flow_id=3, local_port=1003, outcome=Outcome.REFUSED, responses=0))
    return some


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """A folder with a page in it."""
    (tmp_path / "index.html").write_text("<p>the page")
    return tmp_path
