"""`python -m services.enricher.stream`: raw batches on standard input, enriched ones on standard output, without a bus.

For the commands that show a capture at once. The cluster is WIRESPAN_ENRICHER_KUBE_SNAPSHOT. Exit codes: 0 the input has ended;
2 the settings or the snapshot cannot be used, which standard error says.
"""

from __future__ import annotations

import sys
from typing import IO

import structlog

from proto.flow_batch import decode, encode_parts
from proto.frames import read_frames, write_frame
from services.enricher.enriching import enriched
from services.enricher.errors import SnapshotError
from services.enricher.index.block import Block
from services.enricher.index.claims import FOREVER
from services.enricher.index.cluster import Cluster
from services.enricher.index.external_networks import ExternalNetworks
from services.enricher.index.source import index_of_snapshot
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import EnricherSettings
from services.runtime.settings import SettingsError, load


def main(source: IO[bytes], output: IO[bytes]) -> int:
    """Name the ends of every record, and judge it; return the exit code."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    try:
        settings = load(EnricherSettings, prefix="WIRESPAN_ENRICHER_")
        selection = Selection(settings.kube)
        cluster = Cluster(
            selection=selection,
            name=settings.cluster.name,
            service_name_from_labels=settings.service_name_from_labels,
            tombstone_seconds=settings.tombstone_seconds,
        )
        index = index_of_snapshot(settings.kube_snapshot, cluster, selection) if settings.kube_snapshot else None
    except SettingsError as error:
        sys.stderr.writelines(f"{fault}\n" for fault in error.faults)
        return 2
    except SnapshotError as error:
        sys.stderr.write(f"cannot use the snapshot {error}\n")
        return 2
    networks = ExternalNetworks(settings.external_networks)
    try:
        for message in read_frames(source):
            (one,) = enriched(Block([decode(message)]), index, [FOREVER], networks, settings.thresholds)
            for part in encode_parts(one.batch):
                write_frame(output, part.message)
            output.flush()
    except BrokenPipeError:
        pass  # nobody wants the rest
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin.buffer, sys.stdout.buffer))
