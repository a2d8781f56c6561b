"""Machine code for NVIDIA's GPUs, read off a cubin by the tools that come with Triton."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from triton.backends import nvidia

from tools.gpu_build.code import Instruction

_TOOLS = Path(nvidia.__file__).parent / "bin"
_BYTES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
_ACCESS = {"LDG": "load", "LDGSTS": "load", "UBLKCP": "load", "STG": "store"}
_SHARED = {"LDS", "LDSM", "STS", "STSM", "ATOMS", "REDS"}
_LINE = re.compile(r'//## File "(?P<file>[^"]*)", line (?P<line>\d+)(?P<inlined> inlined)?')
_LABEL = re.compile(r"^(?P<label>\.L_x_\d+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?P<text>.*?)\s*;")
_JUMPED_TO = re.compile(r"`\((?P<label>\.L_x_\d+)\)")


class Registers(NamedTuple):
    """Registers of a thread, and bytes that it spills."""

    number: int
    spilled: int


def registers(kernel: Any) -> Registers:
    """Return the registers of a compiled kernel."""
    shown = _run("cuobjdump", "-res-usage", cubin=kernel.asm["cubin"])
    number, stack, local = (int(re.search(rf"{key}:(\d+)", shown)[1]) for key in ("REG", "STACK", "LOCAL"))  # type: ignore[index]
    return Registers(number, stack + local)


def instructions(kernel: Any) -> list[Instruction]:
    """Return the instructions of a compiled kernel."""
    return parse(_run("nvdisasm", "-c", "-gi", cubin=kernel.asm["cubin"]), kernel.metadata.name)


def _run(tool: str, *options: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        _ = file.write(cubin)
        file.flush()
        return subprocess.run([_TOOLS / tool, *options, file.name], capture_output=True, text=True, check=True).stdout


def parse(text: str, kernel: str) -> list[Instruction]:
    """Return the instructions of a kernel as nvdisasm shows them, with lines of the source."""
    section = text.partition(f".section\t.text.{kernel},")[2].partition(".section\t.text.")[0]
    rows: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    line, fresh = "", True
    for row in section.splitlines():
        if found := _LINE.search(row):
            if fresh:  # the first of several is where the code stands, the others are where that is called
                line = f"{Path(found['file']).name}:{found['line']}"
            fresh = found["inlined"] is None
        elif found := _LABEL.match(row):
            labels[found["label"]] = len(rows)
        elif found := _INSTRUCTION.search(row):
            rows.append((found["text"], line))
            fresh = True
    return [_instruction(text, line, labels) for text, line in rows]


def _instruction(text: str, line: str, labels: dict[str, int]) -> Instruction:
    predicate, _, rest = text.partition(" ") if text.startswith("@") else ("", "", text)
    op, *suffixes = rest.split()[0].split(".")
    jump = op in {"BRA", "JMP"} and "DIV" not in suffixes
    found = _JUMPED_TO.search(rest) if jump else None
    where = None if found is None else labels.get(found["label"])
    conditional = bool(predicate) or (found is not None and "," in rest[: found.start()])
    size = next((_BYTES[s] for s in suffixes if s in _BYTES), 4) if op in _ACCESS else 0
    kind = _ACCESS.get(op, "shared" if op in _SHARED else "barrier" if op == "BAR" else "")
    ends = (jump or op in {"EXIT", "RET", "BRX", "KILL"}) and not conditional
    return Instruction(kind, size, where, not ends, line)
