"""Files that hold who talks to whom are their owner's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from services.exporter.delivery.file import FileSink
from services.exporter.errors import OutputFileError
from services.runtime.privacy.private_files import refuse_planted_link, write_private

NOBODY = 65534


def mode(path: Path) -> int:
    """The file's permissions."""
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def anybodys(tmp_path: Path) -> Path:
    """A folder in which anybody may make files, as /tmp."""
    folder = tmp_path / "anybodys"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


async def test_spans_are_their_owners_alone(tmp_path: Path) -> None:
    """A new file of spans is readable by nobody else; one that is there keeps what its owner chose."""
    (tmp_path / "shared.jsonl").touch(mode=0o640)
    for name, wanted in (("new.jsonl", 0o600), ("shared.jsonl", 0o640)):
        await FileSink(tmp_path / name).close()
        assert mode(tmp_path / name) == wanted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is another's")
def test_a_planted_link_is_not_followed(anybodys: Path, tmp_path: Path) -> None:
    """Where anybody may make files, another user's link is refused, by name; one's own, and links elsewhere, are followed."""
    target = tmp_path / "target"
    planted, own = anybodys / "planted", anybodys / "own"
    planted.symlink_to(target)
    os.lchown(planted, NOBODY, NOBODY)
    own.symlink_to(target)
    with pytest.raises(OutputFileError, match=r"planted: .*another user has made"):
        FileSink(planted)
    assert not target.exists()
    refuse_planted_link(own)
    refuse_planted_link(Path("/dev/stdout"))
    refuse_planted_link(anybodys / "absent")


def test_a_private_file_replaces_what_was_there(anybodys: Path, tmp_path: Path) -> None:
    """What is written is its owner's alone, though a readable file was there before, and a link is replaced, not followed."""
    target, link, old = tmp_path / "target", anybodys / "link", anybodys / "old"
    target.write_text("theirs")
    link.symlink_to(target)
    old.touch(mode=0o644)
    for path in (link, old):
        write_private(path, "ours")
        assert (path.read_text(), mode(path), path.is_symlink()) == ("ours", 0o600, False)
    assert target.read_text() == "theirs"
    assert {each.name for each in anybodys.iterdir()} == {"link", "old"}
