"""Which functions and loops of the core became vector code, read off an object file by disassembling it.

A loop under `#pragma omp simd` is compiled into several functions, one for each type and option. Line numbers in the
object file say which instructions belong to which loop. A loop is vector code in a function if one of these
instructions computes on all lanes of a vector register, such as `fmla v0.4s, v1.4s, v2.4s`. It is scalar code if all
arithmetic on it is on single numbers, such as `fmadd s0, s1, s2, s0`.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_FUNCTION = re.compile(r"^[0-9a-f]+ <(?P<name>.+)>:$")
_PLACE = re.compile(r"^(?P<inlined>inlined by )?(?P<file>/.+?):(?P<line>\d+)")
_INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\t(?P<name>[a-z][\w.]*)(?:\t(?P<operands>.*))?$")
_ARITHMETIC = re.compile(r"f(?:n?m(?:add|sub|la|ls|ul)|add|sub|div|maxnm|minnm|max|min|cmp|cm|abd|neg|abs|csel|cvt)")
_LANES = re.compile(r"\bv\d+\.(?:4s|2d)\b")
_NUMBER = re.compile(r"\b[sd]\d+\b")


class Loop(NamedTuple):
    """A loop under `#pragma omp simd`: its file, and the lines from its `for` to the end of its body."""

    file: str
    first: int
    last: int
    text: str = ""

    def __str__(self) -> str:
        """Return where the loop begins."""
        return f"{self.file}:{self.first}"


class Code(NamedTuple):
    """Arithmetic instructions of a function, or of one loop in it: on whole vectors, and on single numbers."""

    vector: int
    scalar: int


def loops_of(path: Path) -> list[Loop]:
    """Return the loops of a source file that its pragmas mark."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [_loop(path.name, lines, at + 1) for at, line in enumerate(lines) if line.startswith("#pragma omp simd")]


def _loop(file: str, lines: list[str], start: int) -> Loop:
    """Return the loop whose `for` stands in `lines[start]`: up to its closing brace, or its one statement."""
    depth, opened, parentheses = 0, False, 0
    for at in range(start, len(lines)):
        for character in lines[at].partition("//")[0]:
            parentheses += {"(": 1, ")": -1}.get(character, 0)
            depth += {"{": 1, "}": -1}.get(character, 0)
            opened = opened or character == "{"
            if parentheses == 0 and depth == 0 and (character == "}" if opened else character == ";"):
                return Loop(file, start + 1, at + 1, "\n".join(lines[start : at + 1]))
    raise ValueError(f"{file}:{start + 1}: this loop has no end")


def disassembled(objdump: str, path: Path) -> Iterator[str]:
    """Return the lines of a disassembly, with names of functions and places in the source, inlined calls among them."""
    command = [objdump, "--disassemble", "--line-numbers", "--inlines", "--demangle", "--no-show-raw-insn", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def functions_of(listing: Iterable[str]) -> dict[str, Code]:
    """Return the arithmetic of each function that a disassembly shows."""
    vector, scalar = Counter[str](), Counter[str]()
    function = ""
    for line in listing:
        if named := _FUNCTION.match(line):
            function = named["name"]
        elif kind := _kind(_INSTRUCTION.match(line.rstrip("\n"))):
            (vector if kind == "vector" else scalar)[function] += 1
    return {name: Code(vector[name], scalar[name]) for name in vector.keys() | scalar.keys()}


def _kind(instruction: re.Match[str] | None) -> str:
    """Return whether an instruction is arithmetic on a whole vector, on single numbers, or neither."""
    if instruction is None or not _ARITHMETIC.match(instruction["name"]):
        return ""
    operands = instruction["operands"] or ""
    return "vector" if _LANES.search(operands) else "scalar" if _NUMBER.search(operands) else ""


def code_of(loops: Iterable[Loop], listing: Iterable[str]) -> dict[tuple[Loop, str], Code]:
    """Return the arithmetic of each loop in each function that a disassembly of the object file shows."""
    by_line = {(loop.file, line): loop for loop in loops for line in range(loop.first, loop.last + 1)}
    vector, scalar = Counter[tuple[Loop, str]](), Counter[tuple[Loop, str]]()
    function, base, inlined, fresh = "", None, list[Loop | None](), True
    for line in listing:
        if place := _PLACE.match(line):
            loop = by_line.get((Path(place["file"]).name, int(place["line"])))
            if fresh:  # the first place after an instruction
                inlined, fresh = [], False
            if place["inlined"]:
                inlined.append(loop)
            else:
                base = loop
        elif named := _FUNCTION.match(line):
            function, base, inlined = named["name"], None, []
        elif instruction := _INSTRUCTION.match(line.rstrip("\n")):
            fresh = True
            loop = next((loop for loop in (base, *inlined) if loop is not None), None)
            kind = _kind(instruction)
            if loop is not None and kind:
                (vector if kind == "vector" else scalar)[loop, function] += 1
    return {key: Code(vector[key], scalar[key]) for key in vector.keys() | scalar.keys()}
