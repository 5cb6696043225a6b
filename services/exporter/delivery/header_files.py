"""Headers whose values are in files that others renew, such as a token that a kubelet or an agent writes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.runtime.errors import SettingsError
from services.runtime.privacy.redaction import hide

VARIABLE: Final = "WIRESPAN_EXPORTER_HEADER_FILES"
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 token
HEADER_VALUE: Final = re.compile(r"[\x20-\x7e]*")
_ITEM: Final = re.compile(r"(?P<name>[^=]+)=(?:(?P<scheme>[A-Za-z][A-Za-z0-9-]*) +)?(?P<path>\S.*)")


@dataclass(frozen=True, slots=True)
class HeaderFile:
    """A header and the file that its value is in."""

    name: str
    path: Path
    scheme: str = ""
    """Stands before what the file holds: `Bearer`."""

    def value(self) -> str:
        """Read it, without the white space around it. Raises OSError, or ValueError for what no header may carry."""
        try:
            content = self.path.read_text().strip()
        except UnicodeDecodeError:
            content = ""
        hide(content)
        if not content or not HEADER_VALUE.fullmatch(content):
            raise ValueError(f"{self.path} holds no header's value: one line of printable ASCII")
        return f"{self.scheme} {content}".lstrip()


def read_header_files(items: Sequence[str]) -> tuple[HeaderFile, ...]:
    """Return what the setting names. Raises SettingsError with one line for each that cannot be used."""
    files, faults = [], []
    for item in items:
        found = _ITEM.fullmatch(item.strip())
        if found is None or not HEADER_NAME.fullmatch(found["name"].strip()):
            faults.append(f"{VARIABLE}: wanted name=FILE or name=Bearer FILE, not {item!r}")
            continue
        file = HeaderFile(found["name"].strip().lower(), Path(found["path"].strip()), found["scheme"] or "")
        try:
            file.value()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            faults.append(f"{VARIABLE}: {file.name}={file.path}: {why}")
        files.append(file)
    if faults:
        raise SettingsError(faults)
    return tuple(files)
