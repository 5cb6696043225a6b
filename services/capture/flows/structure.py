"""C structures as numpy dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def structure(members: Mapping[str, tuple[int, str]], size: int) -> np.dtype[Any]:
    """Return a structure of so many bytes of which these members are known: offset and dtype string by name."""
    return np.dtype(
        {
            "names": list(members),
            "offsets": [offset for offset, _ in members.values()],
            "formats": [dtype for _, dtype in members.values()],
            "itemsize": size,
        }
    )
