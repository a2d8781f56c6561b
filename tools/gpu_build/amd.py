"""Machine code for AMD's GPUs, read off the assembly that Triton keeps."""

from __future__ import annotations

import re
from typing import Any

from tools.gpu_build.code import Instruction
from tools.gpu_build.nvidia import Registers

_ACCESS = re.compile(r"^(?:global|buffer|flat)_(?P<verb>load|store)_(?P<type>\w+)")
_BYTES = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4}
_HALF = ("ushort", "sshort", "short")
_PRIVATE = re.compile(r"^\s*(?:scratch_|buffer_\w+\s[^\n;]*\bs\[0:3\])", re.MULTILINE)
"""An access to memory of one thread alone: an instruction of its own, or a buffer in the first scalar registers."""
_SHARED = re.compile(r"^ds_(?:read|write|load|store|add|max|min)")
_LINE = re.compile(r"^\s*\.loc\s.*;\s*(?P<file>[^:\s]+):(?P<line>\d+)")
_LABEL = re.compile(r"^(?P<label>\.L\w+):")
_INSTRUCTION = re.compile(r"^\t(?P<op>[a-z]\w*)(?:\s+(?P<rest>.*))?$")


def registers(kernel: Any) -> Registers:
    """Return the vector registers of a compiled kernel; scalar ones that spill into them cost no memory.

    For these the compiler may set memory aside that no instruction touches, which is nothing spilled either.
    """
    asm = kernel.asm["amdgcn"]
    number = {
        key: int(re.search(rf"\.{key}:\s*(\d+)", asm)[1])  # type: ignore[index]
        for key in ("vgpr_count", "vgpr_spill_count", "private_segment_fixed_size")
    }
    private = number["private_segment_fixed_size"] if _PRIVATE.search(asm) else 0
    return Registers(number["vgpr_count"], 4 * number["vgpr_spill_count"] + private)


def instructions(kernel: Any) -> list[Instruction]:
    """Return the instructions of a compiled kernel."""
    return parse(kernel.asm["amdgcn"], kernel.metadata.name)


def parse(text: str, kernel: str) -> list[Instruction]:
    """Return the instructions of a kernel, with lines of the source."""
    begin = re.search(rf"^{kernel}:", text, re.MULTILINE)
    section = "" if begin is None else text[begin.end() :].partition("\n.Lfunc_end")[0]
    rows: list[tuple[str, str, str]] = []
    labels: dict[str, int] = {}
    line = ""
    for row in section.splitlines():
        if found := _LINE.match(row):
            line = f"{found['file']}:{found['line']}"
        elif found := _LABEL.match(row):
            labels[found["label"]] = len(rows)
        elif found := _INSTRUCTION.match(row):
            rows.append((found["op"], found["rest"] or "", line))
    return [_instruction(op, rest, line, labels) for op, rest, line in rows]


def _instruction(op: str, rest: str, line: str, labels: dict[str, int]) -> Instruction:
    jump = op.startswith(("s_branch", "s_cbranch"))
    where = labels.get(rest.split(maxsplit=1)[0].rstrip(",")) if jump else None
    kind, size = "", 0
    if access := _ACCESS.match(op):
        kind, size = access["verb"], _size(access["type"])
    elif _SHARED.match(op):
        kind = "shared"
    elif op == "s_barrier":
        kind = "barrier"
    return Instruction(kind, size, where, op not in {"s_branch", "s_endpgm", "s_setpc_b64"}, line)


def _size(name: str) -> int:
    return _BYTES.get(name, 2 if name.startswith(_HALF) else 1)
