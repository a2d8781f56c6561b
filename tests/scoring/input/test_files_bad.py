"""Bad input to `crossent score` and `compare`: exit code 2, one line that says what and where, and nothing else."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.scoring import written
from tests.scoring.written import columns, fresh, lists, predictions, run, saved

Y, P = predictions(200)
GOOD = columns(Y, P)
LINES = written.csv(GOOD).decode().splitlines()
OBJECTS = written.jsonl(lists(Y, P)).decode().splitlines()
WEIGHTED = {**GOOD, "w": np.ones(200)}
Make = Callable[[], bytes]


def refused(capsys: Any, *arguments: object, out: bool = False) -> str:
    """Return the one line that a refusal prints."""
    ran = run(capsys, *arguments)
    assert ran.code == 2, ran
    assert ran.err.count("\n") == 1, ran.err
    assert ran.err.endswith("\n")
    assert ran.err.startswith("crossent: ")
    assert len(ran.err) < 600
    assert ran.err.isprintable() or ran.err[:-1].isprintable()
    assert out or ran.out == ""
    return ran.err.removesuffix("\n")


def text(*lines: str) -> bytes:
    return ("\n".join(lines) + "\n").encode()


def spoiled(column: str, value: Any, row: int = 17, made: Any = None) -> dict[str, Any]:
    """Put a value into a row of a column."""
    cells = np.asarray({**GOOD, **(made or {})}[column]).tolist()
    cells[row] = value
    return {**GOOD, **(made or {}), column: cells}


def line(number: int, text_of_line: str, of: list[str] = LINES) -> bytes:
    return text(*of[:number], text_of_line, *of[number + 1 :])


def flipped(data: bytes, share: float, width: int = 16) -> bytes:
    """Invert some bytes of the body."""
    at = int(len(data) * share)
    return data[:at] + bytes(value ^ 0xFF for value in data[at : at + width]) + data[at + width :]


def repeated(name: str = "p_0") -> bytes:
    sink, table = pa.BufferOutputStream(), pa.table(list(GOOD.values()), names=["y", "p_0", name, "p_2"])
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def pickled(npz: bool) -> bytes:
    import io

    sink, poison = io.BytesIO(), np.array([Exploding()] * 200, dtype=object)
    if npz:
        np.savez(sink, y=Y, p=poison)
    else:
        np.save(sink, poison, allow_pickle=True)
    return sink.getvalue()


class Exploding:
    """What must not be unpickled: it would make a file."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("exploded",)


# name of the file, bytes of it, what the line must say beside the name
TABLES: dict[str, tuple[str, Make, str]] = {
    "empty csv": ("a.csv", bytes, "empty"),
    "empty parquet": ("a.parquet", bytes, "empty"),
    "empty jsonl": ("a.jsonl", bytes, "empty"),
    "blank lines": ("a.csv", lambda: b"\n\n\n", "empty|no column|no rows"),
    "header only": ("a.csv", lambda: text(LINES[0]), "no rows|no data|empty"),
    "no rows": ("a.parquet", lambda: written.parquet({k: v[:0] for k, v in GOOD.items()}), "no rows|no data|empty"),
    "no header": ("a.csv", lambda: text(*LINES[1:]), "no column 'y'.*header|no column 'y'"),
    "semicolons": ("a.csv", lambda: text(*(each.replace(",", ";") for each in LINES)), "';'|separat|delimit"),
    "utf-16": ("a.csv", lambda: "\n".join(LINES).encode("utf-16"), "UTF-8|UTF-16|encod"),
    "garbage": ("a.csv", lambda: np.random.default_rng(0).bytes(4000), ""),
    "zeros": ("a.csv", lambda: bytes(4000), ""),
    "unknown suffix": ("a.dta", lambda: b"PK", "csv.*parquet.*--format"),
    "workbook of Excel 97": ("a.xls", lambda: b"\xd0\xcf\x11\xe0", "save it as .xlsx"),
    "pickle": ("a.pkl", lambda: b"\x80", "never read"),
    "no workbook": ("a.xlsx", lambda: b"PK", "does not begin as a xlsx file does"),
    "no suffix": ("a", lambda: text(*LINES), "csv.*parquet"),
    "csv named parquet": ("a.parquet", lambda: text(*LINES), "[Pp]arquet"),
    "parquet named csv": ("a.csv", lambda: written.parquet(GOOD), ""),
    "parquet named arrow": ("a.arrow", lambda: written.parquet(GOOD), "[Aa]rrow|IPC|stream"),
    "parquet named npz": ("a.npz", lambda: written.parquet(GOOD), "zip|npz|npy|[Nn]um[Pp]y"),
    "npz named npy": ("a.npy", lambda: written.npz({"p_0": P}), "npz"),
    "csv named jsonl": ("a.jsonl", lambda: text(*LINES), "line 1.*JSON"),
    "csv named csv.gz": ("a.csv.gz", lambda: text(*LINES), "gz|compress"),
    "gz named csv": ("a.csv", lambda: gzip.compress(text(*LINES)), "gz|compress"),
    "duplicate columns in csv": ("a.csv", lambda: text("y,p_0,p_0,p_2", *LINES[1:]), "'p_0'.*twice"),
    "duplicate columns in arrow": ("a.arrow", repeated, "'p_0'.*twice"),
    "ragged csv": ("a.csv", lambda: line(50, "1,0.5"), "[Ee]xpected 4.*got 2"),
    "too long a row": ("a.csv", lambda: line(50, LINES[50] + ",7"), "[Ee]xpected 4.*got 5"),
    "text among numbers": ("a.csv", lambda: written.csv(spoiled("p_1", "high")), "'p_1'.*'high'"),
    "a column of text": ("a.parquet", lambda: written.parquet({**GOOD, "p_1": ["x"] * 200}), "'p_1'.*string"),
    "nan": ("a.csv", lambda: written.csv(spoiled("p_1", "nan")), "NaN.*row 17"),
    "nan in parquet": ("a.parquet", lambda: written.parquet(spoiled("p_1", float("nan"))), "NaN.*row 17"),
    "null in parquet": ("a.parquet", lambda: written.parquet(spoiled("p_1", None)), "row 17"),
    "inf": ("a.csv", lambda: written.csv(spoiled("p_1", "inf")), "row 17"),
    "empty cell": ("a.csv", lambda: written.csv(spoiled("p_1", "")), "row 17"),
    "no label": ("a.csv", lambda: written.csv(spoiled("y", "")), "row 17.*--ignore"),
    "no label in parquet": ("a.parquet", lambda: written.parquet(spoiled("y", None)), "row 17.*--ignore"),
    "label outside": ("a.csv", lambda: written.csv(spoiled("y", 3)), "label '?3'? .row 17.*--ignore"),
    "sums off": ("a.csv", lambda: written.csv({**GOOD, "p_1": 2 * P[:, 1]}), "row .*--normalize.*--logits|--logits"),
    "logits as probabilities": ("a.csv", lambda: written.csv(columns(Y, np.log(P) + 9)), "--logits"),
    "log-probabilities": ("a.csv", lambda: written.csv(columns(Y, np.log(P))), "--logprobs|--logits"),
    "sentinels": ("a.csv", lambda: written.csv(spoiled("p_1", -9999.0)), "-9999.*row 17|row 17.*-9999"),
    "truncated csv.gz": ("a.csv.gz", lambda: written.csv_gz(GOOD)[:-200], ""),
    "flipped csv.gz": ("a.csv.gz", lambda: flipped(written.csv_gz(GOOD), 0.5), ""),
    "flipped parquet": ("a.parquet", lambda: flipped(written.parquet(GOOD), 0.98), ""),
    "flipped arrow": ("a.arrow", lambda: flipped(written.arrow(GOOD), 0.97), ""),
    "flipped npz": ("a.npz", lambda: flipped(written.npz_compressed(GOOD), 0.5), ""),
}
for cut in (3, 8, 100, 2000, -1, -4, -9, -300):
    TABLES[f"parquet cut at {cut}"] = ("a.parquet", lambda cut=cut: written.parquet(GOOD)[:cut], "")
    TABLES[f"arrow cut at {cut}"] = ("a.arrow", lambda cut=cut: written.arrow(GOOD)[:cut], "")
    TABLES[f"npz cut at {cut}"] = ("a.npz", lambda cut=cut: written.npz(GOOD)[:cut], "")
for cut in (100, 2000, -300):
    TABLES[f"stream cut at {cut}"] = ("a.arrow", lambda cut=cut: written.arrow_stream(GOOD)[:cut], "")

LISTED: dict[str, tuple[str, Make, str]] = {
    "not json at line 1": ("a.jsonl", lambda: line(0, '{"y": 1, "p": [', OBJECTS), "line 1.*JSON"),
    "not json at line 5000": ("a.jsonl", lambda: line(4999, '{"y": 1, "p": [', OBJECTS * 30), "(line|row) (4999|5000)"),
    "a word at line 100": ("a.jsonl", lambda: line(99, "hello", OBJECTS), "(line|row) (99|100)"),
    "an array": ("a.jsonl", lambda: text(*(f"[{k}, 2]" for k in Y)), "line 1.*object"),
    "one array of objects": ("a.jsonl", lambda: text("[" + ",".join(OBJECTS) + "]"), "line 1.*object"),
    "printed over lines": ("a.jsonl", lambda: json.dumps(json.loads(OBJECTS[0]), indent=1).encode(), "line 1"),
    "key missing later": ("a.jsonl", lambda: line(99, '{"y": 1}', OBJECTS), "'p'.*(row|line) (99|100)"),
    "label missing later": ("a.jsonl", lambda: line(99, '{"p": [0.2, 0.3, 0.5]}', OBJECTS), "row 99"),
    "ragged lists": ("a.jsonl", lambda: line(99, '{"y": 1, "p": [0.5, 0.5]}', OBJECTS), "'p'.*length.*row 99"),
    "ragged parquet": ("a.parquet", lambda: written.parquet({"y": [0, 1], "p": [[1.0], [0.5, 0.5]]}), "'p'.*length"),
    "empty lists": ("a.parquet", lambda: written.parquet({"y": [0, 1], "p": [[], []]}), "'p'|probs"),
    "missing list": ("a.parquet", lambda: written.parquet({"y": [0, 1], "p": [[0.5, 0.5], None]}), "'p'.*row 1"),
    "null in a list": ("a.jsonl", lambda: line(99, '{"y": 1, "p": [0.5, null, 0.5]}', OBJECTS), "row 99"),
    "text in a list": (
        "a.jsonl",
        lambda: line(99, '{"y": 1, "p": [0.5, "a", 0.5]}', OBJECTS),
        "(row|line) (99|100).*p",
    ),
    "nested objects": ("a.jsonl", lambda: line(0, '{"y": 1, "p": {"a": 0.5, "b": 0.5}}', OBJECTS), "'?p'?"),
    "lists of lists": ("a.parquet", lambda: written.parquet({"y": [0], "p": [[[0.5, 0.5]]]}), "'p'.*list"),
    "NaN in json": ("a.jsonl", lambda: line(99, '{"y": 1, "p": [0.5, NaN, 0.5]}', OBJECTS), "row 99|line 100"),
    "a huge line": ("a.jsonl", lambda: b'{"y": 1, "p": [' + b"0.5, " * (4 << 20) + b"0.5]}\n", "long"),
    "deep nesting": ("a.jsonl", lambda: b'{"y":' + b"[" * 100_000, "nest|deep|line 1"),
    "not utf-8": ("a.jsonl", lambda: b'{"y": "\xff", "p": [0.5, 0.5]}\n', "UTF-8|utf-8"),
    "npz of different lengths": ("a.npz", lambda: written.npz({"y": Y, "p": P[:-1]}), "length.*199"),
    "npz of no dimension": ("a.npz", lambda: written.npz({"y": np.array(1), "p": P[0]}), "'y'|dimension|length"),
    "npz of three dimensions": (
        "a.npz",
        lambda: written.npz({"y": Y, "p": np.stack([P, P], 1) / 2}),
        "'p'|dimension|shape",
    ),
    "npz of complex numbers": ("a.npz", lambda: written.npz({"y": Y, "p": P * 1j}), "'p'|complex"),
    "npz of text": ("a.npz", lambda: written.npz({"y": Y, "p": P.astype(str)}), "'p'.*(string|text|number)"),
    "pickled objects in npz": ("a.npz", lambda: pickled(True), "object|pickle"),
    "npy without labels beside it": ("p.npy", lambda: _npy(P), "no column 'y'"),
    "npy of named fields": (
        "p.npy",
        lambda: _npy(np.asarray(np.rec.fromarrays([Y, P[:, 0]], names="y,p"))),
        "label 2.*for 3 classes",
    ),
    "pickled objects in npy": ("p.npy", lambda: pickled(False), "object|pickle"),
    "a pickle": ("p.npy", lambda: pickle.dumps(Exploding()), "object|pickle|npy"),
}

OPTIONS: dict[str, tuple[list[str], str]] = {
    "label": (["--label", "target"], "no column 'target'.*columns are"),
    "a slip of the label": (["--label", "Y"], "no column 'Y'; did you mean 'y'|columns are"),
    "predictions": (["--probs", "q_*"], "'q_.*columns are.*p_0"),
    "a slip of the predictions": (["--probs", "p_0,p_1,p2"], "no column 'p2'; did you mean 'p_2'"),
    "label among predictions": (["--label", "p_1"], "'p_1' is label"),
    "no predictions": (["--probs", ""], "no column"),
    "two kinds": (["--logits", "p_*"], "--probs and --logits"),
    "weight": (["--weight", "W"], "weight.*'W'"),
    "weight of text": (["--weight", "lang"], "'lang'"),
    "weights below 0": (["--weight", "less"], "less|weight.*row 0"),
    "weights of 0": (["--weight", "none"], "weight"),
    "cluster": (["--cluster", "doc"], "cluster.*'doc'"),
    "by": (["--by", "q"], "'q'"),
    "id": (["--id", "name"], "id.*'name'"),
    "all ignored": (["--ignore", "0", "--ignore", "1", "--ignore", "2"], "ignore|no rows|left"),
    "classes of another number": (["--classes", "a,b"], "2 classes.*3"),
    "classes of other names": (["--classes", "a,b,c"], "label.*\\['a', 'b', 'c'\\]"),
    "classes twice": (["--classes", "0,1,1"], "twice|differ|'?1'?"),
    "zero of text": (["--zero", "none"], "zero"),
    "zero above 1": (["--zero", "2"], "zero.*2"),
    "zero that is no number": (["--zero", "nan"], "zero.*nan"),
    "level above 1": (["--ci", "95"], "ci.*95"),
    "level of text": (["--ci", "high"], "--ci"),
    "worst below 0": (["--worst", "-1"], "--worst"),
    "threshold of text": (["--max-loss", "low"], "--max-loss"),
    "threshold that is no number": (["--max-loss", "nan"], "--max-loss"),
    "skill that is no number": (["--min-skill", "nan"], "--min-skill"),
    "unknown option": (["--colour"], "--colour"),
    "one argument too many": (["b.csv"], "b.csv"),
}


@pytest.mark.parametrize("case", TABLES)
def test_a_table(case: str, tmp_path: Path, capsys: Any) -> None:
    name, make, pattern = TABLES[case]
    path = tmp_path / name
    _ = path.write_bytes(make())
    said = refused(capsys, "score", path, "--label", "y", "--probs", "p_*")
    assert str(path) in said
    _matches(said, pattern, path)


@pytest.mark.parametrize("case", LISTED)
def test_a_table_of_lists(case: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name, make, pattern = LISTED[case]
    path = tmp_path / name
    _ = path.write_bytes(make())
    said = refused(capsys, "score", path, "--label", "y", "--probs", "p")
    assert str(path) in said
    _matches(said, pattern, path)
    assert [other.name for other in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("end", ["csv", "parquet"])
@pytest.mark.parametrize("case", OPTIONS)
def test_an_option(case: str, end: str, tmp_path: Path, capsys: Any) -> None:
    options, pattern = OPTIONS[case]
    more = {"lang": ["de", "en"] * 100, "less": -np.ones(200), "none": np.zeros(200)}
    path = saved(tmp_path / f"a.{end}", {**GOOD, **more})
    usual = {"--label": "y", "--probs": "p_*"}
    others = [part for name, value in usual.items() if name not in options for part in (name, value)]
    _matches(refused(capsys, "score", path, *others, *options), pattern, path)


def _matches(said: str, pattern: str, path: Path) -> None:
    """Assert that the line says more than the name of the file, and says it in the words of the command."""
    import re

    rest = said.replace(str(path), "")
    assert re.search(pattern, rest), rest
    assert len(rest.removeprefix("crossent: ").strip(": ")) > 4
    assert not re.search(r"\b(classes|ignore|probs|logits|logprobs|normalize|weight)=", rest), f"Python's words: {rest}"


def _npy(array: Any) -> bytes:
    import io

    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


class TestPlaces:
    ARGUMENTS = ("--label", "y", "--probs", "p_*")

    def test_that_are_not_there(self, tmp_path: Path, capsys: Any) -> None:
        for name in ("none.csv", "none.parquet", "none.arrow", "none.npz", "none.npy", "none.jsonl", "x/none.csv"):
            said = refused(capsys, "score", tmp_path / name, *self.ARGUMENTS)
            assert said == f"crossent: cannot read {tmp_path / name}: No such file or directory"

    @pytest.mark.parametrize("name", ["folder", "folder.csv", "folder.parquet", "folder.npz", "folder.jsonl"])
    def test_that_are_folders(self, name: str, tmp_path: Path, capsys: Any) -> None:
        (tmp_path / name).mkdir()
        assert "director" in refused(capsys, "score", tmp_path / name, *self.ARGUMENTS)

    @pytest.mark.skipif(not hasattr(os, "seteuid"), reason="no users here")
    @pytest.mark.parametrize("end", ["csv", "parquet", "jsonl", "npz"])
    def test_that_may_not_be_read(self, end: str, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / f"a.{end}", GOOD)
        assert run(capsys, "score", path, *self.ARGUMENTS).code == 0  # everything is imported by now
        path.chmod(0)
        before, nobody = os.geteuid(), 65534
        for folder in (tmp_path, *tmp_path.parents):
            if before == 0 and folder.stat().st_uid == 0 and folder != Path("/"):
                folder.chmod(folder.stat().st_mode | 0o011)
        try:
            if before == 0:
                os.seteuid(nobody)
            assert "Permission denied" in refused(capsys, "score", path, *self.ARGUMENTS)
        finally:
            os.seteuid(before)

    def test_that_cannot_be_written(self, tmp_path: Path, capsys: Any) -> None:
        path = saved(tmp_path / "a.csv", GOOD)
        for report in (tmp_path / "none" / "r.html", tmp_path):
            said = refused(capsys, "score", path, *self.ARGUMENTS, "--html", report)
            assert str(report) in said

    def test_that_are_no_files(self, tmp_path: Path, capsys: Any) -> None:
        path, fifo = saved(tmp_path / "a.csv", GOOD), tmp_path / "fifo"
        os.mkfifo(fifo)
        for report in [fifo, *(each for each in map(Path, ("/dev/full", "/dev/null")) if each.exists())]:
            said = refused(capsys, "score", path, *self.ARGUMENTS, "--html", report)
            assert said == f"crossent: cannot write to {report}: it is not a regular file"

    def test_that_are_full(self, tmp_path: Path, capsys: Any) -> None:
        """The system refuses the write after 4 KB, as a full disk or a quota does: what was there stays."""
        resource = pytest.importorskip("resource", reason="limits of a process are those of Unix")
        path, report = saved(tmp_path / "a.csv", GOOD), tmp_path / "r.html"
        _ = report.write_text("an older report")
        assert run(capsys, "score", path, *self.ARGUMENTS, "--html", tmp_path / "whole.html").code == 0
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
        try:
            said = refused(capsys, "score", path, *self.ARGUMENTS, "--html", report, out=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert said == f"crossent: cannot write to {report}: File too large"
        assert report.read_text() == "an older report"
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a.csv", "r.html", "whole.html"]


def test_a_command_that_does_not_exist(tmp_path: Path, capsys: Any) -> None:
    assert "scores" in refused(capsys, "scores")
    assert "FILE" in refused(capsys, "score")
    assert "--label" in refused(capsys, "score", saved(tmp_path / "a.csv", {"k": Y}))
    assert "two files" in refused(capsys, "compare", "a.csv", "--label", "y")


def test_what_cannot_be_compared(tmp_path: Path, capsys: Any) -> None:
    a, other = saved(tmp_path / "a.csv", {**GOOD, "k": np.arange(200)}), tmp_path / "other.csv"
    for made in ({**GOOD, "k": np.arange(200) + 1}, {**GOOD, "k": np.arange(200) // 2}, GOOD, columns(Y % 2, P[:, :2])):
        said = refused(capsys, "compare", a, saved(other, made), "--label", "y", "--probs", "p_*", "--on", "k")
        assert str(a) in said or str(other) in said
    same = {**GOOD, "k": np.arange(200) // 2}
    for path in (a, other):
        _ = saved(path, same)
    said = refused(capsys, "compare", a, other, "--label", "y", "--probs", "p_*", "--on", "k")
    assert "100" in said
    assert str(a) in said


@pytest.mark.slow
def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`crossent score … | head -1` is no mistake of the data."""
    import subprocess
    import sys

    path = saved(tmp_path / "a.csv", GOOD)
    command = [sys.executable, "-c", written.COMMAND, "score", str(path), "--label", "y", "--probs", "p_*"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_a_process_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    _ = path.write_bytes(written.parquet(GOOD)[:-5])
    done = fresh("score", path, "--label", "y", "--probs", "p_*")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
