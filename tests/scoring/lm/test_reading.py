"""Several files and keys: the same numbers as of each part alone, and of the whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crossent.scoring.lm import LogError, read, score_tokens
from crossent.scoring.lm.reading import documents_of, task_of
from tests.scoring.lm import records

ROWS = [
    {"id": f"d{k}", "tokens": ["ab", "c"], "logprobs": [-1.0 - k, -0.5 * k], "meta": {"lang": "en" if k % 3 else "de"}}
    for k in range(9)
]


def written(tmp_path, rows, name="log.jsonl"):
    path = tmp_path / name
    _ = path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_key_splits_the_documents(tmp_path):
    score = score_tokens(read(written(tmp_path, ROWS), by="meta.lang"))
    parts = {part.value: part for part in score.by["meta.lang"]}
    for value in ("de", "en"):
        alone = score_tokens(read(written(tmp_path, [r for r in ROWS if r["meta"]["lang"] == value], f"{value}.jsonl")))
        part = parts[value]
        assert (part.loss, part.ci, part.documents, part.tokens) == (
            alone.loss,
            alone.ci,
            alone.documents,
            alone.tokens,
        )
        assert (part.bits_per_byte, part.bits_per_byte_ci) == (alone.bits_per_byte, alone.bits_per_byte_ci)
    plain = score_tokens(read(written(tmp_path, ROWS)))
    assert (score.loss, score.ci) == (plain.loss, plain.ci)
    assert "by meta.lang" in repr(score)


def test_a_key_with_a_dot_comes_before_a_path(tmp_path):
    rows = [{**row, "meta.lang": k} for k, row in enumerate(ROWS)]
    score = score_tokens(read(written(tmp_path, rows), by=["meta.lang", "id"]))
    assert [part.value for part in score.by["meta.lang"]] == [str(k) for k in range(9)]
    assert len(score.by["id"]) == 9


def test_records_without_the_key_share_no_value(tmp_path):
    rows = [*ROWS, {"logprobs": [-1.0]}]
    parts = score_tokens(read(written(tmp_path, rows), by="meta.lang")).by["meta.lang"]
    assert {part.value: part.documents for part in parts} == {"de": 3, "en": 6, None: 1}


def test_a_key_that_no_record_has_is_refused(tmp_path):
    with pytest.raises(LogError, match=r"no record has 'nope'; its records have 'id', 'logprobs', 'meta', 'tokens'"):
        _ = list(read(written(tmp_path, ROWS), by="nope"))
    with pytest.raises(LogError, match="'meta' is an object with 'lang', which cannot be a slice"):
        _ = list(read(written(tmp_path, ROWS), by="meta"))


def test_too_many_values_are_refused(tmp_path):
    rows = [{"id": k, "logprobs": [-1.0]} for k in range(1001)]
    with pytest.raises(LogError, match="'id' has more than 1000 values"):
        _ = score_tokens(read(written(tmp_path, rows), by="id"))


def test_several_files_are_scored_by_task_and_as_a_whole(tmp_path):
    questions = [records.multiple_choice([-1.0 - k, -1.5, -9.0], "0", float(k < 1)) for k in range(3)]
    first = written(tmp_path, questions, "samples_arc_easy_2026-01-02T03-04-05.678901.jsonl")
    second = written(tmp_path, questions[:1], "samples_boolq_2026-01-02T03-04-05.678901.jsonl")
    score = score_tokens(read([first, second]))
    assert [(part.value, part.documents) for part in score.by["task"]] == [("arc_easy", 3), ("boolq", 1)]
    assert [part.choices.n for part in score.by["task"]] == [3, 1]
    assert score.choices.n == 4
    assert score.worst_documents[0].document.startswith(("arc_easy: ", "boolq: "))


def test_documents_of_one_name_in_two_files_are_two(tmp_path):
    paths = [written(tmp_path, ROWS, name) for name in ("a.jsonl", "b.jsonl")]
    assert score_tokens(read(paths)).documents == 2 * len(ROWS)
    (tmp_path / "x").mkdir()
    same = [written(tmp_path, ROWS), written(tmp_path / "x", ROWS)]
    assert [part.value for part in score_tokens(read(same)).by["task"]] == list(map(str, same))


def test_other_keys_take_the_place_of_tasks(tmp_path):
    paths = [written(tmp_path, ROWS, name) for name in ("a.jsonl", "b.jsonl")]
    assert list(score_tokens(read(paths, by="meta.lang")).by) == ["meta.lang"]


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("samples_leaderboard_bbh_date_2024-10-01T00-00-00.1.jsonl", "leaderboard_bbh_date"),
        ("samples_x_2024-10-01T00-00-00.1.json", "x"), ("run.jsonl.gz", "run"), ("run.v2.jsonl", "run.v2"),
        ("log", "log"), (".jsonl", ".jsonl"), ("2026_task.eval", "2026_task"),
    ],
)  # fmt: skip
def test_the_task_that_a_name_says(name, task):
    assert task_of(Path(name)) == task


def test_no_files_are_refused():
    with pytest.raises(LogError, match="there is no file to read"):
        _ = read([])


def test_the_part_that_is_done_goes_over_all_files(tmp_path):
    parts: list[float] = []
    paths = [written(tmp_path, ROWS, name) for name in ("a.jsonl", "b.jsonl")]
    assert len(list(documents_of(paths, done=parts.append))) == 2 * len(ROWS)
    assert parts == sorted(parts)
    assert (min(parts) < 0.5, parts[-1]) == (True, 1.0)
