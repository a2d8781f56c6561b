"""tools/gpu_build keeps what it found: compiled once, told again with the same verdict, and anew where in doubt."""

from __future__ import annotations

import json
import os
import time
from functools import lru_cache
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("triton")

from triton.runtime import driver

from tools.gpu_build import brief, build, kept, report
from tools.gpu_build.budgets import BUDGETED_DTYPES, BUDGETED_LAYOUTS, BUDGETS, Built, faults
from tools.gpu_build.build import BRIEF, SHARES, Job
from tools.gpu_build.calls import calls
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
            facts = Facts(48 if job.share == BRIEF else 40 + job.share, self.spilled, 512, 128, 128, 32, 900, (LOOP,))
            about = ("row_stats", "row_stats", "long", "index", "bf16", f"call {job.share}")
            yield job, [Built(job.target, *about, True, facts, 0.5)]


@pytest.fixture
def jobs():
    return [Job(target, share) for target in ("sm_80", "gfx942") for share in range(2)]


def test_what_was_compiled_is_not_compiled_again(jobs, tmp_path):
    compiler = Compiler()
    first = kept.collect(jobs, tmp_path, "key", compiler)
    assert compiler.asked == jobs
    assert kept.collect(jobs, tmp_path, "key", compiler) == first
    assert compiler.asked == jobs
    assert report.verdict([b for built in first.values() for b in built], ["sm_80", "gfx942"]) == 0


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
    assert report.verdict([b for built in again.values() for b in built], ["sm_80", "gfx942"]) == 1
    assert "sm_80 row_stats, call 1: 8 bytes spilled" in capsys.readouterr().out


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: "",
        lambda text: text[:-40],
        lambda text: "[[], 0]",
        lambda text: "{}",
        lambda text: text.replace("40", "41", 1),
        lambda text: json.dumps([[["sm_80"]], ""]),
        lambda text: "\0\0",
    ],
    ids=["empty", "cut off", "nothing", "an object", "a number changed", "a row too short", "no text"],
)
def test_a_file_that_is_not_as_it_was_written_is_compiled_anew(jobs, tmp_path, spoil):
    compiler = Compiler()
    first = kept.collect(jobs, tmp_path, "key", compiler)
    file = tmp_path / "key-sm_80-0.json"
    _ = file.write_text(spoil(file.read_text()))
    assert kept.collect(jobs, tmp_path, "key", compiler) == first
    assert compiler.asked == [*jobs, jobs[0]]
    assert kept.collect(jobs, tmp_path, "key", compiler) == first
    assert compiler.asked == [*jobs, jobs[0]]


def test_what_was_not_used_for_a_month_is_forgotten(jobs, tmp_path):
    compiler, old = Compiler(), tmp_path / "old-sm_80-0.json"
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
    assert {f"{kernels}/rows.py", f"{kernels}/task.py", "src/crossent/spec.py"} <= names
    assert {"tools/gpu_build/facts.py", "tools/covering.py"} <= names
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


# few calls of each kernel


def test_few_calls_are_compiled_once(tmp_path):
    compiler = Compiler()
    jobs = kept.jobs_of("sm_80", tmp_path, "key", brief=True)
    assert jobs == [Job("sm_80", BRIEF)]
    first = kept.collect(jobs, tmp_path, "key", compiler)
    assert kept.jobs_of("sm_80", tmp_path, "key", brief=True) == jobs
    assert kept.collect(jobs, tmp_path, "key", compiler) == first
    assert compiler.asked == jobs
    _ = kept.collect(jobs, tmp_path, "other key", compiler)
    assert compiler.asked == jobs * 2


def test_few_calls_are_no_share_of_all(tmp_path):
    compiler, whole = Compiler(), [Job("sm_80", share) for share in range(SHARES)]
    _ = kept.collect(kept.jobs_of("sm_80", tmp_path, "key", brief=True), tmp_path, "key", compiler)
    assert kept.jobs_of("sm_80", tmp_path, "key", brief=False) == whole
    _ = kept.collect(whole, tmp_path, "key", compiler)
    assert compiler.asked == [Job("sm_80", BRIEF), *whole]


def test_results_of_all_calls_are_used_where_they_are_kept(tmp_path):
    compiler, whole = Compiler(), [Job("sm_80", share) for share in range(SHARES)]
    _ = kept.collect(whole[1:], tmp_path, "key", compiler)
    assert kept.jobs_of("sm_80", tmp_path, "key", brief=True) == [Job("sm_80", BRIEF)]
    results = kept.collect(whole, tmp_path, "key", compiler)
    assert kept.jobs_of("sm_80", tmp_path, "key", brief=True) == whole
    assert kept.collect(whole, tmp_path, "key", compiler) == results
    assert len(compiler.asked) == SHARES
    for target, key in (("gfx942", "key"), ("sm_80", "other key")):
        assert kept.jobs_of(target, tmp_path, key, brief=True) == [Job(target, BRIEF)]
    _ = kept.file_of(tmp_path, "key", whole[0]).write_text("cut off")
    assert kept.jobs_of("sm_80", tmp_path, "key", brief=True) == [Job("sm_80", BRIEF)]


def test_a_brief_job_compiles_few_calls_and_a_share_is_one_of_all(monkeypatch):
    monkeypatch.setattr(build, "brief", lambda target: f"few for {target}")
    monkeypatch.setattr(build, "calls", lambda: "all")
    monkeypatch.setattr(build, "compiled", lambda *arguments: arguments)
    assert build.build(Job("sm_80", BRIEF)) == ("sm_80", "few for sm_80")
    assert build.build(Job("sm_80", 3)) == ("sm_80", "all", 3)


@pytest.fixture
def without_driver(monkeypatch):
    """Leaves Triton as it was: a driver that only compiles would stay."""
    monkeypatch.setattr(driver, "_active", None)


def about(call):
    """Tell calls apart that are made anew."""
    return call.function, call.layout, call.label


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_few_calls_hold_every_value_of_every_option_of_every_kernel(target, without_driver):
    options = {about(call): held for call, held in brief.options_of(target, calls())}
    few = {about(call) for call in brief.brief(target)}
    every = set().union(*options.values())
    assert set().union(*(options[name] for name in few)) == every
    assert len(few) < len(options) / 4
    # that these are options at all: wide and narrow tiles, dense targets, the three kinds of gradient, and layouts
    for kernel in ("row_grad", "row_grad wide"):
        assert {(kernel, "DENSE", value) for value in (False, True)} <= every
    assert {("row_grad wide", "G", kind) for kind in range(3)} <= every
    assert {("row_stats wide", "layout", name) for name in ("long", "even", "middle")} <= every
    assert {"finish", "few_grad", "pair_stats", "pair_grad wide", "row_cached"} <= {kernel for kernel, _, _ in every}


@pytest.mark.slow
def test_few_calls_hold_all_that_have_a_budget_for_its_chip(without_driver):
    few = {about(call) for call in brief.brief("sm_90")}
    budgeted = [call for call in calls() if brief.has_budget(call)]
    wanted = {
        (*key, layout, dtype) for key, layout, dtype in product(BUDGETS, BUDGETED_LAYOUTS, BUDGETED_DTYPES)
    }  # fmt: skip
    assert {(call.function, call.kind, call.layout, call.dtype) for call in budgeted} == wanted
    assert {about(call) for call in budgeted} <= few
    assert not {about(call) for call in budgeted} <= {about(call) for call in brief.brief("sm_80")}


def with_budgets(target):
    """Kernels within all budgets."""
    facts = Facts(60, 0, 512, 128, 128, 32, 250, (LOOP,))
    return [
        Built(target, "a kernel", function, "long", kind, dtype, "", True, facts, 0.0)
        for (function, kind), dtype in product(BUDGETS, BUDGETED_DTYPES)
    ]


def test_a_kernel_with_a_budget_has_to_be_there(capsys):
    built = with_budgets("sm_90")
    assert report.verdict(built, ["sm_90"]) == 0
    for place, left_out in enumerate(built):
        assert report.verdict(built[:place] + built[place + 1 :], ["sm_90"]) == 1
        words = f"sm_90 {left_out.function}, {left_out.kind}, {left_out.dtype}: there is a budget, but no kernel"
        assert words in capsys.readouterr().out
    assert report.verdict([built[0]._replace(sweeps=False), *built[1:]], ["sm_90"]) == 1
    assert report.verdict([built[0]._replace(target="sm_80"), *built[1:]], ["sm_80", "sm_90"]) == 1
    assert report.verdict(with_budgets("sm_80")[:1], ["sm_80"]) == 0


def test_a_target_without_kernels_is_an_error(capsys):
    assert report.verdict(with_budgets("sm_90"), ["sm_90", "gfx942"]) == 1
    assert "gfx942: no kernel was compiled" in capsys.readouterr().out
    assert report.verdict([], []) == 1


@pytest.mark.parametrize(
    ("kernel", "said"), [("row_stats", []), ("row_grad", ["narrow: loads of 128 bits, stores of 32"])]
)
def test_narrow_stores_are_a_fault_of_kernels_that_write_a_gradient(kernel, said):
    # a call for a gradient is the first to launch row_stats, where no other call does
    facts = Facts(40, 0, 512, 128, 32, 32, 200, (LOOP,))
    assert faults(Built("sm_80", kernel, "row_grad", "long", "dense", "bf16", "", True, facts, 0.0)) == said
