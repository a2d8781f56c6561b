"""A model by the name that a user gives to `crossent doctor --model`, made on torch's meta device: no weights are read.

A name is a folder with a config.json, a .gguf file, or a class or function without arguments as `package.module:Name`.
Of a folder and a file transformers reads the configuration; code that comes with a model is never run, and nothing is
unpickled. The module of a class is imported, so its code runs, as the help of the command states.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crossent.errors import UsageError, one_line, quoted

_SHAPE = "a folder with config.json, a .gguf file, or a class as package.module:Name"
_LONGEST = 200


def model_named(name: str) -> Any:
    """Return the model of this name as a `torch.nn.Module` on the meta device.

    Raises
    ------
    UsageError
        If there is none, or a package is missing; one line with the fix.
    """
    path = Path(name)
    if path.is_dir():
        return _of_folder(path)
    if path.is_file():
        if path.suffix == ".gguf":
            return _of_gguf(path)
        raise UsageError(f"{quoted(name)} is a file of another kind; --model takes {_SHAPE}")
    module, colon, attribute = name.partition(":")
    if colon and attribute and all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        return _of_class(module, attribute)
    raise UsageError(
        f"{quoted(name)} does not exist; --model takes {_SHAPE} (crossent does not look up hub names: download the "
        "model first)"
    )


def explain_named(name: str, *, batch: int, length: int, dtype: str | None, device: str | None) -> Any:
    """Return the `crossent.torch.Explanation` of the model of this name; `dtype` by its name in torch."""
    model, torch = model_named(name), import_module("torch")
    explain: Any = import_module("crossent.torch").explain
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = None if dtype is None else getattr(torch, dtype)
        if kind is not None:
            model = model.to(kind)
        return explain(model, batch=batch, length=length, device=device)


def _of_folder(folder: Path) -> Any:
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UsageError(f"{quoted(str(folder))} holds an adapter; pass the folder of its base model")
        raise UsageError(f"{quoted(str(folder))} has no config.json; name the folder that save_pretrained wrote")
    return _from_config(folder, {})


def _of_gguf(path: Path) -> Any:
    if find_spec("gguf") is None:
        raise UsageError("reading a .gguf file needs gguf, which is not installed: pip install gguf")
    return _from_config(path.parent, {"gguf_file": path.name})


def _from_config(folder: Path, options: dict[str, Any]) -> Any:
    """Return the model of a configuration, without its own code and without the network."""
    if find_spec("transformers") is None:
        raise UsageError(
            "--model of a folder or file needs transformers, which is not installed: pip install transformers"
        )
    _ = os.environ.setdefault("HF_HUB_OFFLINE", "1")
    transformers: Any = import_module("transformers")
    torch: Any = import_module("torch")
    shown = quoted(str(folder / options.get("gguf_file", "config.json")))
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(
                str(folder), trust_remote_code=False, local_files_only=True, **options
            )
        except Exception as error:  # a file from anywhere
            raise UsageError(f"transformers cannot read {shown}: {_said(error)}") from error
        kind = _class_of(transformers, config)
        try:
            with torch.device("meta"):
                if kind is not None:
                    return kind._from_config(config, attn_implementation="eager")
                return transformers.AutoModelForCausalLM.from_config(
                    config, trust_remote_code=False, attn_implementation="eager"
                )
        except Exception as error:
            raise UsageError(f"transformers cannot make the model of {shown}: {_said(error)}") from error


def _class_of(transformers: Any, config: Any) -> Any:
    """Return the class of transformers that a configuration names, or None."""
    for name in getattr(config, "architectures", None) or ():
        kind = getattr(transformers, str(name), None)
        if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
            return kind
    return None


def _of_class(module: str, attribute: str) -> Any:
    torch: Any = import_module("torch")
    here = str(Path.cwd())
    sys.path.append(here)  # last, so that it hides no installed package
    try:
        found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
        config = getattr(found, "config_class", None)
        with torch.device("meta"):
            model = found() if config is None else found(config())
    except (Exception, SystemExit) as error:  # of code that the user named
        raise UsageError(f"{module}:{attribute} cannot be made without arguments: {_said(error)}") from error
    finally:
        sys.path.remove(here)
    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"{module}:{attribute} makes a {type(model).__name__}, not a torch.nn.Module")
    return model


@contextmanager
def _quiet(transformers: Any) -> Generator[None]:
    """Keep messages of transformers about configurations off the terminal: an error is one line."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(before)


def _said(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {' '.join(str(error).split())}", _LONGEST)
