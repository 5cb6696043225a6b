"""A guest for each of Debian's kernels, up for as long as its tests take; what held there is written down."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.support.node.live_capture import reason_to_skip
from tests.support.vm.debian import ArchiveUnavailableError
from tests.support.vm.guest import Guest, emulator
from tests.support.vm.kernels import KERNELS, Kernel, KernelFiles, kernel_files
from tests.support.vm.told import Told
from tests.support.vm.userland import userland

KERNEL_PARAMETERS = [pytest.param(kernel, id=name) for name, kernel in KERNELS.items()]
TOLD = pytest.StashKey[dict[str, Told]]()


class ByKernel(LoadScopeScheduling):
    """All tests of a kernel go to one worker, which has its guest."""

    def _split_scope(self, nodeid: str) -> str:
        return next((name for name in KERNELS if f"[{name}" in nodeid), nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByKernel:
    """Share the kernels out among the workers."""
    return ByKernel(config, log)


@pytest.fixture(scope="session", params=KERNEL_PARAMETERS)
def files(request: pytest.FixtureRequest) -> KernelFiles:
    """A kernel and what its guest is made of, in the cache; the reason to skip where that is not to be had."""
    kernel: Kernel = request.param
    if reason := reason_to_skip():
        pytest.skip(reason)
    if not shutil.which(emulator(kernel.architecture)):
        pytest.skip(f"{emulator(kernel.architecture)} is not installed")
    try:
        userland(kernel.architecture)
        return kernel_files(kernel)
    except ArchiveUnavailableError as error:
        pytest.skip(f"{kernel.name}: {error}")


@pytest.fixture(scope="session")
def guest(files: KernelFiles, told: Told) -> Iterator[Guest]:
    """The guest."""
    with Guest(files) as machine:
        yield machine
    told.write()


@pytest.fixture(scope="session")
def told(request: pytest.FixtureRequest, files: KernelFiles) -> Told:
    """What the tests of this kernel have to tell."""
    return request.config.stash.setdefault(TOLD, {}).setdefault(files.kernel.name, Told(files))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Note each test's promise with the kernel that it was held, or not held, on."""
    report = yield
    found = item.config.stash.get(TOLD, {}).get(item.callspec.params["files"].name)
    if found and not report.skipped and (call.when == "call" or report.failed):
        found.note(item.obj.__doc__, passed=report.passed)
    return report
