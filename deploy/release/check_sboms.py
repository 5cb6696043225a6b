"""Ends with 1 where a bill of materials is not what CycloneDX's schema wants: `check_sboms.py FILE...`."""

from __future__ import annotations

import sys
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator


def main(paths: list[str]) -> int:
    """Check each and say what is wrong."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    faults = {path: validator.validate_str(Path(path).read_text()) for path in paths}
    for path, fault in faults.items():
        print(f"{path}: {str(fault)[:500] if fault else 'valid'}")
    return int(any(faults.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
