"""Logs of Inspect: a whole log and an archive give the same documents; the epochs of a sample are one cluster."""

from __future__ import annotations

import json
import zipfile

import pytest

from crossent.scoring.lm import LogError, read, score_tokens


def sample(name, epoch, logprob, **more):
    content = [{"token": "Yes", "logprob": logprob, "bytes": [89, 101, 115], "top_logprobs": []}]
    choice = {
        "message": {"role": "assistant", "content": "Yes"},
        "stop_reason": "stop",
        "logprobs": {"content": content},
    }
    return {
        "id": name,
        "epoch": epoch,
        "input": "?",
        "target": "Yes",
        "output": {"model": "m", "choices": [choice]},
        **more,
    }


SAMPLES = [sample(1, 1, -0.5), sample(1, 2, -1.5), sample("q", 1, -0.25)]
ABOUT = {"task": "yesno", "task_id": "t", "model": "m"}


def whole(tmp_path, samples=None, name="log.json"):
    path = tmp_path / name
    _ = path.write_text(
        json.dumps({"version": 2, "status": "success", "eval": ABOUT, "samples": samples or SAMPLES}, indent=1)
    )
    return path


def archive(tmp_path, samples=None, method=zipfile.ZIP_DEFLATED):
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("_journal/start.json", json.dumps({"version": 2, "eval": ABOUT}))
        for one in samples or SAMPLES:
            file.writestr(f"samples/{one['id']}_epoch_{one['epoch']}.json", json.dumps(one))
        file.writestr("header.json", json.dumps({"version": 2, "eval": ABOUT}))
    return path


@pytest.mark.parametrize("make", [whole, archive])
def test_samples_are_documents_and_epochs_a_cluster(tmp_path, make):
    documents = list(read(make(tmp_path), by="task"))
    assert [(d.id, d.cluster, d.source, d.by) for d in documents] == [
        ("1", "1", "inspect", (("task", "yesno"),)),
        ("1, epoch 2", "1", "inspect", (("task", "yesno"),)),
        ("q", "q", "inspect", (("task", "yesno"),)),
    ]
    score = score_tokens(documents)
    assert (score.documents, score.tokens, score.bytes) == (2, 3, 9)
    assert score.by["task"][0].documents == 2


def test_samples_without_log_probabilities_or_with_an_error(tmp_path):
    failed = {"id": 2, "epoch": 1, "output": {"choices": []}, "error": {"message": "x"}}
    plain = sample(3, 1, 0.0)
    plain["output"]["choices"][0]["logprobs"] = None
    score = score_tokens(read(whole(tmp_path, [*SAMPLES, failed, plain])))
    assert any("failed requests" in warning for warning in score.warnings)
    assert any("without a scored token" in warning for warning in score.warnings)


def test_what_is_broken_names_the_sample(tmp_path):
    broken = sample(9, 1, "x")
    with pytest.raises(LogError, match=r"sample 9: .*must be a number"):
        _ = list(read(whole(tmp_path, [broken])))
    with pytest.raises(LogError, match="must be a number"):
        _ = list(read(archive(tmp_path, [broken])))


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "other.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("log.jsonl", "{}")
    with pytest.raises(LogError, match="an archive without samples of Inspect; unpack it"):
        _ = list(read(path))
