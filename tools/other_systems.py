"""The core for other systems than this one: compiled without a warning and, where an emulator exists, tested.

    python -m tools.other_systems aarch64     Linux on Arm: core_test runs under qemu, and its row loops are vector code
    python -m tools.other_systems windows     MinGW; core_test runs under wine where that is installed
    python -m tools.other_systems macos       zig, for Arm and Intel: compiled and linked, not run

A system is built again only if the core, this check or its compiler have changed. Without a compiler for a system, one
line says that it was skipped and what installs it. With CI=true in the environment the compiler is installed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from crossent import tried
from tools import versions
from tools.vector_code import Code, Loop, code_of, disassembled, functions_of, loops_of

ROOT = Path(__file__).resolve().parents[1]
BIN = ROOT / ".venv" / "bin"
ZIG = "ziglang==0.17.1"
DAYS_KEPT = 90

STRICT = ("rows.h", "lanes.h", "binary.h")
"""Files whose marked loops are all vector code, each in every function; of other files, the functions are looked at."""
SCALAR_LOOPS = {
    "half[k] = combine": "the last halves of a row's numbers are one number",
    "q_less_1": "lane_patches: once for a pick of a row, not for each class",
}
"""Loops of these files that may be scalar code on Arm, by a word in them, with the reason."""
SCALAR_FUNCTIONS = {
    "::add<true, true, false": "softcap with gradient (few_across.h, add<true, true>): Arm has no load on a condition",
    "::FewRows(": "its constructor computes three numbers of a call",
    "class_cells": "each probability goes into a cell of its own",
    "coefficients": "three numbers of a row",
    "excess_of": "one gap, for tests of the arithmetic",
    "extended": "two records of a row are merged",
    "few_rows(": "the sums of a call",
    "lane_patches": "once for a pick of a row, not for each class",
    "pair_stats_of": "sums of a row are merged",
    "peaks_of_lanes<double>": "the largest of doubles and its place, which GCC 12 makes vector code of for float only",
    "pick_measure": "one number of a row",
    "row_summary": "sums of a row are merged",
    "save<": "the record of a row is written",
}
"""Functions that may be scalar code on Arm, by a part of their name, with the reason."""


class System(NamedTuple):
    """How the core is compiled for a system, and what runs the result."""

    name: str
    compiler: str
    """The program that compiles, looked up on the path."""
    packages: tuple[str, ...]
    """Debian's packages of the compiler and the emulator."""
    cmake: tuple[str, ...]
    """Arguments of CMake."""
    emulator: tuple[str, ...] = ()
    """The command before the program that runs it here; none if nothing does."""
    needs_emulator: bool = False
    """Whether the check is skipped where the emulator is missing; else the program is compiled and linked only."""
    suffix: str = ""
    objdump: str = ""


SYSTEMS = {
    "aarch64": (
        System(
            "aarch64",
            "aarch64-linux-gnu-g++",
            ("g++-aarch64-linux-gnu", "qemu-user"),
            ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_CXX_FLAGS=-g1"),
            ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"),
            needs_emulator=True,
            objdump="aarch64-linux-gnu-objdump",
        ),
    ),
    "windows": (
        System(
            "windows",
            "x86_64-w64-mingw32-g++-posix",
            ("g++-mingw-w64-x86-64-posix",),
            (
                "-DCMAKE_SYSTEM_NAME=Windows",
                "-DCMAKE_SYSTEM_PROCESSOR=x86_64",
                "-DCMAKE_EXE_LINKER_FLAGS=-static",
                "-DCROSSENT_OPTIMIZE=-O1",
            ),
            ("wine64",),
            suffix=".exe",
        ),
    ),
    "macos": tuple(
        System(
            f"macos-{processor}",
            f"zig-{processor}",
            (),
            (
                "-DCMAKE_SYSTEM_NAME=Darwin",
                f"-DCMAKE_SYSTEM_PROCESSOR={processor}",
                "-DCMAKE_INSTALL_NAME_TOOL=true",
                "-DCROSSENT_OPTIMIZE=-O0",
            ),
        )
        for processor in ("arm64", "x86_64")
    ),
}


def cache_folder() -> Path:
    """Return the folder of what was found, the same for all checkouts of a user."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "crossent"


def digest(root: Path, system: System, compiler: str) -> str:
    """Return a digest of everything that the result depends on: sources, this check, compiler, emulator."""
    command = [compiler, "--version"]
    versions = [subprocess.run(command, capture_output=True, text=True, check=True).stdout, repr(system)]
    if system.emulator and shutil.which(system.emulator[0]):
        versions.append(system.emulator[0])
    whole = hashlib.sha256("\0".join(versions).encode())
    tools = (root / "tools" / name for name in ("other_systems.py", "vector_code.py"))
    for path in (root / "CMakeLists.txt", *sorted((root / "cpp").rglob("*")), *tools):
        if path.is_file():
            whole.update(f"\0{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return whole.hexdigest()[:32]


def say(text: str) -> None:
    print(text, flush=True)


def run(*command: str | Path, log: Path) -> str:
    """Run a command, append its output to the log and return it; the output is printed if the command fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    # one write, so that the outputs of commands that end at the same time do not mix
    with log.open("ab", buffering=0) as file:
        _ = file.write(f"$ {shlex.join(map(str, command))}\n{done.stdout}\n".encode())
    if done.returncode:
        sys.exit(f"{done.stdout}\n{shlex.join(map(str, command))}: exit code {done.returncode}")
    return done.stdout


def run_parts(*command: str | Path, log: Path) -> int:
    """Run the parts of core_test, one on each processor at a time, and return how many there are."""
    said = run(*command, "parts", log=log)
    number = re.search(r"^[1-9][0-9]*$", said, re.MULTILINE)
    if number is None:
        sys.exit(f"{said}\n{shlex.join(map(str, command))} parts: no number of parts")
    parts = range(1, int(number[0]) + 1)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        done = list(pool.map(lambda part: run(*command, "parts", str(part), log=log), parts))
    return len(done)


def compiler_of(system: System) -> str | None:
    """Return the path of the compiler; installed first with CI=true, None where it is missing."""
    if system.name.startswith("macos"):
        return zig(system)
    wanted = [system.compiler, *(system.emulator[:1] if system.needs_emulator else ())]
    if not all(map(shutil.which, wanted)) and os.environ.get("CI") == "true" and os.geteuid() == 0:
        apt = shutil.which("apt-get")
        if apt is not None:
            install = [apt, "install", "-y", "-qq", "--no-install-recommends", *system.packages]
            for command in ([apt, "update", "-qq"], install):
                _ = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if missing := [name for name in wanted if shutil.which(name) is None]:
        say(
            f"{system.name}: skipped, there is no {' and no '.join(missing)}; "
            f"apt-get install {' '.join(system.packages)} (Debian, Ubuntu)"
        )
        return None
    return shutil.which(system.compiler)


def zig(system: System) -> str | None:
    """Return a script that compiles for a Mac with zig, which a package of PyPI holds; None where that is missing."""
    folder = cache_folder() / ZIG.replace("==", "-")
    program = folder / "ziglang" / "zig"
    if not program.exists():
        pip = [sys.executable, "-m", "pip", "install", "-qq", "--no-input", "--target", str(folder), ZIG]
        if os.environ.get("CI") != "true":
            say(f"{system.name}: skipped, there is no zig; {shlex.join(['python', *pip[1:]])}")
            return None
        if subprocess.run(pip, check=False).returncode:
            say(f"{system.name}: skipped, {ZIG} could not be installed")
            return None
    target = system.compiler.removeprefix("zig-").replace("arm64", "aarch64") + "-macos"
    script = ROOT / "build" / system.compiler
    script.parent.mkdir(exist_ok=True)
    _ = script.write_text(f'#!/bin/sh\nexec "{program}" c++ -target {target} "$@"\n', encoding="utf-8")
    script.chmod(0o755)
    return str(script)


def build(system: System, compiler: str, log: Path) -> Path:
    """Compile core_test for a system without a warning, and return its folder."""
    folder = ROOT / "build" / system.name
    ccache = shutil.which("ccache")
    configure = [
        BIN / "cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}",
        "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON", "-DCROSSENT_TEST=ON", "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_CXX_COMPILER={compiler}", *([f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}"] if ccache else []),
        *system.cmake,
    ]  # fmt: skip
    _ = run(*configure, log=log)
    _ = run(BIN / "cmake", "--build", folder, log=log)
    return folder


def scalar_loops(found: dict[tuple[Loop, str], Code]) -> list[str]:
    """Return a line for each loop that is, without being allowed to, scalar code in a function."""
    return sorted(
        f"{loop}: scalar code in {function}"
        for (loop, function), code in found.items()
        if code.vector == 0 and not any(word in loop.text for word in SCALAR_LOOPS)
    )


def scalar_functions(found: dict[str, Code]) -> list[str]:
    """Return a line for each function that is, without being allowed to, scalar code."""
    return sorted(
        f"scalar code in {function}"
        for function, code in found.items()
        if code.vector == 0 and not any(name in function for name in SCALAR_FUNCTIONS)
    )


def check_vector_code(objdump: str, folder: Path) -> str:
    """Check that the loops and functions of the core are vector code, and return a line that says so."""
    loops = [loop for name in STRICT for loop in loops_of(ROOT / "cpp" / name)]
    [path] = folder.glob("CMakeFiles/rows_*.dir/cpp/rows.cpp.o")
    listing = list(disassembled(objdump, path))
    functions, found = functions_of(listing), code_of(loops, listing)
    if wrong := [*scalar_functions(functions), *scalar_loops(found)]:
        sys.exit("\n".join(wrong))
    vector = sum(code.vector > 0 for code in functions.values())
    return f"{vector} functions and {len({loop for loop, _ in found})} loops of rows are vector code"


def check(system: System, compiler: str, log: Path) -> str:
    """Compile core_test for a system and run it as far as an emulator can; return one line about the result."""
    folder = build(system, compiler, log)
    said = ["compiled and linked without a warning"]
    if system.objdump:
        said.append(check_vector_code(system.objdump, folder))
    if system.emulator and shutil.which(system.emulator[0]):
        parts = run_parts(*system.emulator, folder / f"core_test{system.suffix}", log=log)
        said.append(f"core_test passes under {system.emulator[0]}, in {parts} parts")
    else:
        said.append("not run, nothing here can")
    return "; ".join(said)


def checked(system: System, compiler: str, folder: Path) -> str:
    """Return what the cache holds about this core and compiler, else check and keep the result."""
    file = folder / system.name / digest(ROOT, system, compiler)
    if file.exists():
        os.utime(file)
        return f"{file.read_text(encoding='utf-8')} (this core and compiler have not changed since)"
    log = ROOT / "build" / f"{system.name}.log"
    log.parent.mkdir(exist_ok=True)
    log.unlink(missing_ok=True)
    begin = time.monotonic(), cpu_seconds()
    said = check(system, compiler, log)
    line = f"{said}; {time.monotonic() - begin[0]:.0f} s, {cpu_seconds() - begin[1]:.0f} s of processors"
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(f".{os.getpid()}")
    _ = part.write_text(line, encoding="utf-8")
    _ = part.replace(file)
    for old in file.parent.iterdir():
        if time.time() - old.stat().st_mtime > DAYS_KEPT * 86400:
            old.unlink(missing_ok=True)
    return line


def cpu_seconds() -> float:
    """Return the processor time of the commands that this process has run."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(names: list[str], *, record: bool = False) -> None:
    """Check the named systems; with `record`, note for `crossent doctor` where core_test passed."""
    for name in names:
        for system in SYSTEMS[name]:
            compiler = compiler_of(system)
            if compiler is None:
                continue
            line = checked(system, compiler, cache_folder())
            say(f"{system.name}: {line}")
            if record and "core_test passes" in line:
                remember_core(system)


def remember_core(system: System) -> None:
    """Note in src/crossent/tried.json that the core's tests pass on a system."""
    run = {
        "date": versions.today(),
        "commit": versions.commit(),
        "system": {"aarch64": "Linux aarch64", "windows": "Windows x86_64"}[system.name],
        "result": f"core_test passes under {system.emulator[0]}",
    }
    others = [one for one in tried.read().core if one["system"] != run["system"]]
    versions.remember("core", [*others, run])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _ = parser.add_argument("systems", nargs="+", choices=list(SYSTEMS))
    _ = parser.add_argument("--record", action="store_true", help="note what passed in src/crossent/tried.json")
    args = parser.parse_args()
    main(args.systems, record=args.record)
