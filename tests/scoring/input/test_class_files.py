"""Files of names of classes."""

from __future__ import annotations

import json

import pytest

from crossent.scoring.input.class_files import read_classes
from crossent.scoring.input.reader import FileError


@pytest.mark.parametrize(
    ("name", "text", "classes"),
    [
        ("names.txt", "cat\ndog\n", ["cat", "dog"]),
        ("names.txt", "\ufeffcat \r\n\r\n dog", ["cat", "dog"]),
        ("names.txt", "[PAD]\n[UNK]\n", ["[PAD]", "[UNK]"]),
        ("names.txt", '["cat", "dog"]', ["cat", "dog"]),
        ("names.json", "[3, 4]", [3, 4]),
        ("a.json", '{"0": "cat", "1": "dog"}', {"0": "cat", "1": "dog"}),
        ("config.json", '{"model_type": "bert", "id2label": {"0": "cat"}}', {"0": "cat"}),
        ("config.json", '{"label2id": {"cat": 0}}', {"cat": 0}),
        ("data.json", '{"classes": ["cat"]}', ["cat"]),
    ],
)
def test_names_are_read(name, text, classes, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    assert read_classes(tmp_path / name) == classes


@pytest.mark.parametrize(
    "text", ["", "\n\n", "cat", "{", "[[1], [2]]", "{}", '{"a": {"b": 1}}', json.dumps({"a": [1]}), b"\xff\xfe"]
)
def test_other_files_are_refused(text, tmp_path):
    (tmp_path / "c.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(FileError, match=r"c\.json"):
        read_classes(tmp_path / "c.json")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_classes(tmp_path / "none.txt")
