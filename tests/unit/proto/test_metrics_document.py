"""docs/metrics.md defines every column that capture fills, and no other."""

import re
from pathlib import Path

from proto.columns import FILE, NAMES, RAW, SOCKET, TLS, Reason

DOCUMENT = Path(__file__).parents[3] / "docs" / "metrics.md"
OF_SERIES = "## Metrics of flows"  # names of the exporter's metrics from there on: tests/unit/exporter/metrics
EXAMPLES = {"tx_x", "rx_x", "tx_", "rx_", "unknown"}


def test_every_column_is_defined_once():
    """The first cells of the tables hold each column exactly once."""
    named = []
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("| `"):
            named += re.findall(r"`(\w+)`", line.split("|")[1])
    assert sorted(named) == sorted(column.name for column in RAW + SOCKET + NAMES + TLS + FILE)


def test_no_name_is_unknown():
    """Every name in the text is a column, or a reason for a record."""
    text, found, _ = DOCUMENT.read_text().partition(OF_SERIES)
    assert found
    named = set(re.findall(r"`([a-z]\w+)`", text))
    reasons = {reason.name.lower() for reason in Reason}
    assert named - EXAMPLES - reasons <= {column.name for column in RAW + SOCKET + NAMES + TLS + FILE}


def test_what_is_said_to_be_of_replay_only_says_so():
    """A column of live capture without a live value says in its meaning, or in its pair's, that capture files alone have it."""
    for line in DOCUMENT.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 4 and cells[3] == "-" and cells[4] == "yes":
            if all(f"`{name}`" not in cells[1] for name in (column.name for column in RAW)):
                continue
            meanings = [column.meaning for column in RAW if f"`{column.name}`" in cells[1]]
            assert any("capture files only" in meaning for meaning in meanings), cells[1]
