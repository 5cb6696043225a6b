"""Errors of the enricher.

EnricherError
 ├── SnapshotError          a file that should be a snapshot of a cluster and is not
 ├── KubeConfigError        a kubeconfig or service account that cannot be used
 ├── ApiUnreachableError    the API server does not answer, breaks off, or says what nobody understands
 ├── ApiRefusedError        the API server answers with an error
 ├── CacheMessageError      a message of the shared cache that is not understood
 └── IntakeError            the intake of spans cannot be opened
"""

from __future__ import annotations

from pathlib import Path


class EnricherError(Exception):
    """Base of every error this package raises."""


class SnapshotError(EnricherError):
    """The file is no snapshot of a cluster. `str()` is one line that names the file and says why."""

    def __init__(self, path: Path, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path = path
        self.detail = detail


class KubeConfigError(EnricherError):
    """What says where the API server is cannot be used. `str()` is one line."""


class ApiUnreachableError(EnricherError):
    """The API server gave no answer, or half of one."""


class ApiRefusedError(EnricherError):
    """The API server answered with an HTTP error, or ended a watch with one."""

    def __init__(self, status: int, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.retry_after_seconds = retry_after_seconds


class CacheMessageError(EnricherError):
    """A message of the shared cache that is not understood, such as a newer release's."""


class IntakeError(EnricherError):
    """The intake of spans cannot be opened as its settings say. `str()` is one line."""
