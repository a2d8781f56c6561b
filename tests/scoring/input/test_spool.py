"""Files that are copied before they are read: archives, xz, standard input; whole, damaged and hostile ones."""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossent.scoring.input import spool
from crossent.scoring.input.reader import FileError, FileOptions
from crossent.scoring.input.several import open_tables
from tests.scoring import written
from tests.scoring.written import SCALARS, columns, predictions

Y, P = predictions(50)
CSV = written.csv(columns(Y, P))


def column(names: Any, options: FileOptions | None = None, name: str = "p_1") -> list[float]:
    with open_tables(names, options) as tables:
        return [value for portion in tables.batches([name], []) for value in portion.batch.column(0).to_pylist()]


class Piped:
    """Standard input, with these bytes."""

    def __init__(self, data: bytes, *, terminal: bool = False) -> None:
        self.buffer = io.BytesIO(data)
        self.buffer.isatty = lambda: terminal  # pyright: ignore[reportAttributeAccessIssue]


class Failing(io.BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        raise OSError(5, "Input/output error")


@pytest.mark.parametrize("name", [name for name in SCALARS if name.endswith((".parquet", ".arrow", ".npz", ".jsonl"))])
def test_standard_input_told_by_its_first_bytes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(SCALARS[name](columns(Y, P))))
    with open_tables("-") as tables:
        assert tables.said == [f"{tables.parts[0].table.reader.format}, by its first bytes"]
        found = [value for portion in tables.batches(["p_1"], []) for value in portion.batch.column(0).to_pylist()]
    np.testing.assert_allclose(found, P[:, 1], rtol=1e-15)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, lzma.compress], ids=["plain", "gz", "xz"])
def test_standard_input_in_a_named_format(pack: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(pack(CSV)))
    np.testing.assert_array_equal(column("-", FileOptions(format="csv")), P[:, 1])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (CSV, "the format of standard input, -, is unknown; pass format='csv'"),
        (gzip.compress(CSV), "the format of standard input, -, is unknown"),
        (b"", "- is standard input, which is empty"),
        (b"PK\x03\x04damaged", "the format of standard input, -, is unknown"),
        (b"PAR1damaged", "- ?: "),
    ],
)
def test_standard_input_that_cannot_be_read(data: bytes, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(data))
    with pytest.raises(FileError, match=said) as caught:
        _ = column("-")
    assert "crossent-" not in str(caught.value)


def test_standard_input_of_a_failing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    piped = Piped(b"")
    piped.buffer = Failing()
    monkeypatch.setattr(sys, "stdin", piped)
    with pytest.raises(FileError, match=r"^cannot read -: Input/output error$"):
        _ = column("-")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_no_space_for_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path.open
    monkeypatch.setattr(sys, "stdin", Piped(CSV))
    monkeypatch.setattr(
        Path, "open", lambda path, mode: whole(Path("/dev/full"), mode) if "w" in mode else whole(path, mode)
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(FileError, match=rf"^cannot copy - to {tmp_path}.*: No space left on device$"):
        _ = column("-", FileOptions(format="csv"))


def test_a_terminal_is_no_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Piped(b"", terminal=True))
    with pytest.raises(FileError, match="nothing is piped to it"):
        _ = column("-")


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return path


def test_a_member_of_an_archive_by_name(tmp_path: Path) -> None:
    other = written.csv(columns(Y, P[:, [2, 1, 0]]))
    path = archive(tmp_path / "a.zip", {"x/new.csv": CSV, "x/old.csv": other, "notes.md": b"text"})
    np.testing.assert_array_equal(column(path / "x" / "old.csv", name="p_0"), P[:, 2])
    with pytest.raises(FileError, match=r"notes\.md: the file name shows no known format"):
        _ = column(path)
    with pytest.raises(FileError, match=r"a\.zip is a zip archive without a file 'none\.csv'"):
        _ = column(path / "none.csv")


def test_folders_in_an_archive_are_columns(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", {"lang=de/a.csv": b"y,p\n1,0.5\n", "lang=en/a.csv": b"y,p\n1,0.25\n"})
    with open_tables(path) as tables:
        found = [portion.batch.to_pydict() for portion in tables.batches(["lang", "p"], ["lang"])]
    assert found == [{"lang": ["de"], "p": [0.5]}, {"lang": ["en"], "p": [0.25]}]


@pytest.mark.parametrize("name", ["../../a.csv", "/etc/a.csv", "a\\b.csv", "C:/a.csv", "x" * 300 + ".csv"])
def test_names_in_archives_lead_nowhere(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copies = tmp_path / "x" / "y"
    copies.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(copies))
    path = archive(tmp_path / "a.zip", {name: CSV})
    np.testing.assert_array_equal(column(path), P[:, 1])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.zip", "x"]
    assert [each.name for each in (tmp_path / "x").iterdir()] == ["y"]


def encrypted(path: Path) -> Path:
    data = bytearray(archive(path, {"a.csv": CSV}).read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    _ = path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: archive(path, {}), "is a zip archive without files"),
        (lambda path: archive(path, {"_x.csv": CSV}), "is a zip archive without files"),
        (lambda path: archive(path, {"b.zip": CSV}), r"a\.zip/b\.zip is packed twice; unpack .*a\.zip first"),
        (encrypted, r"a\.zip/a\.csv: .*encrypted"),
        (lambda path: path.write_bytes(CSV) and path, r"a\.zip: File is not a zip file"),
        (lambda path: path.write_bytes(archive(path, {"a.csv": CSV}).read_bytes()[:-80]) and path, r"a\.zip: "),
        (lambda path: archive(path, {f"{k}.csv": b"" for k in range(10_001)}), "holds 10,001 files, more than 10,000"),
    ],
)
def test_archives_that_are_refused(make: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(FileError, match=said) as caught:
        _ = column(make(tmp_path / "a.zip"))
    assert "crossent-" not in str(caught.value)


def test_xz_of_several_streams_and_levels(tmp_path: Path) -> None:
    path, half = tmp_path / "a.csv.xz", CSV.index(b"\n", len(CSV) // 2) + 1
    data = lzma.compress(CSV[:half], preset=9) + b"\0" * 8 + lzma.compress(CSV[half:], preset=0)
    _ = path.write_bytes(data)
    np.testing.assert_array_equal(column(path), P[:, 1])
    _ = path.write_bytes(data[:-30])
    with pytest.raises(FileError, match=r"a\.csv\.xz: "):
        _ = column(path)
    _ = path.write_bytes(CSV)
    with pytest.raises(FileError, match=r"a\.csv\.xz: Input format not supported"):
        _ = column(path)


def test_xz_that_wants_much_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]
    header = bytearray(lzma.compress(CSV, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]))
    assert filters[0]["dict_size"] > spool._DICTIONARY
    at = header.index(b"\x21\x01") + 2
    header[at] = 36  # 1 GiB
    import zlib

    size = (header[12] + 1) * 4
    header[12 + size - 4 : 12 + size] = zlib.crc32(bytes(header[12 : 12 + size - 4])).to_bytes(4, "little")
    _ = path.write_bytes(bytes(header))
    with pytest.raises(FileError, match=r"[Mm]emory usage limit"):
        _ = column(path)


@pytest.mark.parametrize("kind", ["zip", "xz", "stdin"])
def test_bombs_do_not_fill_the_disk(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB of digits in some KB, on a disk with 16 MB free."""
    free = shutil._ntuple_diskusage(1 << 30, 0, 16 << 20)  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(spool.shutil, "disk_usage", lambda _: free)
    data = b"y,p_1\n" + b"1,0.5\n" * (11 << 20)
    path: Any = tmp_path / f"a.csv.{kind}"
    if kind == "zip":
        _ = archive(path, {"a.csv": data})
        assert path.stat().st_size < 1 << 20
    elif kind == "xz":
        _ = path.write_bytes(lzma.compress(data))
    else:
        path = "-"
        monkeypatch.setattr(sys, "stdin", Piped(data))
    with pytest.raises(FileError, match=r"takes more than half of what .* has free"):
        _ = column(path, FileOptions(format="csv"))
