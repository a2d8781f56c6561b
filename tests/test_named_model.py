"""Models by name: folders, files of weights that are not read, classes; and one line for whatever cannot be."""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossent import named_model
from crossent.errors import UsageError
from crossent.named_model import explain_named, model_named

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = importlib.import_module("transformers")

pytestmark = pytest.mark.slow  # transformers is imported

SIZES: dict[str, Any] = {
    "vocab_size": 53, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = transformers.Gemma2Config(**SIZES, architectures=["Gemma2ForCausalLM"], final_logit_softcapping=7.0)
    config.save_pretrained(tmp_path)
    return tmp_path


def change(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    _ = path.write_text(json.dumps(json.loads(path.read_text()) | fields))


class Trap:
    """A pickle that leaves a mark when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_a_folder(folder: Path) -> None:
    model = model_named(str(folder))
    assert type(model) is transformers.Gemma2ForCausalLM
    assert {x.device.type for x in model.parameters()} == {"meta"}
    found = explain_named(str(folder), batch=2, length=3, dtype="bfloat16", device="cuda")
    assert (found.logits.softcap, found.dtype, found.device, found.fuses) == (7.0, torch.bfloat16, "cuda", True)


def test_a_folder_that_names_no_class_has_the_usual_one(folder: Path) -> None:
    for names in (None, ["Gemma2ForNobody"], ["logging"], []):
        change(folder, architectures=names)
        assert type(model_named(str(folder))) is transformers.Gemma2ForCausalLM


def test_weights_are_neither_read_nor_unpickled(folder: Path) -> None:
    for name in ("pytorch_model.bin", "model.safetensors", "training_args.bin"):
        _ = (folder / name).write_bytes(pickle.dumps(Trap(folder / "mark")))
    assert explain_named(str(folder), batch=1, length=1, dtype=None, device="cpu").fuses
    assert not (folder / "mark").exists()


def test_code_of_a_model_is_not_run(folder: Path) -> None:
    _ = (folder / "own.py").write_text(f"open({str(folder / 'mark')!r}, 'w').close()\nclass Config: pass\n")
    change(folder, model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Config"})
    with pytest.raises(UsageError, match=r"transformers cannot read .*config\.json"):
        _ = model_named(str(folder))
    change(folder, model_type="gemma2")  # known, and yet with code of its own
    assert type(model_named(str(folder))) is transformers.Gemma2ForCausalLM
    assert not (folder / "mark").exists()


def test_kernels_of_a_hub_are_not_loaded(folder: Path) -> None:
    change(folder, _attn_implementation="somebody/kernels", attn_implementation="somebody/kernels")
    assert model_named(str(folder)).config._attn_implementation == "eager"


def test_a_quantised_folder_says_so(folder: Path) -> None:
    change(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    found = explain_named(str(folder), batch=1, length=1, dtype=None, device="cpu")
    assert "note           the configuration names quantised weights, and this head is not quantised" in str(found)


def test_a_gguf_file(tmp_path: Path) -> None:
    gguf = importlib.import_module("gguf")
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(53)
    writer.add_tensor("token_embd.weight", np.zeros((53, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = explain_named(str(path), batch=1, length=4, dtype=None, device="cpu")
    assert (found.heads[0].classes, found.heads[0].features, found.fuses) == (53, 32, True)


def test_a_class_and_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import torch\nclass Outer:\n    class Head(torch.nn.Linear):\n        def __init__(self):\n"
    text += "            super().__init__(8, 53)\n\ndef make():\n    return torch.nn.Linear(8, 53)\n\nnumber = 3\n"
    text += "def three():\n    return 3\n\ndef leaves():\n    raise SystemExit(5)\n"
    _ = (tmp_path / "own_models.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert model_named("own_models:make").weight.device.type == "meta"
    assert model_named("own_models:Outer.Head").out_features == 53
    for name, said in {
        "own_models:three": "makes a int, not a torch.nn.Module",
        "own_models:number": "cannot be made without arguments: TypeError: 'int' object is not callable",
        "own_models:leaves": "cannot be made without arguments: SystemExit: 5",
        "own_models:nothing": "has no attribute 'nothing'",
        "no_such_models:make": "No module named 'no_such_models'",
        "torch.nn:Linear": "missing 2 required positional arguments",
    }.items():
        with pytest.raises(UsageError, match=f"{name} .*{said}"):
            _ = model_named(name)
    assert sys.path == before
    _ = sys.modules.pop("own_models")


def test_a_class_of_transformers_has_its_usual_configuration() -> None:
    model = model_named("transformers:GPT2LMHeadModel")
    assert model.get_output_embeddings().weight.shape == (50257, 768)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing/there", "'nothing/there' does not exist; --model takes a folder with config.json"),
        ("a b:c", "does not exist"),
        ("module:", "does not exist"),
        ("empty", "has no config.json; name the folder that save_pretrained wrote"),
        ("adapter", "holds an adapter; pass the folder of its base model"),
        ("weights.bin", "is a file of another kind; --model takes"),
        ("broken", "transformers cannot read '.*config.json': "),
        ("list", "transformers cannot read '.*config.json': "),
        ("strange", "transformers cannot (read|make the model of) '.*config.json': "),
        ("broken.gguf", "transformers cannot read '.*broken.gguf': "),
    ],
)
def test_what_cannot_be_a_model(name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    texts = {"broken": "{", "list": "[]", "strange": json.dumps({"model_type": "gemma2", "hidden_size": "wide"})}
    for folder in ("empty", "adapter", *texts):
        Path(folder).mkdir()
    for folder, text in texts.items():
        _ = (Path(folder) / "config.json").write_text(text)
    _ = Path("adapter/adapter_config.json").write_text("{}")
    _ = Path("weights.bin").write_bytes(pickle.dumps(Trap(tmp_path / "mark")))
    _ = Path("broken.gguf").write_bytes(b"GGUF\x03\x00\x00")
    with pytest.raises(UsageError, match=said) as caught:
        _ = model_named(name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    ("absent", "name", "said"),
    [
        ("transformers", "config", "needs transformers, which is not installed: pip install transformers"),
        ("gguf", "some.gguf", "needs gguf, which is not installed: pip install gguf"),
    ],
)
def test_a_missing_package(
    absent: str, name: str, said: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = named_model.find_spec
    monkeypatch.setattr(named_model, "find_spec", lambda module: None if module == absent else find(module))
    path = folder if name == "config" else tmp_path / name
    if not path.is_dir():
        _ = path.write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=said):
        _ = model_named(str(path))
