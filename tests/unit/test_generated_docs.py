"""Documents say what the code says."""

import pytest

from tests.support.generated_docs import ROOT, SECTIONS, current


@pytest.mark.parametrize("document", sorted({name for name, _ in SECTIONS}))
def test_generated_sections_are_current(document):
    """A table in a document equals the table in the code; `make docs` mends it."""
    assert (ROOT / document).read_text() == current(document)
