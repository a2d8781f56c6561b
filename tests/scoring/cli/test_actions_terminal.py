"""Scores of files on a terminal: the progress bar, and one line for an error."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import crossent
from tests.scoring.written import COMMAND, fresh, predictions, saved

pytestmark = pytest.mark.slow


def on_a_terminal(*arguments: object) -> tuple[int, str, str]:
    """Run the command with standard output in a file and standard error on a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-W", "error", "-c", COMMAND, *map(str, arguments)]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    with (
        tempfile.TemporaryFile() as out,  # a pipe would fill up while the terminal is read
        subprocess.Popen(command, stdout=out, stderr=theirs, env=environment) as process,
    ):
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # Linux says so when the other end is closed
                break
            if not piece:
                break
            shown += piece
        os.close(ours)
        code = process.wait(60)
        _ = out.seek(0)
        return code, out.read().decode(), shown.decode(errors="replace")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """36 MB, few rows: what is tested is the bar, not the arithmetic."""
    y, p = predictions(4500, 1000, seed=1)
    path = tmp_path_factory.mktemp("large") / "a.parquet"
    lists = pa.FixedSizeListArray.from_arrays(pa.array(p.ravel()), 1000)
    pyarrow.parquet.write_table(pa.table({"y": y, "p": lists}), path, row_group_size=500, compression="none")
    assert path.stat().st_size > 32 << 20
    return path, crossent.score(y, probs=p, worst=0)


class TestProgress:
    def test_on_a_terminal(self, large: Any) -> None:
        path, wanted = large
        code, out, shown = on_a_terminal("score", path, "--label", "y", "--probs", "p", "--json", "--worst", "0")
        assert code == 0
        assert json.loads(out)["loss"] == pytest.approx(wanted.loss, rel=1e-13)
        assert "\x1b[" in shown
        assert path.name in shown
        assert "Traceback" not in shown
        shares = {int(share) for share in re.findall(r"(\d+)%", shown)}
        assert shares - {0, 100}, f"a bar that shows only {shares} shows nothing"
        assert shown.count("\x1b[?25h") == shown.count("\x1b[?25l")  # the cursor is back

    def test_not_in_a_pipe(self, large: Any) -> None:
        path, _ = large
        done = fresh("score", path, "--label", "y", "--probs", "p", "--json", "--worst", "0")
        assert (done.returncode, done.stderr) == (0, "")
        assert isinstance(json.loads(done.stdout)["loss"], float)

    def test_not_for_a_short_file(self, tmp_path: Path) -> None:
        path = saved(tmp_path / "a.csv", {"y": [0, 1], "p": [0.25, 0.5]})
        code, out, shown = on_a_terminal("score", path, "--label", "y", "--probs", "p", "--json")
        assert (code, shown) == (0, "")
        assert json.loads(out)["n"] == 2

    def test_an_error_half_way_is_still_one_line(self, large: Any, tmp_path: Path) -> None:
        path, _ = large
        data, broken = path.read_bytes(), tmp_path / "a.parquet"
        middle = len(data) // 2
        poison = np.full(64, np.nan).tobytes()
        _ = broken.write_bytes(data[:middle] + poison + data[middle + len(poison) :])
        code, out, shown = on_a_terminal("score", broken, "--label", "y", "--probs", "p", "--json")
        assert (code, out) == (2, "")
        assert "Traceback" not in shown
        last = shown.replace("\x1b[?25h", "").split("crossent: ")[-1]
        assert "a.parquet" in last
        assert last.strip("\r\n").count("\n") == 0
