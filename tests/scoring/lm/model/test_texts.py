"""Texts out of files: as they are, a document a file or an object, with names and slices."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from crossent.scoring.lm import LogError
from crossent.scoring.lm.model.texts import texts_of


def written(folder, name, data):
    path = folder / name
    _ = path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def test_a_file_is_a_text_as_it_is(tmp_path):
    text = "a\r\nb\n\n é"
    files = [written(tmp_path, "a.txt", "\ufeff" + text), written(tmp_path, "b.txt.gz", gzip.compress(text.encode()))]
    found = list(texts_of(files))
    assert [one.text for one in found] == [text, text]
    assert [one.notes for one in found] == [{"byte-order mark"}, set()]
    assert [one.name for one in found] == list(map(str, files))
    assert [one.done for one in found] == [0.5, 1.0]


def test_objects_hold_a_text_under_a_key(tmp_path):
    rows = [{"text": "a", "id": 7, "lang": "en"}, {"text": "b"}]
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    found = list(texts_of([path], by=["lang"]))
    assert [(one.name, one.text, one.by) for one in found] == [
        ("7", "a", (("lang", "en"),)), (f"{path}, line 2", "b", (("lang", None),)),
    ]  # fmt: skip
    other = written(tmp_path, "b.txt", json.dumps({"content": "c"}))
    assert [one.text for one in texts_of([other], key="content")] == ["c"]
    assert [one.by for one in texts_of([path], by=["task"])] == [(("task", "a"),)] * 2


@pytest.mark.parametrize(
    ("name", "data", "options", "said"),
    [
        ("a.txt", b"a\xff", {}, "byte 1 is not UTF-8; write the text as UTF-8"),
        ("a.jsonl", '{"content": "a"}', {}, "line 1: this is an object with 'content'; pass --text-key"),
        ("a.jsonl", '{"text": 7}', {}, "line 1: this is 'text' 7; pass --text-key"),
        ("a.jsonl", '{"text": "a"}', {"by": ["lang"]}, "no object has 'lang'"),
        ("a.txt", "a", {"by": ["lang"]}, "is a text, which has no 'lang'; leave --by out"),
        ("a.jsonl", '{"text": "a", "lang": []}', {"by": ["lang"]}, "line 1: 'lang' is a list of 0"),
    ],
)
def test_what_holds_no_text_is_refused(tmp_path, name, data, options, said):
    with pytest.raises(LogError, match=said):
        _ = list(texts_of([Path(written(tmp_path, name, data))], **options))


def test_a_key_may_be_a_path(tmp_path):
    path = written(tmp_path, "a.jsonl", json.dumps({"content": {"body": "c"}, "meta": {"lang": "en"}}))
    assert [(one.text, one.by) for one in texts_of([path], key="content.body", by=["meta.lang"])] == [
        ("c", (("meta.lang", "en"),))
    ]
    dotted = written(tmp_path, "b.jsonl", json.dumps({"content.body": "d", "content": {"body": "c"}}))
    assert [one.text for one in texts_of([dotted], key="content.body")] == ["d"]


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
def test_an_empty_file_is_an_empty_text_among_others(tmp_path, name):
    files = [written(tmp_path, name, ""), written(tmp_path, "b.txt", "b")]
    assert [one.text for one in texts_of(files)] == ["", "b"]
