"""A log reads the same in every compression, from standard input, and damage is one line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from crossent.scoring.lm import LogError, read
from crossent.scoring.lm.opening import line_of, opened

LINES = "".join(json.dumps({"id": k, "tokens": ["a", "é"], "logprobs": [-1.0, -k]}) + "\n" for k in range(300))
COMPRESSED = {
    "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress,
    "zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}  # fmt: skip


def frame(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        _ = stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("kind", ["plain", "gz", "bz2", "xz", "zst", "lz4"])
def test_every_compression_reads_the_same(tmp_path, kind):
    data = LINES.encode()
    packed = {"plain": data, "zst": frame(data, "zstd"), "lz4": frame(data, "lz4")}.get(kind)
    path = tmp_path / "log"  # told by its first bytes, whatever its name
    _ = path.write_bytes(COMPRESSED[kind](data) if packed is None else packed)
    plain = tmp_path / "plain.jsonl"
    _ = plain.write_bytes(data)
    assert list(read(path)) == list(read(plain))


def test_standard_input_may_be_compressed(monkeypatch):
    class Input:
        buffer = io.BytesIO(gzip.compress(LINES.encode()))

    monkeypatch.setattr(sys, "stdin", Input())
    assert len(list(read("-"))) == 300


def test_damage_is_one_line_that_names_the_file(tmp_path):
    for number, data in enumerate(
        (gzip.compress(LINES.encode())[:200], lzma.compress(LINES.encode())[:-30] + b"?" * 30)
    ):
        path = tmp_path / str(number)
        _ = path.write_bytes(data)
        with pytest.raises(LogError, match=r"is compressed, and damaged") as error:
            _ = list(read(path))
        assert "\n" not in str(error.value)


def test_the_part_that_is_read_grows_to_the_whole(tmp_path):
    path = tmp_path / "log.jsonl"
    _ = path.write_text(LINES)
    parts: list[float] = []
    with opened(Path(path)) as log:
        while line_of(log.file, 1 << 20, path):
            parts.append(log.done())
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
