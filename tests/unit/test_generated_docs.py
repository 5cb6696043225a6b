"""Documents say what the code says."""

import pytest

from tests.support.documents.generated_docs import ROOT, current, documents


@pytest.mark.parametrize("document", documents())
def test_generated_documents_are_current(document):
    """What a document has from the code equals it; `make docs` mends it."""
    assert (ROOT / document).read_text() == current(document)
