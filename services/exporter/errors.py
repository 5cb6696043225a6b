"""Errors of the exporter.

ExporterError
 └── OutputFileError   the file that spans should go to cannot be written by this process
"""

from __future__ import annotations


class ExporterError(Exception):
    """Base of every error this package raises."""


class OutputFileError(ExporterError):
    """The file for spans cannot be opened, or another exporter writes to it. The message names the file."""
