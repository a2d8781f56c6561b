"""JSON read in parts: the same values as Python's `json` of the whole, whatever the blocks."""

from __future__ import annotations

import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossent.scoring.input import json_scanner
from crossent.scoring.input.json_scanner import Scanner, scanned
from crossent.scoring.input.reader import FileError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


class Slow:
    """A stream that gives a few bytes at a time."""

    def __init__(self, data, size):
        self.file, self.size = io.BytesIO(data), size

    def read(self, _):
        return self.file.read(self.size)


@settings(deadline=None)
@given(st.lists(VALUES, max_size=5), st.integers(1, 9), st.sampled_from([None, 1]), st.booleans())
def test_items_of_an_array(values, size, indent, escaped):
    data = json.dumps(values, indent=indent, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    try:
        data.decode()
    except UnicodeDecodeError:
        return
    scanner = Scanner(Slow(data, size), "a.json")
    assert [scanner.value() for _ in scanner.items()] == values
    assert scanner.peek() == ""
    assert scanner.offset == len(data)


@settings(deadline=None)
@given(st.dictionaries(st.text("ab\u00e4", max_size=3), VALUES, max_size=4), st.integers(1, 9))
def test_pairs_of_an_object(values, size):
    data = json.dumps(values, ensure_ascii=True).encode()
    scanner = Scanner(Slow(data, size), "a.json")
    assert {name: scanner.value() for name in scanner.pairs()} == values
    scanner = Scanner(Slow(data, size), "a.json")
    counts = {name: scanner.skip() for name in scanner.pairs()}
    assert counts == {name: len(v) if isinstance(v, list | dict) else 0 for name, v in values.items()}


@pytest.mark.parametrize(
    "text", ["[1 2]", "[1,", "[1,]", "[", '{"a" 1}', "{1: 2}", '{"a": 1', "[nul]", "[1e999]", '["a]', "[}", "[" * 10**5]
)
def test_what_is_not_json_is_refused(text):
    scanner = Scanner(io.BytesIO(text.encode()), "a.json")
    parts = scanner.items() if text.startswith("[") else scanner.pairs()
    with pytest.raises(FileError, match=r"a\.json: not JSON"):
        _ = [scanner.value() for _ in parts]


def test_bytes_that_are_no_text_are_refused():
    scanner = Scanner(io.BytesIO(b'["\xff"]'), "a.json")
    with pytest.raises(FileError, match="not text in UTF-8"):
        scanner.peek()


def test_a_value_that_never_ends_is_refused_early():
    class Endless:
        read_bytes = 0

        def read(self, size):
            self.read_bytes += size
            return b"a" * size

    file = Endless()
    scanner = Scanner(file, "a.json")
    scanner._text = '["'
    with pytest.raises(FileError, match="longer than 16 MiB"):
        _ = [scanner.value() for _ in scanner.items()]
    assert file.read_bytes < 2 * json_scanner.LONGEST


@pytest.mark.parametrize("write", [open, gzip.open], ids=["plain", "gzip"])
def test_a_file_is_opened_at_an_offset(write, tmp_path):
    path = tmp_path / ("a.json" if write is open else "a.json.gz")
    with write(path, "wb") as file:
        file.write(b'\xef\xbb\xbf{"a": [1, 2], "b": [3]}')
    with scanned(path) as (scanner, _):
        offsets = {}
        for name in scanner.pairs():
            scanner.peek()
            offsets[name] = scanner.offset
            scanner.skip()
    for name, values in {"a": [1, 2], "b": [3]}.items():
        with scanned(path, offsets[name]) as (scanner, _):
            assert [scanner.value() for _ in scanner.items()] == values
