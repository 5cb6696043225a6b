"""The index says who owns a cgroup id, now and for a while after, at a cost that does not grow with the cgroups of the node."""

import ctypes
import os
import select
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from proto.columns import NO_INDEX
from services.capture.live.owners import cgroups
from services.capture.live.owners.cgroups import CgroupIndex, NoCgroup2Error, cgroup_id, find_root

UID = "1e6a2f34-90ab-4cde-8f01-23456789abcd"
ID = "c0ffee" + "12" * 29
OTHER_ID = "deadbeef" * 8
POD_SLICE = f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}.slice"

TREES = {
    "systemd, containerd": (f"{POD_SLICE}/cri-containerd-{ID}.scope", "containerd"),
    "systemd, CRI-O": (f"{POD_SLICE}/crio-{ID}.scope", "cri-o"),
    "systemd, cri-dockerd": (f"{POD_SLICE}/docker-{ID}.scope", "docker"),
    "cgroupfs, containerd": (f"kubepods/burstable/pod{UID}/{ID}", None),
    "cgroupfs, CRI-O": (f"kubepods/burstable/pod{UID}/crio-{ID}", "cri-o"),
    "kind": (
        f"system.slice/docker-{OTHER_ID}.scope/kubelet.slice/kubelet-{POD_SLICE.rpartition('/')[2]}/cri-containerd-{ID}.scope",
        "containerd",
    ),
    "k3s": (f"system.slice/k3s.service/kubepods/besteffort/pod{UID}/{ID}", None),
}


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.seconds = 1000.0

    def __call__(self):
        """What time.monotonic is."""
        return self.seconds


@pytest.fixture
def clock():
    """Time that stands still until it is moved."""
    return Clock()


@pytest.fixture
def root(tmp_path):
    """A cgroup tree's root."""
    path = tmp_path / "cgroup"
    path.mkdir()
    return path


@pytest.fixture
def index(root, clock):
    """An index over `root`."""
    with CgroupIndex(root, remember_seconds=60, rescan_seconds=2, monotonic_seconds=clock) as opened:
        yield opened


def make(root, path):
    """Make a cgroup as a runtime does, its parents first, and return its id."""
    (root / path).mkdir(parents=True)
    return cgroup_id(root / path)


def ids(*values):
    """A column of cgroup ids."""
    return np.array(values, "<u8")


@pytest.fixture
def no_inotify(monkeypatch):
    """A kernel that has no watches left to give."""
    monkeypatch.setattr(cgroups._Inotify, "open", lambda _: False)


@pytest.mark.parametrize(("path", "runtime"), TREES.values(), ids=TREES)
def test_tree_of_each_runtime_resolves(root, clock, path, runtime):
    """A tree as each driver and runtime makes it gives pod uid and container id, for the container and its sub-cgroups."""
    container = make(root, path)
    below = make(root, f"{path}/system.slice/java.service")
    with CgroupIndex(root, monotonic_seconds=clock) as index:
        indexes, table = index.rows(ids(below, container, below))
    assert indexes.tolist() == [0, 0, 0]
    assert indexes.dtype == np.uint32
    (row,) = table
    assert (row["pod_uid"], row["container_id"], row.get("container_runtime")) == (UID, ID, runtime)
    assert row["cgroup"] == f"/{path}"


def test_rows_point_at_one_row_per_owner(root, index):
    """A batch's table holds each owner once; ids of nobody and of no socket have no row."""
    nginx = make(root, "system.slice/nginx.service")
    worker = make(root, "system.slice/nginx.service/worker")
    pod = make(root, f"{POD_SLICE}/cri-containerd-{ID}.scope")
    indexes, table = index.rows(ids(nginx, 0, pod, 2**63 + 5, worker, nginx))
    owners = [table[position]["cgroup"] if position != NO_INDEX else None for position in indexes]
    assert owners == [
        "/system.slice/nginx.service",
        None,
        f"/{POD_SLICE}/cri-containerd-{ID}.scope",
        None,
        "/system.slice/nginx.service",
        "/system.slice/nginx.service",
    ]
    assert len(table) == 2


def test_an_empty_batch_has_no_rows(index):
    """No records, no table."""
    indexes, table = index.rows(ids())
    assert (indexes.tolist(), table) == ([], [])


def test_new_cgroups_are_known_without_a_scan(root, index):
    """A cgroup made after the start, at any depth, is known at the next batch, through its event and not through a scan."""
    for number in range(5):
        container = make(root, f"kubepods/pod{UID}/{number:064x}/a/b/c")
        assert index.rows(ids(container))[1][0]["container_id"] == f"{number:064x}"
    assert index.counts.scans == 1
    assert index.counts.watching


def test_the_descriptor_tells_when_something_happened(root, index):
    """An event loop may wait for the index: its descriptor is readable when a cgroup came, and not once that was taken in."""
    assert select.select([index.fileno()], [], [], 0)[0] == []
    nginx = make(root, "nginx.service")
    assert select.select([index.fileno()], [], [], 10)[0] == [index.fileno()]
    index.refresh()
    assert select.select([index.fileno()], [], [], 0)[0] == []
    assert index.owner(nginx).systemd_unit == "nginx.service"


def test_the_dead_are_remembered_for_a_while(root, index, clock):
    """Records of a container that is gone still name it, until `remember_seconds` later; memory is given back then."""
    path = f"kubepods/pod{UID}/{ID}"
    container = make(root, path)
    index.refresh()
    before = index.counts.live
    (root / path).rmdir()
    index.refresh()
    assert (index.counts.live, index.counts.remembered) == (before - 1, 1)
    clock.seconds += 59
    assert index.rows(ids(container))[1][0]["container_id"] == ID
    clock.seconds += 2
    assert index.rows(ids(container)) == ([NO_INDEX], [])
    assert index.counts.remembered == 0


def test_a_node_full_of_jobs_does_not_fill_memory(root, clock):
    """Of many short containers the latest are remembered, and no more of them than was agreed."""
    with CgroupIndex(root, max_remembered=10, monotonic_seconds=clock) as index:
        made = []
        for number in range(30):
            made.append(make(root, f"job-{number}.service"))
            index.refresh()
        for number in range(30):
            (root / f"job-{number}.service").rmdir()
        index.refresh()
        assert index.counts.remembered == 10
        # a plain file system hands inode numbers out again, so only the last is sure to be still its own
        assert index.owner(made[-1]).systemd_unit == "job-29.service"
        assert len(index._owners) == len(index._by_path) + 10
        assert len(index._by_watch) == len(index._by_path) == 1


def test_cgroup_made_again_under_its_name_is_another(root, index):
    """A unit that restarts has a new cgroup: both ids have their owner, the old one as remembered."""
    old = make(root, "web.service")
    index.refresh()
    (root / "web.service").rename(root.parent / "elsewhere")  # keeps its inode number from being used again
    new = make(root, "web.service")
    index._scan()
    assert old != new
    assert index.owner(old).systemd_unit == index.owner(new).systemd_unit == "web.service"
    assert index.counts.remembered == 1


def test_unknown_ids_lead_to_one_scan(root, index, clock):
    """An id of nobody costs a scan once, and not before the last scan is `rescan_seconds` old."""
    index.rows(ids(2**40))
    assert index.counts.scans == 1
    clock.seconds += 2
    for _ in range(5):
        clock.seconds += 2
        assert index.rows(ids(2**40, 2**41))[0].tolist() == [NO_INDEX, NO_INDEX]
    assert index.counts.scans == 2
    assert index.counts.unknown == 2
    index.rows(ids(2**42, *range(2**43, 2**43 + 1000)))
    assert index.counts.scans == 3


def test_lost_events_are_made_up_for(root, index):
    """When the kernel's queue of events overflows, a scan finds what they would have told."""
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 50_000:
        pytest.skip(f"fs.inotify.max_queued_events is {limit}: too many events to make here")
    gone = make(root, "gone.service")
    index.refresh()
    for number in range(limit // 2 + 10):
        (root / f"{number}").mkdir()
        (root / f"{number}").rmdir()
    (root / "gone.service").rename(root.parent / "elsewhere")
    late = make(root, "late.service")
    index.refresh()
    index.refresh()
    assert index.counts.overflows == 1
    assert index.owner(late).systemd_unit == "late.service"
    assert index.owner(gone).systemd_unit == "gone.service"
    assert index.counts.live == 2


def test_without_watches_it_scans_now_and_then(root, clock, no_inotify):
    """Where the kernel refuses watches, new cgroups are found by scans, `rescan_seconds` apart, and the log says so once."""
    with capture_logs() as logs, CgroupIndex(root, rescan_seconds=2, monotonic_seconds=clock) as index:
        assert index.fileno() == -1
        nginx = make(root, "nginx.service")
        assert index.rows(ids(nginx))[1] == []
        clock.seconds += 2
        assert index.rows(ids(nginx))[1][0]["systemd_unit"] == "nginx.service"
        (root / "nginx.service").rmdir()
        clock.seconds += 2
        assert index.rows(ids(nginx))[1][0]["systemd_unit"] == "nginx.service"
        assert index.counts.remembered == 1
        assert not index.counts.watching
    assert [entry["event"] for entry in logs] == ["cgroups.watch_refused"]


def test_watches_that_run_out_come_back(root, clock, monkeypatch):
    """When the kernel gives no more watches everything is still found, and watching resumes once it gives them again."""
    library = ctypes.CDLL(None, use_errno=True)
    left = [3]

    def add_watch(descriptor, path, mask):
        left[0] -= 1
        if left[0] < 0:
            ctypes.set_errno(28)
            return -1
        return library.inotify_add_watch(descriptor, path, mask)

    made = [make(root, f"unit-{number}.service") for number in range(6)]
    with capture_logs() as logs, CgroupIndex(root, rescan_seconds=2, monotonic_seconds=clock) as index:
        monkeypatch.setattr(index._inotify._library, "inotify_add_watch", add_watch)
        made += [make(root, f"late-{number}.service") for number in range(6)]
        index.refresh()
        clock.seconds += 2
        index.refresh()
        assert not index.counts.watching
        assert all(index.owner(cgroup) for cgroup in made)
        left[0] = 1_000
        clock.seconds += 2
        index.refresh()
        assert index.counts.watching
        deep = make(root, "late-5.service/deep")
        assert index.rows(ids(deep))[1][0]["systemd_unit"] == "late-5.service"
    assert [entry["event"] for entry in logs] == ["cgroups.watch_refused", "cgroups.watch_resumed"]


def test_more_cgroups_than_agreed_are_left_out_and_counted(root, clock):
    """The index is bounded: what does not fit is counted and everything else works."""
    for number in range(20):
        make(root, f"unit-{number}.service")
    with CgroupIndex(root, max_cgroups=10, monotonic_seconds=clock) as index:
        assert index.counts.live == 10
        assert index.counts.refused == 11


def test_names_that_are_no_text_do_no_harm(root, index):
    """A cgroup may be called any bytes; its row can be sent all the same."""
    cgroup = make(root, os.fsdecode(b"\xff\xfe\n\x1b[31m"))
    indexes, table = index.rows(ids(cgroup))
    assert indexes.tolist() == [0]
    assert table[0]["cgroup"] == "/\ufffd\ufffd\ufffd\ufffd[31m"


def test_root_that_is_not_there_is_an_error(tmp_path):
    """Pointing the index at nothing fails at once and not as an empty answer for ever."""
    with pytest.raises(FileNotFoundError):
        CgroupIndex(tmp_path / "none")


def mounts_file(tmp_path, *mounts):
    """A /proc/mounts that lists these (device, directory, type), and the directories, each with what a cgroup has."""
    lines = []
    for device, path, kind in mounts:
        path.mkdir(parents=True)
        if kind == "cgroup2":
            (path / "cgroup.procs").touch()
        written = str(path).replace(" ", "\\040")
        lines.append(f"{device} {written} {kind} rw,relatime 0 0\n")
    file = tmp_path / "mounts"
    file.write_text("".join(lines))
    return file


def test_root_of_a_unified_host(tmp_path):
    """cgroup2 is found where it is mounted, whatever the directory is called."""
    path = tmp_path / "sys fs" / "cgroup"
    assert find_root(mounts_file(tmp_path, ("tmpfs", tmp_path / "a", "tmpfs"), ("cgroup2", path, "cgroup2"))) == path


def test_root_of_a_hybrid_host(tmp_path):
    """Beside version 1 controllers it is the mount of version 2 that counts."""
    file = mounts_file(
        tmp_path,
        ("cgroup", tmp_path / "cgroup/memory", "cgroup"),
        ("cgroup", tmp_path / "cgroup/systemd", "cgroup"),
        ("cgroup2", tmp_path / "cgroup/unified", "cgroup2"),
    )
    assert find_root(file) == tmp_path / "cgroup/unified"


def test_root_below_what_is_given(tmp_path):
    """A hybrid host's /sys/fs/cgroup, given to a container, is searched; cgroup2 itself, given, is taken; else it is said."""
    file = mounts_file(
        tmp_path,
        ("cgroup2", tmp_path / "own", "cgroup2"),
        ("tmpfs", tmp_path / "host", "tmpfs"),
        ("cgroup", tmp_path / "host/memory", "cgroup"),
        ("cgroup2", tmp_path / "host/unified", "cgroup2"),
    )
    assert find_root(file, given=tmp_path / "host") == tmp_path / "host/unified"
    assert find_root(file, given=tmp_path / "host/unified") == tmp_path / "host/unified"
    for without in ("elsewhere", "host/memory"):
        with pytest.raises(NoCgroup2Error, match=f"{without} or below it"):
            find_root(file, given=tmp_path / without)


def test_root_with_the_smallest_id_wins(tmp_path):
    """In a container that is given the host's tree beside its own, the host's is taken: an ancestor has the smaller id."""
    file = mounts_file(tmp_path, ("cgroup", tmp_path / "x", "cgroup2"), ("cgroup", tmp_path / "y", "cgroup2"))
    assert find_root(file) == min(tmp_path / "x", tmp_path / "y", key=cgroup_id)
    mirrored = tmp_path / "mirrored"
    mirrored.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
    assert find_root(mirrored) == find_root(file)


def test_mounts_that_cannot_be_used_are_passed_over(tmp_path):
    """A mount that is hidden under another, or not there any more, is no candidate; without any the error says what to do."""
    file = mounts_file(tmp_path, ("cgroup2", tmp_path / "hidden", "cgroup2"))
    (tmp_path / "hidden" / "cgroup.procs").unlink()
    with file.open("a") as text:
        text.write(f"cgroup2 {tmp_path}/gone cgroup2 rw 0 0\nshort line\n")
    with pytest.raises(NoCgroup2Error, match="read-only is enough"):
        find_root(file)


def test_a_tree_that_shows_its_own_group_only_is_none(tmp_path):
    """In a cgroup namespace of its own a container sees what itself does and no more: said, not found out by watching nothing.
    Whoever names it wants it; and where the processes are in groups below, it is a machine of its own.
    """
    root = tmp_path / "own"
    file = mounts_file(tmp_path, ("cgroup2", root, "cgroup2"))
    (root / "cgroup.events").write_text("populated 1\n")
    assert find_root(file) == root
    (root / "cgroup.procs").write_text(f"{os.getpid()}\n")
    with pytest.raises(NoCgroup2Error, match="a container's own part"):
        find_root(file)
    assert find_root(file, given=root) == root
