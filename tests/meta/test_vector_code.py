"""tools/vector_code.py: it tells vector code from scalar code, of the core's own arithmetic and of listings."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tools import other_systems, vector_code
from tools.vector_code import Code, Loop

ROOT = Path(__file__).parents[2]
COMPILER, OBJDUMP = "aarch64-linux-gnu-g++", "aarch64-linux-gnu-objdump"
SOURCE = """\
#include "math.h"
namespace crossent {
void row(const float* x, float peak, float* to) {
#pragma omp simd
    for (int i = 0; i < 4096; ++i) to[i] = exp_nonpositive(x[i] - peak, -80.0f) * 3.0f;
}
void called(const double* x, double* to) {
#pragma omp simd
    for (int i = 0; i < 4096; ++i) {
        to[i] = log_positive(x[i] * 2.0);
    }
}
}  // namespace crossent
"""
LISTING = """\
0000000000000000 <crossent::row(float const*)>:
crossent::row(float const*):
/somewhere/cpp/rows.h:3
   0:\tldr\tq0, [x0]
/somewhere/cpp/rows.h:12
   4:\tfmla\tv0.4s, v1.4s, v2.4s
   8:\tfadd\ts0, s1, s2
/somewhere/cpp/rows.h:20 (discriminator 3)
   c:\tfmadd\td0, d1, d2, d0
  10:\tb.ne\t0 <crossent::row(float const*)>  // b.any

0000000000000020 <crossent::other()>:
crossent::other():
  20:\tfmul\ts0, s1, s2
/somewhere/cpp/rows.h:12
  24:\tfmul\ts0, s1, s2
inlined by /somewhere/cpp/rows.h:20 (crossent::other())
  26:\tfmla\tv0.4s, v1.4s, v2.4s
/somewhere/cpp/math.h:99
inlined by /somewhere/cpp/rows.h:20 (crossent::other())
  27:\tfmul\ts0, s1, s2
inlined by /somewhere/cpp/rows.h:20 (crossent::other())
  28:\tfmul\ts0, s1, s2
/usr/include/c++/12/cmath:12
  2c:\tfmul\tv0.2d, v1.2d, v2.2d
"""


def test_a_loop_ends_with_its_statement_or_its_brace(tmp_path: Path) -> None:
    path = tmp_path / "rows.h"
    _ = path.write_text(SOURCE, encoding="utf-8")
    assert [loop[:3] for loop in vector_code.loops_of(path)] == [("rows.h", 5, 5), ("rows.h", 9, 11)]
    _ = path.write_text(
        "#pragma omp simd\n    for (int i = 0; i < 3; ++i)\n        x[i] = f(\n            i);\n    y();\n"
    )
    [loop] = vector_code.loops_of(path)
    assert (loop.first, loop.last) == (2, 4)
    assert loop.text.splitlines()[1:] == ["        x[i] = f(", "            i);"]
    _ = path.write_text("#pragma omp simd\n    for (int i = 0; i < 3; ++i) {\n")
    with pytest.raises(ValueError, match=r"rows\.h:2: this loop has no end"):
        _ = vector_code.loops_of(path)


def test_instructions_belong_to_the_loop_that_their_line_is_in() -> None:
    first, second = Loop("rows.h", 10, 14), Loop("rows.h", 20, 20)
    found = vector_code.code_of([first, second], LISTING.splitlines(keepends=True))
    row, other = "crossent::row(float const*)", "crossent::other()"
    assert found == {
        (first, row): Code(1, 1),
        (second, row): Code(0, 1),
        (first, other): Code(1, 1),
        (second, other): Code(0, 2),
    }
    assert other_systems.scalar_loops(found) == [
        f"rows.h:20: scalar code in {other}",
        f"rows.h:20: scalar code in {row}",
    ]
    whole = vector_code.functions_of(LISTING.splitlines(keepends=True))
    assert whole == {row: Code(1, 2), other: Code(2, 4)}


def test_functions_and_loops_may_be_scalar_for_a_reason() -> None:
    loops = {text: Loop("lanes.h", 1, 2, text) for text in ("const double q_less_1 = 3;", "const double q = 3;")}
    assert other_systems.scalar_loops({(loops["const double q_less_1 = 3;"], "lane_gradient"): Code(0, 9)}) == []
    assert other_systems.scalar_loops({(loops["const double q = 3;"], "lane_gradient"): Code(0, 9)}) != []
    found = {"void crossent::row_gradient<float, float>(...)": Code(0, 9), "crossent::class_cells(...)": Code(0, 9)}
    assert other_systems.scalar_functions(found) == ["scalar code in void crossent::row_gradient<float, float>(...)"]


@pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"there is no {COMPILER}")
@pytest.mark.parametrize(("options", "vector"), [((), True), (("-fno-tree-vectorize", "-fno-openmp-simd"), False)])
def test_a_scalar_build_is_seen(options: tuple[str, ...], vector: bool, tmp_path: Path) -> None:
    source, built = tmp_path / "loops.cpp", tmp_path / "loops.o"
    _ = source.write_text(SOURCE, encoding="utf-8")
    kernel = [
        "-O3",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=fast",
        "-fopenmp-simd",
        "-std=c++20",
        "-g1",
    ]
    command = [COMPILER, *kernel, *options, "-I", ROOT / "cpp", "-c", source, "-o", built]
    _ = subprocess.run(command, check=True)
    loops = vector_code.loops_of(source)
    found = vector_code.code_of(loops, vector_code.disassembled(OBJDUMP, built))
    assert {loop for loop, _ in found} == set(loops)
    assert [code.vector > 0 for code in found.values()] == [vector, vector]
    assert len(other_systems.scalar_loops(found)) == (0 if vector else 2)
    functions = vector_code.functions_of(vector_code.disassembled(OBJDUMP, built))
    assert len(other_systems.scalar_functions(functions)) == (0 if vector else 2)
