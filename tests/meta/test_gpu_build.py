"""tools/gpu_build keeps what it found: compiled once, told again with the same verdict, and anew where in doubt."""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tools.gpu_build import kept, report
from tools.gpu_build.budgets import Built
from tools.gpu_build.build import Job
from tools.gpu_build.facts import Facts, LoopFacts

ROOT = Path(__file__).parents[2]
LOOP = LoopFacts("rows.py:68", 16.0, 150, 0, 0, 16, 0)


class Compiler:
    """Stands in for the compilation: remembers what it was asked for."""

    def __init__(self, spilled=0):
        self.spilled, self.asked = spilled, []

    def __call__(self, jobs):
        for job in jobs:
            self.asked.append(job)
            facts = Facts(40 + job.share, self.spilled, 512, 128, 128, 32, 900, (LOOP,))
            about = ("row_stats", "row_stats", "long", "index", "bf16", f"call {job.share}")
            yield job, [Built(job.target, *about, True, facts, 0.5)]


@pytest.fixture
def jobs():
    return [Job(target, share) for target in ("sm_90", "gfx942") for share in range(2)]


def test_what_was_compiled_is_not_compiled_again(jobs, tmp_path):
    compiler = Compiler()
    first = kept.collect(jobs, tmp_path, "key", compiler)
    assert compiler.asked == jobs
    assert kept.collect(jobs, tmp_path, "key", compiler) == first
    assert compiler.asked == jobs
    assert report.verdict([b for built in first.values() for b in built]) == 0


def test_another_key_or_another_target_is_compiled(jobs, tmp_path):
    compiler = Compiler()
    _ = kept.collect(jobs[:2], tmp_path, "key", compiler)
    _ = kept.collect(jobs, tmp_path, "key", compiler)
    assert compiler.asked == jobs
    _ = kept.collect(jobs[:1], tmp_path, "other key", compiler)
    assert compiler.asked == [*jobs, jobs[0]]


def test_a_fault_that_was_found_is_found_again(jobs, tmp_path, capsys):
    compiler = Compiler(spilled=8)
    _ = kept.collect(jobs, tmp_path, "key", compiler)
    again = kept.collect(jobs, tmp_path, "key", compiler)
    assert compiler.asked == jobs
    assert report.verdict([b for built in again.values() for b in built]) == 1
    assert "sm_90 row_stats, call 1: 8 bytes spilled" in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-40],
        lambda text: "[[], 0]",
        lambda text: "{}",
        lambda text: text.replace("40", "41", 1),
        lambda text: json.dumps([[["sm_90"]], ""]),
        lambda text: "\0\0",
    ],
    ids=["empty", "cut off", "nothing", "an object", "a number changed", "a row too short", "no text"],
)
def test_a_file_that_is_not_as_it_was_written_is_compiled_anew(jobs, tmp_path, spoil):
    compiler = Compiler()
    first = kept.collect(jobs, tmp_path, "key", compiler)
    file = tmp_path / "key-sm_90-0.json"
    _ = file.write_text(spoil(file.read_text()))
    assert kept.collect(jobs, tmp_path, "key", compiler) == first
    assert compiler.asked == [*jobs, jobs[0]]
    assert kept.collect(jobs, tmp_path, "key", compiler) == first
    assert compiler.asked == [*jobs, jobs[0]]


def test_what_was_not_used_for_a_month_is_forgotten(jobs, tmp_path):
    compiler, old = Compiler(), tmp_path / "old-sm_90-0.json"
    _ = old.write_text("[]")
    os.utime(old, (0, time.time() - 31 * 86400))
    _ = kept.collect(jobs, tmp_path, "key", compiler)
    assert not old.exists()
    assert len(list(tmp_path.iterdir())) == len(jobs)


@pytest.mark.slow
def test_the_key_depends_on_kernels_launcher_check_and_compiler_and_not_on_the_place(tmp_path, monkeypatch):
    def checkout(name):
        for path in kept.sources(ROOT):
            copy = tmp_path / name / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            _ = copy.write_bytes(path.read_bytes())
        return tmp_path / name

    monkeypatch.setattr(kept, "code_of", lru_cache(maxsize=None)(kept.code_of))  # a file that is the same is read once
    one, two = checkout("one"), checkout("two")
    assert kept.digest(one) == kept.digest(two) == kept.digest(ROOT)
    names = {path.relative_to(two).as_posix() for path in kept.sources(two)}
    kernels = "src/crossent/kernels/triton"
    assert {f"{kernels}/rows.py", f"{kernels}/task.py", "src/crossent/spec.py", "tools/gpu_build/facts.py"} <= names
    for name in sorted(names):
        text = (two / name).read_bytes()
        _ = (two / name).write_bytes(text + b"\nMORE = 1\n")
        assert kept.digest(two) != kept.digest(one), name
        _ = (two / name).write_bytes(b"# a comment\n\n" + text)
        assert kept.digest(two) == kept.digest(one), name
        _ = (two / name).write_bytes(text)
    monkeypatch.setattr(kept, "version", lambda name: "0.0")
    changed = kept.digest(one)
    monkeypatch.setattr(kept, "version", lambda name: "0.1")
    assert kept.digest(one) != changed


def test_words_are_no_code_and_everything_else_is():
    code = 'def kernel(x):\n    """Words."""\n    return x + 1\n'
    for same in (
        '"""Words."""\n' + code,
        code.replace("Words", "Other words"),
        code.replace("x + 1", "(x +  1)  # one"),
    ):
        assert kept.code_of(same) == kept.code_of(code)
    for other in (code.replace("x + 1", "x + 2"), code.replace("return x", "return 'x'"), "@jit\n" + code):
        assert kept.code_of(other) != kept.code_of(code)
    annotated = code.replace("(x)", '(x: "i64")')
    assert kept.code_of(annotated) != kept.code_of(code)


def test_the_cache_lies_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept.cache_folder() == tmp_path / "crossent" / "gpu-build"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert kept.cache_folder() == tmp_path / "home" / ".cache" / "crossent" / "gpu-build"
