"""The reader in Go knows the schema's columns: said here without Go, and by running it in the end-to-end tests."""

import re
from pathlib import Path

from proto.columns import COLUMNS

SOURCE = Path(__file__).parents[3] / "proto" / "go" / "cmd" / "flowdump" / "main.go"


def test_the_go_reader_knows_every_column():
    """A column that the schema gains is named in Go too."""
    named = set(re.findall(r'"(\w+)":', SOURCE.read_text()))
    assert sorted(set(COLUMNS) - named) == []
