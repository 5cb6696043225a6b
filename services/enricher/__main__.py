"""wirespan-enricher: names the workloads at both ends of every flow record."""

from __future__ import annotations

import sys

import structlog

from services.enricher.cluster import Cluster
from services.enricher.errors import SnapshotError
from services.enricher.index import Index
from services.enricher.settings import EnricherSettings
from services.enricher.snapshot import read_snapshot
from services.enricher.worker import SERVICE, Worker
from services.runtime.bus import connect
from services.runtime.errors import Stopping
from services.runtime.health import Health, serve
from services.runtime.lifecycle import Lifecycle, service_main
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()


def main() -> int:
    """Run the enricher; return its exit code. 2: its settings, or the snapshot that they name, cannot be used."""
    faults: list[SnapshotError] = []

    async def start(settings: EnricherSettings, lifecycle: Lifecycle) -> None:
        try:
            index = load_index(settings)
        except SnapshotError as error:
            faults.append(error)
            return
        await enrich(settings, lifecycle, index)

    code = service_main(SERVICE, EnricherSettings, start)
    for fault in faults:
        sys.stderr.write(f"wirespan-enricher: cannot use the snapshot {fault}\n")
    return 2 if faults else code


def load_index(settings: EnricherSettings) -> Index | None:
    """Return the index of the snapshot that the settings name, None where they name none. Raises SnapshotError."""
    if settings.kube_snapshot is None:
        logger.warning("index.absent", hint="WIRESPAN_ENRICHER_KUBE_SNAPSHOT is not set: every end stays unresolved")
        return None
    snapshot = read_snapshot(settings.kube_snapshot)
    cluster = Cluster(
        name=settings.cluster.name,
        service_name_from_labels=settings.service_name_from_labels,
        tombstone_seconds=settings.tombstone_seconds,
    )
    for obj in snapshot.objects:
        cluster.feed(obj)
    index = cluster.compile()
    logger.info("index.loaded", path=str(settings.kube_snapshot), objects=len(snapshot.objects), skipped=dict(snapshot.skipped))
    return index


async def enrich(settings: EnricherSettings, lifecycle: Lifecycle, index: Index | None) -> None:
    """Enrich batches until told to stop."""
    health = Health(lifecycle)
    health.check("index", lambda: index is not None or settings.kube_snapshot is None)
    with Telemetry(SERVICE, settings.telemetry) as telemetry:
        async with serve(settings.health, health, telemetry), connect(settings.nats, name="wirespan-enricher") as bus:
            health.check("bus", lambda: bus.connected)
            try:
                await lifecycle.unless_stopping(bus.ensure_streams(settings.streams))
            except Stopping:
                return
            logger.info("enricher.started", snapshot=str(settings.kube_snapshot or ""))
            await Worker(bus, settings, telemetry, lambda: index).run(lifecycle.stopping)


if __name__ == "__main__":
    sys.exit(main())
