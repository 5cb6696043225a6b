"""What a package installs for shells and for `man` says what the commands say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documents.shell_files import FOLDER, MAN_PAGE, NAMES, files


@pytest.mark.parametrize("name", [*NAMES.values(), MAN_PAGE])
def test_installed_files_are_current(name: str) -> None:
    """`make docs` mends them."""
    assert (FOLDER / name).read_text() == files()[name]


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash")
def test_bash_completes_commands_and_options() -> None:
    """The script that is installed, in the shell that it is for."""
    script = f"""
        source {FOLDER / NAMES["bash"]}
        complete_() {{
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _wirespan_completion wirespan
            echo "${{COMPREPLY[@]}}"
        }}
        complete_ wirespan dea
        complete_ wirespan tap --slow
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["dead-letters", "--slower-than"]


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff")
def test_the_man_page_is_read_without_a_complaint() -> None:
    """Every line of it means something to what formats it."""
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", FOLDER / MAN_PAGE], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "wirespan tap" in done.stdout
