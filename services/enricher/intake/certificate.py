"""The certificate that the intake shows, read again when its files change."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from services.runtime.file_stamps import stamps

logger = structlog.get_logger()


class Certificate:
    """A certificate with its chain, and its key. For one protocol: each looks by itself."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Read the files. Raises OSError where they cannot be used."""
        self._files = certificate, key
        self._stamps = stamps(self._files)
        self.context = self._read()

    def look(self) -> bool:
        """Return whether it is another one now.

        Files that do not belong together, since only one of them is replaced yet, change nothing until they do.
        """
        now = stamps(self._files)
        if now == self._stamps:
            return False
        self._stamps = now
        files = [str(file) for file in self._files]
        try:
            self.context = self._read()
        except OSError as error:
            logger.warning("intake.certificate_not_renewed", error=str(error), files=files)
            return False
        logger.info("intake.certificate_renewed", files=files)
        return True

    def contents(self) -> tuple[bytes, bytes]:
        """Return key and certificate."""
        certificate, key = self._files
        return key.read_bytes(), certificate.read_bytes()

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(*self._files)
        return context
