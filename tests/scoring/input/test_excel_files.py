"""Workbooks of Excel, as openpyxl and pandas write them, beside what pandas reads; damaged and hostile ones."""

from __future__ import annotations

import builtins
import datetime
import io
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pandas as pd
import pytest

from crossent.errors import InputError
from crossent.scoring.input import excel_files
from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError, FileOptions
from tests.scoring.written import columns, predictions

Y, P = predictions(50)
FRAME = pd.DataFrame({**columns(Y, P), "animal": np.array(["cat", "dog", "emu"])[Y]})


def read(path: Path, names: list[str], texts: Any = (), **options: Any) -> dict[str, list[Any]]:
    found = [portion.batch.to_pydict() for portion in open_table(path, FileOptions(**options)).batches(names, texts)]
    return {name: [value for batch in found for value in batch[name]] for name in names}


def workbook(path: Path, *rows: Any, **sheets: Any) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    for title, more in sheets.items():
        sheet = book.create_sheet(title)
        for row in more:
            sheet.append(row)
    book.save(path)
    return path


def test_a_frame_of_pandas(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    FRAME.to_excel(path, index=False)
    table = open_table(path)
    assert table.columns == tuple(FRAME.columns)
    assert table.said == ""
    found = read(path, ["animal", "p_2", "y"], ["animal", "y"])
    wanted = pd.read_excel(path)
    for name, values in found.items():
        assert values == wanted[name].tolist()
    np.testing.assert_allclose(found["p_2"], P[:, 2], rtol=1e-15)  # Excel keeps 17 digits at most


def test_many_batches_beside_pandas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel_files, "_STEP", 7)
    FRAME.to_excel(tmp_path / "a.xlsx", index=False)
    portions = list(open_table(tmp_path / "a.xlsx").batches(["p_0"], []))
    assert [len(portion.batch) for portion in portions] == [7] * 7 + [1]
    done = [portion.done for portion in portions]
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_sheets(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["y", "p"], [1, 0.5], New=[["y", "p"], [0, 0.25]])
    assert read(path, ["y", "p"]) == {"y": [1.0], "p": [0.5]}
    assert open_table(path).said.startswith("sheet 'Sheet', the first of 2; --sheet reads another of ['Sheet', ")
    assert read(path, ["y", "p"], sheet="New") == {"y": [0.0], "p": [0.25]}
    assert open_table(path, FileOptions(sheet="New")).said == ""
    with pytest.raises(FileError, match=r"there is no sheet 'Old'; the sheets are \['Sheet', 'New'\]"):
        _ = read(path, ["y"], sheet="Old")


def test_blank_rows_above_below_and_between(tmp_path: Path) -> None:
    path = workbook(
        tmp_path / "a.xlsx", [], [], ["y", None, "p"], [1, 7, 0.5], [], [0, 8, 0.25], [], [None, None, None]
    )
    assert open_table(path).columns == ("y", "Unnamed: 1", "p")
    assert read(path, ["y", "p"]) == {"y": [1.0, None, 0.0], "p": [0.5, None, 0.25]}


def test_notes_beside_the_table_do_not_count(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["y", "p"], [1, 0.5, None, "a note"], [0, 0.25])
    assert read(path, ["p"]) == {"p": [0.5, 0.25]}


def test_cells_of_every_kind(tmp_path: Path) -> None:
    day, moment = datetime.date(2026, 11, 30), datetime.datetime(2026, 11, 30, 17, 5)
    rows = [
        ["a", "b", "c", "d"],
        [True, 1, day, "x"],
        [False, 2.5, moment, 7],
        [None, None, None, None],
        [True, 3, day, 1.5],
    ]
    path = workbook(tmp_path / "a.xlsx", *rows)
    found = read(path, ["a", "b", "c", "d"], ["a", "b", "c", "d"])
    assert found == {
        "a": [True, False, None, True], "b": [1.0, 2.5, None, 3.0],
        "c": ["2026-11-30", "2026-11-30 17:05:00", None, "2026-11-30"], "d": ["x", "7", None, "1.5"],
    }  # fmt: skip
    assert read(path, ["a", "b"]) == {"a": [1.0, 0.0, None, 1.0], "b": [1.0, 2.5, None, 3.0]}


def test_numbers_that_are_texts(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["p", "q"], ["0.5", "0,5"], [" 1e-3 ", "0,25"], ["NA", 1], ["?", "-"])
    assert read(path, ["p"], na=("?",)) == {"p": [0.5, 1e-3, None, None]}
    assert read(path, ["q"], na=("-",), decimal=",") == {"q": [0.5, 0.25, 1.0, None]}
    with pytest.raises(FileError, match=r"column 'p' holds '\?' in row 5 of the sheet, which is not a number$"):
        _ = read(path, ["p"])
    with pytest.raises(FileError, match=r"column 'q' holds '0,5' in row 2 of the sheet, .*; pass decimal=','"):
        _ = read(path, ["q"])


def test_errors_of_formulas_are_no_numbers(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", ["p"], ["#DIV/0!"])
    with pytest.raises(FileError, match=r"holds '#DIV/0!' in row 2"):
        _ = read(path, ["p"])


def changed(path: Path, member: str, change: Callable[[bytes], bytes]) -> Path:
    """Change a part of a workbook."""
    sink = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, change(data) if info.filename == member else data)
    _ = path.write_bytes(sink.getvalue())
    return path


def shared(path: Path) -> Path:
    """Keep the texts of a workbook in a part of their own, as Excel does."""
    texts: list[bytes] = []

    def place(found: re.Match[bytes]) -> bytes:
        texts.append(found[1])
        return b't="s"><v>%d</v></c>' % (len(texts) - 1)

    _ = changed(path, SHEET, lambda data: re.sub(rb't="inlineStr"><is><t>(.*?)</t></is></c>', place, data))
    namespace = b"http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    part = b'<?xml version="1.0" encoding="UTF-8"?><sst xmlns="%s">%s</sst>'
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(TEXTS, part % (namespace, b"".join(b"<si><t>%s</t></si>" % text for text in texts)))
    kind = b"application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    override = b'<Override PartName="/%s" ContentType="%s"/></Types>' % (TEXTS.encode(), kind)
    return changed(path, "[Content_Types].xml", lambda data: data.replace(b"</Types>", override))


def test_texts_in_a_part_of_their_own(tmp_path: Path) -> None:
    path = shared(workbook(tmp_path / "a.xlsx", ["y", "p"], ["x", 0.5], ["z", 0.25]))
    assert read(path, ["y", "p"], ["y"]) == {"y": ["x", "z"], "p": [0.5, 0.25]}


SHEET, TEXTS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
LAUGHS = (
    b'<!DOCTYPE l [<!ENTITY a "ha">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + k, b"&%c;" % (97 + k) * 20) for k in range(9))
    + b"]>"
)


def entities(data: bytes) -> bytes:
    head, mark, rest = data.partition(b"?>") if data.startswith(b"<?xml") else (b"", b"", data)
    return head + mark + LAUGHS + rest


@pytest.mark.parametrize("member", [SHEET, TEXTS, "xl/workbook.xml", "xl/styles.xml", "[Content_Types].xml"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused(member: str, encoding: str, tmp_path: Path) -> None:
    def change(data: bytes) -> bytes:
        text = entities(data).decode().replace("UTF-8", encoding.upper()).replace("utf-8", encoding)
        return text.encode(encoding)

    path = changed(shared(workbook(tmp_path / "a.xlsx", ["y", "p"], ["x", 0.5])), member, change)
    with pytest.raises(FileError, match="defines a type of document, which no workbook does"):
        _ = read(path, ["p"])


BOMBS = {
    "a row without end": (
        SHEET,
        lambda data: data.replace(b"</row>", b'<c r="A1"/>' * 2_000_000 + b"</row>", 1),
        "a row of",
    ),
    "texts without end": (TEXTS, lambda data: data + b" " * (excel_files._HELD), "unpacks to 25[67] MiB"),
    "no beginning": (SHEET, lambda data: b" " * (18 << 20) + data, "no beginning|no XML"),
    "far columns": (SHEET, lambda data: data.replace(b'r="B2"', b'r="ZZZZZZ2"'), ""),
    "far rows": (
        SHEET,
        lambda data: data.replace(b'r="2"', b'r="999999999999"').replace(b'B2"', b'B999999999999"'),
        "",
    ),
    "no sheet": ("xl/workbook.xml", lambda data: data.replace(b"<sheet ", b"<shoot "), ""),
    "cells of nothing": (SHEET, lambda data: data.replace(b'r="B2"', b'r="2B"'), ""),
    "texts that are not there": (SHEET, lambda data: data.replace(b"<v>2</v>", b"<v>99</v>", 1), "index out of range"),
    "no XML": (SHEET, lambda data: data[: len(data) // 2], ""),
}


@pytest.mark.parametrize("case", BOMBS)
def test_what_is_damaged_or_hostile(case: str, tmp_path: Path) -> None:
    member, change, said = BOMBS[case]
    path = changed(shared(workbook(tmp_path / "a.xlsx", ["y", "p"], ["x", 0.5], ["z", 0.25])), member, change)
    assert path.stat().st_size < 2 << 20
    found = outcome(path)
    if isinstance(found, str):
        assert "\n" not in found
        assert str(path) in found
        assert re.search(said, found), found
    else:
        assert said == ""
        assert len(found) <= excel_files.ROWS


def outcome(path: Path) -> str | list[Any]:
    """Return the values of a column, or what the refusal says."""
    try:
        return read(path, ["p"])["p"]
    except InputError as error:
        return str(error)


def test_what_is_no_workbook(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "y,p\n")
    with pytest.raises(FileError, match=r"a\.xlsx is a zip archive, not a workbook of Excel"):
        _ = open_table(path)
    _ = path.write_text("y,p\n1,0.5\n")
    with pytest.raises(FileError, match="does not begin as a xlsx file does"):
        _ = open_table(path)
    with pytest.raises(FileError, match="sheet 'Sheet' is empty"):
        _ = open_table(workbook(path))


def test_without_openpyxl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, before = workbook(tmp_path / "a.xlsx", ["y", "p"], [1, 0.5]), builtins.__import__

    def imported(name: str, *rest: Any) -> Any:
        if name == "openpyxl":
            raise ImportError(name)
        return before(name, *rest)

    monkeypatch.setattr(builtins, "__import__", imported)
    monkeypatch.delitem(sys.modules, "openpyxl", raising=False)
    with pytest.raises(FileError, match=r"openpyxl is not installed: pip install 'crossent\[excel\]'"):
        _ = open_table(path)


def test_a_formula_that_nobody_has_computed(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in (["y", "p"], [0, 0.5], [1, "=1-B2"]):
        sheet.append(row)
    book.save(path)
    words = re.escape("column 'p' holds a formula without its value in row 3 of the sheet; open the workbook in Excel")
    with pytest.raises(FileError, match=words):
        list(open_table(path).batches(["y", "p"], ["y"]))
    sheet["B3"] = None
    sheet["C1"] = "note"
    book.save(path)
    (portion,) = open_table(path).batches(["y", "p"], ["y"])
    assert portion.batch.column(1).to_pylist() == [0.5, None]
