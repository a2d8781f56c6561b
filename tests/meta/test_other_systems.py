"""tools/other_systems.py: what it skips, what it keeps, and that it fails where a loop is scalar or a test fails."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from crossent import tried
from tools import other_systems, versions

SYSTEM = other_systems.SYSTEMS["aarch64"][0]._replace(compiler=sys.executable, emulator=("sh",))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The systems that were checked, in the place of a build."""
    done: list[str] = []

    def check(system: other_systems.System, compiler: str, log: Path) -> str:
        done.append(system.name)
        return "compiled"

    monkeypatch.setattr(other_systems, "check", check)
    return done


def test_a_core_that_has_not_changed_is_checked_once(checks: list[str], tmp_path: Path) -> None:
    first = other_systems.checked(SYSTEM, sys.executable, tmp_path)
    again = other_systems.checked(SYSTEM, sys.executable, tmp_path)
    assert first.startswith("compiled; ")
    assert again == f"{first} (this core and compiler have not changed since)"
    assert checks == ["aarch64"]


@pytest.mark.parametrize("name", ["cpp/rows.h", "CMakeLists.txt", "tools/other_systems.py", "cpp/new/file.h"])
def test_every_source_counts(name: str, tmp_path: Path) -> None:
    for path in ("cpp/rows.h", "CMakeLists.txt", "tools/other_systems.py", "tools/vector_code.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        _ = (tmp_path / path).write_text("one")
    before = other_systems.digest(tmp_path, SYSTEM, sys.executable)
    assert other_systems.digest(tmp_path, SYSTEM, sys.executable) == before
    (tmp_path / name).parent.mkdir(exist_ok=True)
    _ = (tmp_path / name).write_text("two")
    assert other_systems.digest(tmp_path, SYSTEM, sys.executable) != before


def test_another_compiler_or_option_counts(tmp_path: Path) -> None:
    for path in ("CMakeLists.txt", "tools/other_systems.py", "tools/vector_code.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        _ = (tmp_path / path).write_text("one")
    compiler = shutil.which("c++") or pytest.skip("no compiler")
    found = [
        other_systems.digest(tmp_path, system, program)
        for system, program in (
            (SYSTEM, sys.executable),
            (SYSTEM, compiler),
            (SYSTEM._replace(cmake=()), sys.executable),
        )
    ]
    assert len(set(found)) == 3


def test_a_check_that_fails_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object) -> str:
        sys.exit("rows.h:140: scalar code in row_record")

    monkeypatch.setattr(other_systems, "check", fails)
    for _ in range(2):
        with pytest.raises(SystemExit, match="scalar code"):
            _ = other_systems.checked(SYSTEM, sys.executable, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["aarch64", "windows", "macos"])
def test_a_system_without_a_compiler_is_skipped_with_a_word(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    other_systems.main([name])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(other_systems.SYSTEMS[name])
    assert all(": skipped, there is no " in line and "install" in line for line in lines)


def test_a_command_that_fails_is_shown(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"17 failures\n\n.*exit code 1"):
        _ = other_systems.run("sh", "-c", "echo 17 failures; exit 1", log=tmp_path / "log")


def core_test(folder: Path, *lines: str) -> list[str | Path]:
    """The command of a program of 5 parts, which runs these lines with the number of a part in $2."""
    program = folder / "core_test"
    _ = program.write_text("\n".join(["echo an emulator warns", '[ "$#" = 2 ] || { echo 5; exit; }', *lines]))
    return ["sh", program]


def test_every_part_runs_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert other_systems.run_parts(*core_test(tmp_path, 'echo "part $2 passes"'), log=log) == 5
    found = [line for line in log.read_text().splitlines() if line.startswith("part ")]
    assert sorted(found) == [f"part {part} passes" for part in range(1, 6)]


def test_parts_run_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # parts 1 and 2 each wait until the other has begun
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    begin = ['touch "$0.$2"', '[ "$2" -gt 2 ] && exit']
    wait = ["for _ in $(seq 600)", 'do [ -e "$0.$((3 - $2))" ] && exit', "sleep 0.1", "done", "exit 1"]
    assert other_systems.run_parts(*core_test(tmp_path, *begin, *wait), log=tmp_path / "log") == 5


def test_a_part_that_fails_is_shown(tmp_path: Path) -> None:
    log = tmp_path / "log"
    command = core_test(tmp_path, 'echo "part $2 has 17 failures"; [ "$2" != 3 ]')
    with pytest.raises(SystemExit, match=r"part 3 has 17 failures\n\n.*core_test parts 3: exit code 1") as raised:
        _ = other_systems.run_parts(*command, log=log)
    assert "part 2" not in str(raised.value)
    assert "part 2 has 17 failures" in log.read_text()


@pytest.mark.parametrize("said", ["0", "-3", "instruction set neon"])
def test_a_program_without_parts_has_not_passed(said: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"{said}\n\n.*: no number of parts"):
        _ = other_systems.run_parts("sh", "-c", f"echo {said}", log=tmp_path / "log")


def test_what_passed_is_noted_for_doctor(checks: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "tried.json"
    _ = file.write_text(
        json.dumps({"runs": [{"date": "old"}], "core": [{"system": "Linux aarch64"}, {"system": "other"}]})
    )
    monkeypatch.setattr(versions, "TRIED", file)
    monkeypatch.setattr(tried, "read", lambda: tried.Tried([], json.loads(file.read_text())["core"]))
    monkeypatch.setattr(versions, "commit", lambda: "0123456789ab")
    other_systems.remember_core(other_systems.SYSTEMS["aarch64"][0])
    found = json.loads(file.read_text())
    assert found["runs"] == [{"date": "old"}]
    other, arm = found["core"]
    assert other == {"system": "other"}
    assert arm == {
        "date": versions.today(), "commit": "0123456789ab", "system": "Linux aarch64",
        "result": "core_test passes under qemu-aarch64",
    }  # fmt: skip
