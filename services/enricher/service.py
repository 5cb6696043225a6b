"""The enricher as a whole: settings, where the index comes from, bus, worker."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog

from services.enricher.cache.sync import CachedSync
from services.enricher.errors import IntakeError, KubeConfigError, SnapshotError
from services.enricher.following.live_index import LiveIndex
from services.enricher.following.sync import KubeSync
from services.enricher.index.cluster import Cluster
from services.enricher.index.source import FixedIndex, index_of_snapshot
from services.enricher.intake.names import NamesSeen
from services.enricher.kubernetes.api import find_api
from services.enricher.kubernetes.selection import Selection
from services.enricher.settings import EnricherSettings
from services.enricher.worker import SERVICE, Worker
from services.runtime.errors import Stopping
from services.runtime.health import Health, serve
from services.runtime.lifecycle import Lifecycle, service_main
from services.runtime.nats.bus import Bus, connect
from services.runtime.telemetry import Telemetry

logger = structlog.get_logger()


def run_service() -> int:
    """Run the enricher; return its exit code. 2: its settings, or what they name (a snapshot, a port ...) cannot be used."""
    faults: list[str] = []

    async def start(settings: EnricherSettings, lifecycle: Lifecycle) -> None:
        try:
            source = choose_source(settings)
        except SnapshotError as error:
            faults.append(f"cannot use the snapshot {error}")
        except KubeConfigError as error:
            faults.append(f"cannot reach Kubernetes with {error}")
        else:
            await enrich(settings, lifecycle, source)

    code = service_main(SERVICE, EnricherSettings, start, exit_codes={IntakeError: 2})
    for fault in faults:
        sys.stderr.write(f"wirespan-enricher: {fault}\n")
    return 2 if faults else code


def choose_source(settings: EnricherSettings) -> FixedIndex | LiveIndex:
    """Return where the index comes from: the snapshot, else the live cluster, else nowhere.

    Raises SnapshotError or KubeConfigError where that cannot be used.
    """
    kube = settings.kube
    selection = Selection(kube)
    make_cluster = partial(
        Cluster,
        selection=selection,
        name=settings.cluster.name,
        service_name_from_labels=settings.service_name_from_labels,
        tombstone_seconds=settings.tombstone_seconds,
    )
    if settings.kube_snapshot is not None:
        return FixedIndex(index_of_snapshot(settings.kube_snapshot, make_cluster(), selection))
    api = find_api(kube.api, kubeconfig=kube.kubeconfig, silence_seconds=kube.silence_seconds)
    if api is None:
        logger.warning("index.absent", hint="neither a snapshot nor an API server is named: every end stays unresolved")
        return FixedIndex(None)
    logger.info("cluster.followed", server=api.host, namespaces=list(kube.namespaces), cache=kube.cache)
    return CachedSync(api, make_cluster, kube) if kube.cache == "shared" else KubeSync(api, make_cluster(), kube)


async def enrich(settings: EnricherSettings, lifecycle: Lifecycle, source: FixedIndex | LiveIndex) -> None:
    """Enrich batches until told to stop."""
    health = Health(lifecycle)
    with Telemetry(SERVICE, settings.telemetry) as telemetry:
        async with (
            serve(settings.health, health, telemetry),
            connect(settings.nats, name="wirespan-enricher") as bus,
        ):
            health.check("bus", lambda: bus.connected)
            if isinstance(source, LiveIndex):
                health.check("kubernetes", lambda: source.synced)
            with suppress(Stopping):
                await lifecycle.unless_stopping(bus.ensure_streams(settings.streams, cache=isinstance(source, CachedSync)))
                async with _following(source, bus, lifecycle, telemetry):
                    if isinstance(source, LiveIndex):
                        # Until it can name anybody, batches are better left to replicas that can.
                        await source.until_synced(lifecycle.stopping)
                    logger.info("enricher.started", snapshot=str(settings.kube_snapshot or ""))
                    async with _taking_spans(settings, source, bus, lifecycle, telemetry) as names:
                        worker = Worker(bus, settings, telemetry, source, names)
                        health.check("moving", lambda: worker.moving)
                        await worker.run(lifecycle.stopping)


@asynccontextmanager
async def _taking_spans(
    settings: EnricherSettings, source: FixedIndex | LiveIndex, bus: Bus, lifecycle: Lifecycle, telemetry: Telemetry
) -> AsyncIterator[NamesSeen | None]:
    """Take spans while the block runs, where that is asked for; yields what learns the names of flows for it."""
    if not settings.intake:
        yield None
        return
    # Imported where it is asked for: gRPC and the server for HTTP are 12 MiB.
    from services.enricher.intake.intake import Intake  # noqa: PLC0415

    names = NamesSeen()
    intake = Intake(settings, source, bus, telemetry, names)
    async with intake.open():
        lifecycle.start("ask about spans", intake.run(lifecycle.stopping))
        yield names


@asynccontextmanager
async def _following(
    source: FixedIndex | LiveIndex, bus: Bus, lifecycle: Lifecycle, telemetry: Telemetry
) -> AsyncIterator[None]:
    """Follow a live cluster while the block runs."""
    if not isinstance(source, LiveIndex):
        yield
        return
    telemetry.gauge(
        "wirespan.enricher.kube.resources",
        "Resources of the API server by how well they are followed",
        "{resource}",
        lambda: [(count, {"state": state.value}) for state, count in source.states().items()],
    )
    telemetry.gauge("wirespan.enricher.kube.behind", "Age of what is known of the cluster", "s", lambda: source.behind_seconds)
    telemetry.gauge("wirespan.enricher.kube.objects", "Objects known", "{object}", lambda: source.objects)
    telemetry.gauge("wirespan.enricher.index.compile", "Making of the last index", "s", lambda: source.compile_seconds)
    totals = {
        "lists": "Whole lists taken",
        "faults": "Requests and watches that failed",
        "oversized": "Objects left out because no message of the shared cache holds them",
    }
    for name, description in totals.items():
        telemetry.cumulative(f"wirespan.enricher.kube.{name}", description, "1", partial(source.total, name))
    if isinstance(source, CachedSync):
        telemetry.gauge(
            "wirespan.enricher.kube.leader", "Whether this one follows the API server for all", "1", lambda: int(source.leading)
        )
    source.start(bus)
    lifecycle.start("follow the cluster", source.until_broken())
    try:
        yield
    finally:
        await source.stop()
