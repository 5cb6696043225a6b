"""The fuzz targets build, and a bounded run over our own packets and files and their mutations finds nothing."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

import bpf
from tests.support.packets import fuzz_seeds

pytestmark = pytest.mark.timeout(900)  # a machine that is busy compiles the target for minutes

RUNS = 20_000
FLAGS = ["-std=gnu11", "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module", params=fuzz_seeds.TARGETS)
def target(request, tmp_path_factory):
    """A target's name and its program; skips where clang or its fuzzing library is not there."""
    compiler = shutil.which("clang")
    if compiler is None:
        pytest.skip("clang is not installed; test_sanitizers.py goes on without it")
    program = tmp_path_factory.mktemp("fuzz") / "fuzz"
    built = subprocess.run(
        [compiler, *FLAGS, "-o", program, bpf.SOURCE_DIRECTORY / request.param / "fuzz.c"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "libclang_rt" in built.stderr:
        pytest.skip("clang has no fuzzing library (libclang-rt-dev)")
    assert built.returncode == 0, built.stderr
    return request.param, program


def test_a_bounded_run_finds_nothing(target, tmp_path):
    """No sanitizer report and no counter that does not add up."""
    name, program = target
    assert fuzz_seeds.write(tmp_path / "corpus", name) > 5
    command = [program, f"-runs={RUNS}", "-seed=1", "-max_len=4096", "-rss_limit_mb=1024", tmp_path / "corpus"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-4000:]
    assert int(re.search(r"Done (\d+) runs", result.stderr)[1]) >= RUNS
