"""Tensors in safetensors files, beside the package's own reader; damaged files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from crossent.errors import InputError
from crossent.scoring.input.files import open_table
from crossent.scoring.input.reader import FileError
from tests.laws.mutated import mutated
from tests.scoring.written import predictions

Y, P = predictions(70)


def read(path: Path, *names: str) -> dict[str, Any]:
    portions = list(open_table(path).batches(names, []))
    return {name: np.concatenate([np.array(p.batch.column(name).to_pylist()) for p in portions]) for name in names}


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
)  # fmt: skip
def test_types_beside_the_package(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"y": Y.astype(dtype), "p": (100 * P).astype(dtype)}, path)
    wanted = load_file(path)
    assert sorted(open_table(path).columns) == ["p", "y"]
    for name, found in read(path, "y", "p").items():
        np.testing.assert_array_equal(found, wanted[name])


def test_bfloat16_beside_torch(tmp_path: Path) -> None:
    path, p = tmp_path / "a.safetensors", torch.tensor(P).bfloat16()
    save_tensors({"y": torch.tensor(Y), "p": p, "other": torch.zeros(3, 4, 5)}, path, metadata={"made": "here"})
    np.testing.assert_array_equal(read(path, "p")["p"], p.double().numpy())
    with pytest.raises(FileError, match=r"'other' has shape \(3, 4, 5\); it must be \(rows,\) or \(rows, classes\)"):
        _ = read(path, "other")


def test_types_that_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors({"p": torch.zeros(4, 2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(FileError, match="tensor 'p' has type F8_E4M3, which is not read; save it as F32"):
        _ = read(path, "p")


def test_tensors_of_other_lengths(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"y": Y, "p": P[:5]}, path)
    with pytest.raises(FileError, match="the arrays differ in length"):
        _ = read(path, "y", "p")


def described(path: Path, header: Any, data: bytes = bytes(64)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    _ = path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def one(**changed: Any) -> dict[str, Any]:
    return {"p": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64], **changed}}


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"{", "its header is not JSON"),
        (b"[1]", "its header is not an object"),
        (b"{}", "holds no tensors"),
        (b"[" * 200_000, "its header is not JSON"),
        (b'{"p": 1, "p": 2}', "a name occurs twice"),
        ({"p": 1}, "'p' has an invalid description"),
        (one(shape=[-4, -4]), "has an invalid description"),
        (one(shape=[4.0, 4]), "has an invalid description"),
        (one(shape=[1 << 70]), "has an invalid description"),
        (one(shape="ab"), "has an invalid description"),
        (one(data_offsets=[0, 64, 128]), "has an invalid description"),
        (one(shape=[4, 5]), "does not match its bytes in the file"),
        (one(data_offsets=[64, 128]), "does not match its bytes in the file"),
        (one(shape=[1 << 40, 1 << 20]), "does not match its bytes in the file"),
        (one(dtype=["F32"]), "which is not read"),
        (one(dtype="F4"), "which is not read"),
        (one(shape=[16, 0, 4], data_offsets=[0, 0]), "it must be"),
    ],
)
def test_damaged_headers(header: Any, said: str, tmp_path: Path) -> None:
    path = described(tmp_path / "a.safetensors", header)
    with pytest.raises(FileError, match=said) as caught:
        _ = read(path, "p")
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("data", [b"1234567", (1 << 40).to_bytes(8, "little") + b"{}", b"\xff" * 40])
def test_what_is_no_safetensors_file(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    _ = path.write_bytes(data)
    with pytest.raises(FileError, match="does not begin as a safetensors file does"):
        _ = open_table(path)


def test_bytes_changed_anywhere(tmp_path: Path) -> None:
    path, dice = tmp_path / "a.safetensors", random.Random(7)
    save_file({"y": Y, "p": P.astype(np.float32)}, path)
    whole, read_again = path.read_bytes(), 0
    for _ in range(300):
        _ = path.write_bytes(mutated(whole, dice))
        found = outcome(path)
        if isinstance(found, str):
            assert "\n" not in found
        else:
            read_again += 1
            assert len(found["y"]) == len(found["p"])
    assert read_again > 10


def outcome(path: Path) -> str | dict[str, Any]:
    """Return the tensors, or what the refusal says."""
    try:
        return read(path, "y", "p")
    except InputError as error:
        return str(error)
