"""A causal language model and its tokenizer, out of a folder that save_pretrained wrote or out of a .gguf file.

Nothing is downloaded, and no code shipped with a model runs. A model whose weights are not all in its files is refused:
transformers would make up the others.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Generator, Iterable
from contextlib import contextmanager, redirect_stderr
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from crossent.errors import InputError, one_line, quoted
from crossent.scoring.lm.document import LogError

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
"""Names of dtypes; auto is that of the file."""
_LONGEST = 300
_TOKENIZERS = ("tokenizer*", "vocab*", "merges.txt", "*.model", "*.tiktoken", "*.bpe", "tekken.json")
"""Files of tokenizers; a folder has at least one."""


class LoadedModel(NamedTuple):
    """A model in evaluation mode, and its tokenizer."""

    model: Any
    tokenizer: Any


def load(path: Path, *, dtype: str = "float32", device: str = "cpu") -> LoadedModel:
    """Return the model of a folder or of a .gguf file, and its tokenizer.

    Parameters
    ----------
    path
        Folder with config.json, weights and tokenizer, or a .gguf file.
    dtype
        One of `DTYPES`.
    device
        Name of a torch device.

    Raises
    ------
    LogError
        If there is no such model, a package is missing, or it is not a causal language model; the message has the fix.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}, not {quoted(dtype)}", argument="dtype")
    _check_path(path)
    for package in ("torch", "transformers", *(["gguf"] if path.is_file() else [])):
        if find_spec(package) is None:
            raise LogError(f"a model needs {package}, which is not installed: pip install {package}")
    _check_device(device)
    _ = os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = path if path.is_dir() else path.parent
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if path.is_file():
        options["gguf_file"] = path.name
    shown = quoted(str(path))
    transformers: Any = _imported("transformers")
    with _quiet():
        with _said_of("the configuration", shown):
            config = transformers.AutoConfig.from_pretrained(str(folder), **options)
        _check_causal(config, shown)
        if path.is_dir() and not any(file for pattern in _TOKENIZERS for file in path.glob(pattern)):
            raise LogError(
                f"{shown} has no tokenizer (tokenizer.json); save the model's own into it: "
                f"tokenizer.save_pretrained(FOLDER)"
            )
        with _said_of("the tokenizer", shown):
            tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
        with _said_of("the model", shown):
            model, info = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder), dtype=dtype, output_loading_info=True, **options
            )
            _check_complete(info, shown)
            return LoadedModel(model.to(device).eval(), tokenizer)


def _check_device(device: str) -> None:
    """Raise unless torch can hold a tensor on a device."""
    torch: Any = _imported("torch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            there = torch.zeros(1, device=device).device.type != "meta"
    except (RuntimeError, AssertionError, ValueError, ImportError, AttributeError):
        there = False
    if not there:
        raise LogError(
            f"torch has no device {quoted(device)} here; pass --device cpu, or leave it out", argument="device"
        )


def _imported(name: str) -> Any:
    """Return a package; its messages at import are hidden."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return import_module(name)
    finally:
        logging.disable(before)


def _check_path(path: Path) -> None:
    shown = quoted(str(path))
    if path.is_dir():
        if (path / "config.json").is_file():
            return
        if (path / "adapter_config.json").is_file():
            raise LogError(
                f"{shown} holds an adapter of PEFT; merge it (merge_and_unload), save the model and name that folder"
            )
        raise LogError(f"{shown} has no config.json; name the folder that save_pretrained wrote, or a .gguf file")
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) == b"GGUF":
                return
        raise LogError(f"{shown} is not a .gguf file; name the folder that save_pretrained wrote, or a .gguf file")
    hub = path.parts and not path.is_absolute() and len(path.parts) <= 2
    raise LogError(
        f"there is no folder {shown}"
        + (
            f"; crossent does not look up hub names: download the model first (hf download {path} --local-dir FOLDER) "
            "and name "
            "the folder"
            if hub
            else "; name a folder with config.json, weights and tokenizer, or a .gguf file"
        )
    )


def _check_causal(config: Any, shown: str) -> None:
    """Raise unless the configuration belongs to a causal language model."""
    names: Any = import_module("transformers.models.auto.modeling_auto").MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classes: set[str] = set()
    for kind in names.values():
        classes |= {kind} if isinstance(kind, str) else set(kind)
    given = tuple(getattr(config, "architectures", None) or ())
    known = getattr(config, "model_type", None) in names
    if not known or (given and classes.isdisjoint(given)):
        said = ", ".join(given) or f"a {getattr(config, 'model_type', 'model')}"
        raise LogError(f"{shown} is {one_line(said, _LONGEST)}, not a causal language model; name one (…ForCausalLM)")


def _check_complete(info: Any, shown: str) -> None:
    """Raise if weights are missing, which transformers has made up."""
    for kind in ("missing_keys", "mismatched_keys"):
        keys: Iterable[Any] = info.get(kind) or ()
        names = sorted(str(key[0] if isinstance(key, tuple) else key) for key in keys)
        if names:
            rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise LogError(
                f"{shown} lacks the weight {quoted(names[0])}{rest}; is it a base model without a head, or an "
                "incomplete download?"
            )


@contextmanager
def _said_of(what: str, shown: str) -> Generator[None, None, None]:
    """Turn errors of transformers about files into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        if "trust_remote_code" in said:
            raise LogError(
                f"{shown} comes with code of its own, which crossent does not run; convert it to a class of "
                "transformers, or log its log-probabilities and pass the log"
            ) from error
        raise LogError(
            f"transformers cannot read {what} of {shown}: {one_line(f'{type(error).__name__}: {said}', _LONGEST)}"
        ) from error


@contextmanager
def _quiet() -> Generator[None, None, None]:
    """Keep bars and remarks of libraries off the terminal: an error is one line."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
