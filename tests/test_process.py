"""Signals and standard streams of the command: it ends in silence, and nothing is half written."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = ["-m", "crossent", "score"]
PREPARED = """
import sys
from crossent import process

def prepare(prepare=process.prepare):
    process.prepare = prepare
    prepare()
    print("prepared", file=sys.stderr, flush=True)
process.prepare = prepare
from crossent.__main__ import main
main()
"""
SLOWED = """
import sys
import time
from pathlib import Path
from crossent import outputs

def fsync(descriptor):
    print("half", flush=True)
    outputs.os.read(0, 1)
outputs.os.fsync = fsync
from crossent.cli import main
main()
"""


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    _ = (tmp_path / "a.csv").write_text("y,p\n" + "0,0.25\n1,0.75\n" * 50)
    return [str(tmp_path / "a.csv"), "--label", "y", "--probs", "p"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of Unix")
class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_at_any_time_end_the_command_in_silence(self, number: int, options: list[str]) -> None:
        for wait in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8):
            command = [sys.executable, "-c", PREPARED, "score", *options]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                assert process.stderr is not None
                assert process.stderr.readline() == b"prepared\n"  # before that it is Python that starts
                time.sleep(wait)
                process.send_signal(number)
                out, err = process.communicate()
            assert err == b""
            assert process.returncode in {0, 128 + number}
            assert bool(out) == (process.returncode == 0)

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_while_a_report_is_written_leave_what_was_there(
        self, number: int, options: list[str], tmp_path: Path
    ) -> None:
        report = tmp_path / "r.html"
        _ = report.write_text("an older report")
        command = [sys.executable, "-c", SLOWED, "score", *options, "--html", str(report)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"half\n"
            assert len(list(tmp_path.iterdir())) == 3
            process.send_signal(number)
            _, err = process.communicate()
        assert (process.returncode, err) == (128 + number, b"")
        assert report.read_text() == "an older report"
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "r.html"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="a shell of Unix")
class TestStreams:
    def shell(self, options: list[str], redirected: str) -> subprocess.CompletedProcess[str]:
        command = f"{shlex.join([sys.executable, *RUN, *options])} {redirected}"
        return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60)

    @pytest.mark.parametrize("redirected", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
    def test_that_are_closed(self, redirected: str, options: list[str]) -> None:
        done = self.shell(options, redirected)
        assert (done.returncode, done.stderr) == (0, "")
        assert bool(done.stdout) == (">&-" not in redirected.replace("2>&-", ""))
        missed = self.shell([*options, "--max-loss", "0.1"], redirected)
        assert missed.returncode == 1
        assert missed.stderr.startswith("crossent: the loss") == ("2>&-" not in redirected)

    def test_a_file_does_not_take_the_place_of_a_closed_stream(self, options: list[str], tmp_path: Path) -> None:
        before = (tmp_path / "a.csv").read_bytes()
        assert self.shell([*options, "--html", str(tmp_path / "r.html")], ">&- 2>&-").returncode == 0
        assert (tmp_path / "r.html").read_text().endswith("</html>\n")
        assert (tmp_path / "a.csv").read_bytes() == before

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
    def test_that_are_full(self, options: list[str]) -> None:
        for command in (options, [*options, "--json"]):
            done = self.shell(command, "> /dev/full")
            assert (done.returncode, done.stderr) == (2, "crossent: cannot write: No space left on device\n")
