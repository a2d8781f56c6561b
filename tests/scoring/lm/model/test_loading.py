"""A model out of a folder is that of transformers, and what is none is refused in one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import transformers

from crossent.errors import InputError
from crossent.scoring.lm import LogError, score_model
from crossent.scoring.lm.model.loading import load
from tests.scoring.lm.model.tiny import bytewise, model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    tokenizer = bytewise(bos=True)
    model(len(tokenizer), tie_word_embeddings=False).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def copied(folder, tmp_path, **changes):
    """Return a copy of a folder with another configuration."""
    for file in folder.iterdir():
        _ = (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    _ = (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    return tmp_path


def test_a_folder_is_loaded_and_scores_as_the_model_in_it(folder, capfd):
    found = load(folder)
    own = transformers.AutoModelForCausalLM.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(folder)
    _ = capfd.readouterr()
    assert not found.model.training
    assert found.model.dtype == torch.float32
    assert score_model(*found, ["abc", "hello"]).loss == score_model(*own, ["abc", "hello"]).loss


def test_nothing_is_said_while_it_loads(folder, capfd):
    _ = load(folder)
    assert capfd.readouterr() == ("", "")


def test_the_dtype_is_that_which_was_passed_or_that_of_the_file(folder, tmp_path):
    assert load(folder, dtype="bfloat16").model.dtype == torch.bfloat16
    half = copied(folder, tmp_path, dtype="float16")
    assert load(half, dtype="auto").model.dtype == torch.float16
    with pytest.raises(InputError, match="dtype must be one of auto, float32"):
        _ = load(folder, dtype="int8")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "nowhere/model",
            r"there is no folder 'nowhere/model'; crossent does not look up hub names: download the model first",
        ),
        ("/nowhere/model", r"there is no folder '/nowhere/model'; name a folder with config.json"),
    ],
)
def test_what_is_not_there(name, said):
    with pytest.raises(LogError, match=said):
        _ = load(Path(name))


def test_folders_and_files_that_hold_no_model(tmp_path):
    with pytest.raises(LogError, match=r"has no config.json; name the folder that save_pretrained wrote"):
        _ = load(tmp_path)
    _ = (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(LogError, match="holds an adapter of PEFT; merge it"):
        _ = load(tmp_path)
    file = tmp_path / "model.bin"
    _ = file.write_bytes(b"no model")
    with pytest.raises(LogError, match=r"is not a .gguf file"):
        _ = load(file)
    _ = file.write_bytes(b"GGUF but no more")
    with pytest.raises(LogError, match="transformers cannot read"):
        _ = load(file)
    _ = (tmp_path / "config.json").write_text("no json")
    with pytest.raises(LogError, match="transformers cannot read the configuration") as error:
        _ = load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["LlamaForSequenceClassification"]},
        {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
        {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]},
    ],
)
def test_a_model_that_is_no_causal_language_model_is_refused(folder, tmp_path, changes):
    with pytest.raises(LogError, match=f"is {changes['architectures'][0]}, not a causal language model"):
        _ = load(copied(folder, tmp_path, **changes))


def test_code_that_comes_with_a_model_does_not_run(folder, tmp_path):
    touched = tmp_path / "touched"
    path = copied(folder, tmp_path, model_type="own", auto_map={"AutoConfig": "own.Config"})
    _ = (path / "own.py").write_text(f"open({str(touched)!r}, 'w')\n")
    with pytest.raises(LogError, match="comes with code of its own, which crossent does not run"):
        _ = load(path)
    assert not touched.exists()


def test_weights_that_are_missing_are_not_made_up(folder, tmp_path):
    path = copied(folder, tmp_path)
    weights = safetensors.torch.load_file(path / "model.safetensors")
    del weights["lm_head.weight"]
    safetensors.torch.save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LogError, match=r"lacks the weight 'lm_head.weight'; is it a base model without a head"):
        _ = load(path)


def test_a_folder_without_a_tokenizer_is_refused(folder, tmp_path):
    path = copied(folder, tmp_path)
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(LogError, match=r"has no tokenizer \(tokenizer.json\); save the model's own into it"):
        _ = load(path)


@pytest.mark.parametrize("device", ["cpuu", "meta", *([] if torch.cuda.is_available() else ["cuda"])])
def test_a_device_that_is_not_there_is_named(folder, device):
    with pytest.raises(LogError, match=f"torch has no device '{device}' here; pass --device cpu"):
        _ = load(folder, device=device)
