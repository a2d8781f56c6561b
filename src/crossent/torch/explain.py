"""The effect of `fuse_lm_head` on a model, before training: heads, the way of logits, and memory."""

# pyright: reportPrivateUsage=false
# lm_head decides which layers may be fused.

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from crossent.torch.head_facts import HeadFacts, copies_of, facts_of, name_of, operand_dtype_of, size
from crossent.torch.head_memory import HeadMemory, HeadStep, with_crossent, with_logits
from crossent.torch.lazy.heads import is_fused
from crossent.torch.lm_head import _heads_of, fuse_lm_head, unfuse_lm_head
from crossent.torch.rehearsal import NoRehearsalError, NoTwinError, Rehearsal, rehearse


@dataclasses.dataclass(frozen=True, slots=True)
class LogitsWay:
    """Steps of the logits between the head and the loss.

    Scores are softcap · tanh(z / (temperature · softcap)) of the head's output z, or z / temperature without softcap.
    """

    source: str
    """How this is known: "a step on the meta device", "the configuration" or "nothing"."""
    why_no_step: str | None
    """Why there was no step on the meta device."""
    steps: tuple[str, ...]
    """Operations on the head's output, as the step saw them."""
    temperature: float | None
    softcap: float | None
    has_loss: bool | None
    """Whether the model computes the loss; None if there was no step."""
    asked: str | None
    """The operation that needs all logits in spite of a fused head; None if there is none, or was no step."""

    def __str__(self) -> str:
        """Return the way in words."""
        if self.source == "nothing":
            return f"unknown: {self.why_no_step}, and the configuration names neither softcap nor scale"
        if self.asked is not None:
            return f"all of them are computed: {self.asked} asks for them (seen in {self.source})"
        said: list[str] = []
        if self.temperature not in (None, 1.0):
            said.append(f"divided by {self.temperature:g}")
        if self.softcap is not None:
            said.append(f"softcap {self.softcap:g}")
        if "add a bias" in self.steps:
            said.append("a bias is added")
        how = f"seen in {self.source}" if self.why_no_step is None else f"read in {self.source}: {self.why_no_step}"
        return f"{', '.join(said) or 'they are the scores as they are'} ({how})"


@dataclasses.dataclass(frozen=True, slots=True)
class Explanation:
    """The effect of `fuse_lm_head` on a model, and the memory of its head in a training step."""

    model: str
    """Class of the model, with its module."""
    heads: tuple[HeadFacts, ...]
    """The layers that make logits; several where PEFT keeps copies of one."""
    why_not: str | None
    """Why `fuse_lm_head` cannot fuse the model, and what to do; None if it can."""
    logits: LogitsWay
    batch: int
    """Sequences in a step on one device."""
    length: int
    """Tokens in a sequence."""
    dtype: torch.dtype | None
    """Of the head's operands in the step; None without a head."""
    device: str
    """Kind of device whose plan the memory follows: "cpu" or "cuda"."""
    with_logits: HeadMemory | None
    """Memory of a step with all logits; None without a head."""
    with_crossent: HeadMemory | None
    """Memory of a step whose loss is crossent's of the head's input."""
    notes: tuple[str, ...] = ()
    """Further notes."""

    @property
    def fuses(self) -> bool:
        """Whether `fuse_lm_head` fuses the model."""
        return self.why_not is None

    @property
    def saves(self) -> bool:
        """Whether a fused model trains without its logits, as far as is known."""
        freed = any(head.sharded not in (None, "DTensor") for head in self.heads)  # FSDP2 gathers heads fused before it
        return self.fuses and self.logits.asked is None and not freed

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as plain values for JSON, with the peaks of memory in bytes."""
        found = dataclasses.asdict(self)
        found |= {
            "fuses": self.fuses,
            "saves": self.saves,
            "dtype": None if self.dtype is None else name_of(self.dtype),
        }
        for facts in found["heads"]:
            facts["dtype"] = name_of(facts["dtype"])
        for name, memory in (("with_logits", self.with_logits), ("with_crossent", self.with_crossent)):
            if memory is not None:
                found[name]["peak_bytes"] = memory.peak_bytes
        return found

    def __str__(self) -> str:
        """Return the explanation as lines of a name and a text."""
        lines = [("model", self.model), *(("head", str(head)) for head in self.heads)]
        lines.append(("fuse_lm_head", "fuses it" if self.why_not is None else f"cannot fuse it: {self.why_not}"))
        if self.why_not is None:
            lines.append(("logits", str(self.logits)))
        if self.logits.has_loss is not None:
            where = "the model computes it from labels" if self.logits.has_loss else "the caller computes it"
            lines.append(("loss", where))
        if self.with_logits is not None and self.with_crossent is not None and self.dtype is not None:
            rows = f"{self.batch:,} × {self.length:,} = {self.batch * self.length:,} rows"
            lines.append(("step", f"{rows}, {name_of(self.dtype)}, on {self.device}; memory for the head at its peak:"))
            lines.append(("with logits", _memory(self.with_logits, "copies and log-probabilities")))
            other = "with crossent" if self.saves else "linear loss"  # for a direct call
            lines.append((other, _memory(self.with_crossent, "copies of operands")))
            lines += [("", _ADVICE)] if not self.saves else []
        lines += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<13}  {text}" for name, text in lines)


_ADVICE = (
    "the last line shows linear_cross_entropy on the head's input and weight; a fused head would not save this memory"
)


def explain(
    model: nn.Module,
    *,
    batch: int = 8,
    length: int = 1024,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Explanation:
    """Explain what `fuse_lm_head` does for a model, and how much memory its head needs in a training step.

    The model is not changed. A copy without numbers is fused, and runs a training step of two short sequences on
    torch's meta device: the model's own forward, without allocating memory. If that fails, softcap and scale come from
    the configuration.

    With B sequences of L tokens the head has N = B · L rows. The memory is the peak of the step for the mean loss of
    all rows: logits, tensors derived from them, their gradients, and the gradients of the head's input, weight and
    bias. Parameters, the rest of the model and the optimizer are not included. Without crossent, it is the memory of
    torch's loss of logits, whose caller keeps the model's output until the end of the backward.

    Parameters
    ----------
    model
        A model, as `fuse_lm_head` takes it; on the meta device too.
    batch, length
        Sequences, and tokens in each, in a step on one device.
    dtype
        Dtype of the head's operands, by default that of its weight. Another dtype means autocast, which casts the
        weight.
    device
        Device of the step: "cpu" or "cuda". By default the device of the weight; for a model on the meta device, "cuda"
        if there is a GPU.

    Returns
    -------
    Explanation
        A value with fields, sizes in bytes; `print` shows it as text.

    Raises
    ------
    TypeError
        If `model` is not a `torch.nn.Module`, or `dtype` is not a floating-point dtype.
    ValueError
        If `batch` or `length` is not positive, or `device` is neither a CPU nor a GPU.

    Examples
    --------
    >>> import torch
    >>> from crossent.torch import explain
    >>> found = explain(torch.nn.Linear(64, 50_000, bias=False), batch=4, length=512)
    >>> found.fuses, found.heads[0].classes
    (True, 50000)
    >>> found.with_logits.peak_bytes > 5 * found.with_crossent.peak_bytes
    True
    """
    if not isinstance(model, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"explain takes a torch.nn.Module, got a {type(model).__name__}; load the model first")
    for name, value in (("batch", batch), ("length", length)):
        if not isinstance(value, int) or value < 1:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"{name} must be a positive integer, got {value!r}")
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point dtype such as torch.bfloat16, got {dtype}")
    heads = tuple(facts_of(model, layer) for head in _heads_of(model) for layer in copies_of(head))
    why_not, way = _verdict(model)
    kind = _device(heads, device)
    name = f"{type(model).__module__}.{type(model).__qualname__}"
    if not heads:
        return Explanation(name, heads, why_not, way, batch, length, None, kind, None, None)
    head = next((head for head in heads if head.trains), heads[0])
    usual = operand_dtype_of(model, head)
    dtype = usual if dtype is None else dtype
    step = HeadStep(
        batch * length,
        head.classes,
        head.features,
        dtype,
        on_gpu=kind == "cuda",
        trains=head.trains,
        tied=head.tied_to is not None and head.trains,
        bias=head.bias and head.trains,
        capped=way.softcap is not None,
        weight_dtype=None if dtype == usual else usual,
    )
    memory, notes = (with_logits(step), with_crossent(step)), _notes(model, heads)
    return Explanation(name, heads, why_not, way, batch, length, dtype, kind, *memory, notes)


def _notes(model: nn.Module, heads: tuple[HeadFacts, ...]) -> tuple[str, ...]:
    """Return notes on a head: shards that free it, and quantised weights that are not loaded."""
    notes = [
        f"{head.sharded} frees the head's weight before the loss, so a fused head computes all its logits at once"
        for head in heads
        if head.sharded not in (None, "DTensor")
    ]
    if any(head.quantised is not None for head in heads):
        notes.append(
            "the memory is that of a weight in the operands' dtype; a quantised weight is unpacked in parts, one per "
            "product"
        )
    config: Any = getattr(model, "config", None)
    if getattr(config, "quantization_config", None) is not None and all(head.quantised is None for head in heads):
        notes.append("the configuration names quantised weights, and this head is not quantised")
    return tuple(notes)


def _verdict(model: nn.Module) -> tuple[str | None, LogitsWay]:
    """Return why a model cannot be fused, None if it can, and the way of its logits."""
    try:
        return None, _seen(rehearse(model))
    except NoTwinError as error:
        return _in_place(model), _configured(model, str(error))
    except NoRehearsalError as error:
        return None, _configured(model, str(error))
    except TypeError as error:  # from fuse_lm_head, with the fix
        return str(error), _configured(model, "fuse_lm_head cannot fuse it")


def _in_place(model: nn.Module) -> str | None:
    """Fuse a model that cannot be copied, and take it back."""
    fused = {id(module) for module in model.modules() if is_fused(module)}
    try:
        _ = fuse_lm_head(model)
    except TypeError as error:
        return str(error)
    for module in model.modules():
        if is_fused(module) and id(module) not in fused:
            _ = unfuse_lm_head(module)
    return None


def _seen(found: Rehearsal) -> LogitsWay:
    numbers = found.temperature, found.softcap
    return LogitsWay("a step on the meta device", None, found.steps, *numbers, found.has_loss, found.asked)


def _configured(model: nn.Module, why: str) -> LogitsWay:
    """Return the way of logits as transformers' configurations name it."""
    configs = [getattr(module, "config", None) for module in model.modules()]
    config: Any = next((found for found in configs if hasattr(found, "to_dict")), None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    softcap = getattr(config, "final_logit_softcapping", None)
    divisor, factor = getattr(config, "logits_scaling", None), getattr(config, "logit_scale", None)
    if softcap is None and divisor is None and not factor:
        return LogitsWay("nothing", why, (), None, None, None, None)
    temperature = float(divisor or 1.0) / float(factor or 1.0)
    return LogitsWay("the configuration", why, (), temperature, softcap, None, None)


def _device(heads: tuple[HeadFacts, ...], device: str | torch.device | None) -> str:
    if device is not None:
        kind = torch.device(device).type
    elif heads and heads[0].device != "meta":
        kind = heads[0].device
    else:
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"there is no plan for a device of kind {kind!r}; pass device='cpu' or device='cuda'")
    return kind


def _memory(found: HeadMemory, copies: str) -> str:
    parts = (
        ("logits", found.logits_bytes),
        (copies, found.copies_bytes),
        ("gradients of logits", found.logit_gradients_bytes),
        ("gradients of the head and its input", found.head_gradients_bytes),
    )
    return f"{size(found.peak_bytes)}: " + ", ".join(f"{name} {size(value)}" for name, value in parts if value)
