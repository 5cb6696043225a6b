"""`python -m tests.chaos`: real processes under faults, and what came of every connection.

Faults alone and in random pairs, as long as there is time. Prints the seed first; the same seed makes the same choices, though
not the same race.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

import nats

from tests.chaos import signals
from tests.chaos.checker import verdict
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.results import keep, table
from tests.chaos.world import World

_BEFORE_SECONDS: Final = (0.5, 2.5)
_FAULT_SECONDS: Final = (2.0, 5.0)
_AFTER_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 240.0
"""Where all servers lost power, one may be behind until the leader's next snapshot: two minutes, and some."""
_POLL_SECONDS: Final = 0.2
_ACCOUNT_SECONDS: Final = 60.0
"""For what has been accepted to be acknowledged too, and for the news of the cluster."""
_MANY: Final = 200
_EPISODE_SECONDS: Final = 15.0
"""What an episode may take, roughly: no other is begun where less is left."""


@dataclass(frozen=True, slots=True)
class Episode:
    """What came of some faults at once."""

    faults: tuple[str, ...]
    servers: int
    seed: int
    connections: int
    lost: int
    wrong: int
    misnamed: int
    conflicts: int
    ended: int
    """Services that ended without being told to."""
    differences: int
    """Accounts of services that do not add up, or in which something is held, when all was accepted."""
    stall_seconds: float
    """The longest time within which nothing was accepted."""
    recovery_seconds: float
    """From the end of the faults until all was accepted."""
    example: str = ""

    @property
    def line(self) -> str:
        """It in a line."""
        counted = {
            "connections": self.connections,
            "lost": self.lost,
            "wrong": self.wrong,
            "misnamed": self.misnamed,
            "with other content": self.conflicts,
            "services ended": self.ended,
            "accounts do not add up": self.differences,
        }
        what = f"{' + '.join(self.faults) or 'nothing'} ({self.servers} server{'s' * (self.servers > 1)})"
        said = ", ".join(f"{number} {name}" for name, number in counted.items() if number)
        times = f"stall {self.stall_seconds} s, recovery {self.recovery_seconds} s"
        return f"{'ok  ' if self.passed else 'FAIL'} {what}: {said}, {times} {'' if self.passed else self.example}"

    @property
    def passed(self) -> bool:
        """Whether all that was generated was accepted, once and to the byte."""
        return not (self.lost or self.wrong or self.misnamed or self.conflicts or self.ended or self.differences)


def episode(world: World, faults: tuple[Fault, ...]) -> Episode:
    """Generate traffic, let the faults be, and wait until all of it is accepted."""
    backend, feeder = world.backend, world.feeder
    feeder.forget()
    backend.accepted_at = []
    world.undone.clear()
    conflicts = len(backend.conflicts)
    ends = sum(len(member.given_up) for member in world.everybody)
    began = time.monotonic()
    feeder.begin()
    time.sleep(world.chance.uniform(*_BEFORE_SECONDS))
    with ExitStack() as stack:
        for fault in faults:
            stack.enter_context(fault.begin(world))
            time.sleep(world.chance.uniform(0, 0.5))
        world.api_server.change()
        time.sleep(world.chance.uniform(*_FAULT_SECONDS))
    healed = time.monotonic()
    time.sleep(_AFTER_SECONDS)
    feeder.finish()
    found = verdict(backend, feeder.known)
    asked_again = False
    while (not feeder.idle or found.lost) and time.monotonic() < healed + _SETTLE_SECONDS:
        time.sleep(_POLL_SECONDS)
        found = verdict(backend, feeder.known)
        if feeder.idle and found.lost and not asked_again and any(fault.refuses for fault in faults) and not _under_way(world):
            asked_again = True
            world.put_back_dead_letters()
    differences = [*world.undone, *_differences(world)]
    accepted = sorted(backend.accepted_at)
    return Episode(
        faults=tuple(fault.name for fault in faults),
        servers=len(world.servers),
        seed=world.seed,
        connections=found.connections,
        lost=found.lost,
        wrong=found.wrong,
        misnamed=found.misnamed,
        conflicts=len(backend.conflicts) - conflicts,
        ended=sum(len(member.given_up) for member in world.everybody) - ends,
        stall_seconds=round(max((b - a for a, b in pairwise([began, *accepted])), default=0.0), 1),
        recovery_seconds=round(max(0.0, (accepted[-1] if accepted else healed) - healed), 1),
        differences=len(differences),
        example="; ".join([*filter(None, [found.example]), *differences]),
    )


def _differences(world: World) -> list[str]:
    """What the services' accounts say once nothing is under way any more."""
    found: list[str] = []
    deadline = time.monotonic() + _ACCOUNT_SECONDS
    while time.monotonic() < deadline:
        found = world.differences(verdict(world.backend, world.feeder.known))
        if not found:
            break
        time.sleep(_POLL_SECONDS)
    return found


def _under_way(world: World) -> int:
    with contextlib.suppress(OSError, TimeoutError, KeyError, nats.errors.Error):
        return world.under_way()
    return 1


def schedule(world: World, only: str, *, pairs_first: bool) -> list[tuple[Fault, ...]]:
    """Nothing wrong first, then each fault alone, in random order, and then pairs, more than there is time for.

    With `pairs_first` it is pairs at once. Where there are none to make pairs of, it is the same ones again.
    """
    possible = [
        fault
        for fault in FAULTS
        if fault.servers in {0, len(world.servers)}
        and fault.on_plain_disk != world.power_cuts
        and fault.possible(world)
        and only in fault.name
    ]
    singles: list[tuple[Fault, ...]] = [(fault,) for fault in possible]
    world.chance.shuffle(singles)
    pairable = [fault for fault in possible if not fault.alone]
    pairs = [tuple(world.chance.sample(pairable, 2)) for _ in range(_MANY)] if len(pairable) > 1 else singles * _MANY
    return [(), *([] if pairs_first else singles), *pairs]


@dataclass(frozen=True, slots=True)
class Kind:
    """A world to be in."""

    servers: int
    power_cuts: bool
    share: float
    """Of the time."""


WORLDS: Final = {
    "one": Kind(servers=1, power_cuts=True, share=0.5),
    "disk": Kind(servers=1, power_cuts=False, share=0.1),
    "three": Kind(servers=3, power_cuts=True, share=0.4),
}


def run(folder: Path, kind: Kind, seed: int, asked: argparse.Namespace, *, until: float) -> list[Episode]:
    """Episodes in such a world until then."""
    episodes = []
    with World(folder, seed, servers=kind.servers, power_cuts=kind.power_cuts) as world:
        for faults in schedule(world, asked.only, pairs_first=asked.pairs):
            if time.monotonic() + _EPISODE_SECONDS > until:
                break
            done = episode(world, faults)
            episodes.append(done)
            for server in world.servers:
                server.settle()
            _say(done.line)
    return episodes


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run, print the table, keep the result."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    parser.add_argument("--minutes", type=float, default=13.0)
    parser.add_argument("--world", choices=tuple(WORLDS), help="only this one")
    parser.add_argument("--only", default="", help="only faults whose names hold this")
    parser.add_argument("--pairs", action="store_true", help="faults in pairs at once, none alone")
    parser.add_argument("--keep", type=Path, help="leave logs and stores in this folder, also where all passed")
    parser.add_argument("--results", type=Path, help="add what came of it to this file (docs/reliability.json)")
    asked = parser.parse_args()

    _say(f"seed {asked.seed}")
    signals.heed()
    worlds = {name: WORLDS[name] for name in WORLDS if asked.world in {None, name}}
    shares, until = sum(world.share for world in worlds.values()), time.monotonic()
    episodes: list[Episode] = []
    kept = asked.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    for name, kind in worlds.items():
        until += 60 * asked.minutes * kind.share / shares
        if time.monotonic() + _EPISODE_SECONDS > until:  # not even for one: nothing is started for it
            continue
        folder = kept / name
        folder.mkdir(parents=True)
        episodes += run(folder, kind, random.Random(f"{asked.seed}/{name}").randrange(2**31), asked, until=until)
    records = [asdict(each) | {"seed": asked.seed} for each in episodes]
    _say(table(records))
    if asked.results:
        keep(asked.results, records)
    failed = [each for each in episodes if not each.passed]
    connections = sum(each.connections for each in episodes)
    if failed:
        _say(f"logs and stores are in {kept}")
    elif not asked.keep:
        shutil.rmtree(kept)
    _say(f"seed {asked.seed}: {len(episodes)} episodes, {len(failed)} failed, {connections} connections")
    return 1 if failed or not episodes else 0


if __name__ == "__main__":
    sys.exit(main())
