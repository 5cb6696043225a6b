"""`python -m services.enricher.ask FILE...`: spans of applications in files of OTLP/JSON as questions to captures, on standard
output: what the intake would have asked as they came, without a bus.

For a replay with spans, whose file is nobody's in particular: each span's network may be anybody's in it. The cluster, by which
names of peers are known, is WIRESPAN_ENRICHER_KUBE_SNAPSHOT. Exit codes: 0 all is asked, and what is not asked about is said on
standard error; 2 the settings, the snapshot or a file cannot be used, which standard error says.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import structlog

from proto.frames import write_frame
from proto.subjects import MAX_BATCH_BYTES
from services.enricher.errors import IntakeError, SnapshotError
from services.enricher.index.cluster import Cluster
from services.enricher.index.index import Index
from services.enricher.index.source import index_of_snapshot
from services.enricher.intake.counts import ASKED, IntakeCounts
from services.enricher.intake.door import Waiting
from services.enricher.intake.locals import Local, Locals
from services.enricher.intake.names import NamesSeen
from services.enricher.intake.otlp_json import requests_in
from services.enricher.intake.peers import Peers
from services.enricher.intake.questions import Questions
from services.enricher.intake.scan import Resource
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import EnricherSettings
from services.runtime.settings import SettingsError, load
from services.runtime.telemetry import Telemetry


class _Anybody(Locals):
    """A file's flows have no pods: whose a span is says only in which namespace the names of its peers are meant."""

    def find(self, resource: Resource, sender: str, index: Index | None, now_unix_ns: int) -> Local | None:
        found = super().find(resource, sender, index, now_unix_ns)
        return Local("file", "", found.namespace if found else "")


def main(files: Sequence[str], output: IO[bytes]) -> int:
    """Write the questions; return the exit code."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        settings = load(EnricherSettings, prefix="WIRESPAN_ENRICHER_")
        selection = Selection(settings.kube)
        snapshot = settings.kube_snapshot
        index = index_of_snapshot(snapshot, Cluster(selection=selection), selection) if snapshot else None
        counts = IntakeCounts(Telemetry("ask"))
        questions = Questions(counts, _Anybody(this_host="file"), Peers(NamesSeen()))
        for request in requests_in(map(Path, files)):
            questions.add(Waiting(request.body, request.spans, ""), index, request.sent_unix_ns)
            for _subject, asked, _rows, message in questions.messages(MAX_BATCH_BYTES):
                counts.spans.add(ASKED, asked)
                write_frame(output, message)
        output.flush()
    except SettingsError as error:
        sys.stderr.writelines(f"{fault}\n" for fault in error.faults)
        return 2
    except (SnapshotError, IntakeError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stderr.write(f"{', '.join(f'{result} {number}' for result, number in counts.spans.total.items()) or 'no spans'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], sys.stdout.buffer))
