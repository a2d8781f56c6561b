"""Reports do not follow matplotlib's settings of the user, wherever they are and however broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import pytest

import crossent
from tests.scoring.written import COMMAND

SETTINGS = {
    "not UTF-8": b"font.size: \xff\xfe\n",
    "no settings": b"\x00\x01{]\nno.such.setting: [\n",
    "other settings": b"text.usetex: True\nfont.size: 40\naxes.facecolor: red\nsvg.fonttype: path\nbackend: nonsense\n",
}


def report(folder: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], str]:
    command = [sys.executable, "-c", COMMAND, "score", "a.csv", "--label", "y", "--probs", "p", "--html", "r.html"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("M")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=folder, env={**clean, **environment}
    )
    return done, (folder / "r.html").read_text() if (folder / "r.html").exists() else ""


@pytest.mark.slow
@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("place", ["here", "named", "at home"])
def test_the_report_is_the_same(case: str, place: str, tmp_path: Path) -> None:
    work, home = tmp_path / "work", tmp_path / "home"
    work.mkdir()
    home.mkdir()
    _ = (work / "a.csv").write_text("y,p\n" + "0,0.25\n1,0.75\n0,0.5\n1,0.5\n" * 5)
    done, wanted = report(work, MPLCONFIGDIR=str(home))
    assert (done.returncode, done.stderr) == (0, "wrote r.html\n")
    (work / "r.html").unlink()
    file = {"here": work, "named": tmp_path, "at home": home}[place] / "matplotlibrc"
    _ = file.write_bytes(SETTINGS[case])
    named = {"MATPLOTLIBRC": str(file)} if place == "named" else {}
    done, found = report(work, MPLCONFIGDIR=str(home), **named)
    assert (done.returncode, done.stderr) == (0, "wrote r.html\n")
    assert found == wanted
    assert wanted.endswith("</html>\n")


def test_the_settings_of_a_session_stay_and_do_not_show(tmp_path: Path) -> None:
    score = crossent.score([0, 1, 0, 1], probs=[0.25, 0.75, 0.5, 0.5])
    plain = score.to_html(tmp_path / "a.html").read_text()
    with mpl.rc_context({"font.size": 40.0, "axes.titlesize": 33, "svg.fonttype": "path"}):
        assert score.to_html(tmp_path / "b.html").read_text() == plain
        assert mpl.rcParams["font.size"] == 40.0
