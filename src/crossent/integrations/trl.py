"""crossent in TRL: under its chunked log-probabilities and divergences, and its log-softmax of selected tokens.

    from crossent.integrations import trl
    trl.enable()          # any trainer of TRL, made before or after
    trl.disable()         # TRL's own functions again
    with trl.enable(): …  # for a while

What is replaced. TRL's trainers reach the vocabulary through two functions of `trl.kernels`, which take hidden states
and the head's weight, and three of `trl.trainer.utils`, which take logits. `enable` replaces only these names, in each
loaded module of TRL that holds one, under any alias; a module that is loaded later imports the replacement from its
home. No trainer, model or class is touched, so that models which exist already are served, `torch.compile` sees
ordinary functions, and `disable` leaves nothing behind. Replacing `add_fused_lm_head` or the trainers' losses would
have taken a copy of much more of TRL, and would have missed the models that are patched already. Replacing `apply` of
TRL's `autograd.Function`s would have been missed by `torch.compile`, which reads their forward and backward.

Two facts do not pass through these functions: which rows are ignored (on CPUs TRL computes ignored rows too, and drops
them afterwards), and whether an adapter sits on the head. They are read from the local variables of TRL's calling
function. And where the trainers refuse adapters on the head, because TRL's functions would leave them out, `LeftOut`
replaces PEFT's class, so that they refuse only adapters that crossent leaves out (`trl_adapters`). Hence the list of
versions: a version is in it once its source was read and the tests ran with it.

The names of modules outside TRL that were imported by value before `enable` keep TRL's functions.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from types import MappingProxyType, TracebackType
from typing import Any, NamedTuple

VERSIONS = ("1.15.0", "1.16.0")
"""The versions of TRL whose functions are known."""

_NEEDS_TRITON = ("1.15.0",)


class Place(NamedTuple):
    """A function of TRL: the module that defines it, its name there, and the one of `trl_functions` in its place."""

    module: str
    name: str
    ours: str


PLACES = (
    Place("trl.kernels.chunked_logprob", "ChunkedLogProbFunction", "LogProbs"),
    Place("trl.kernels.chunked_divergence", "ChunkedDivergenceFunction", "Divergence"),
    Place("trl.kernels.logprob_entropy", "selective_log_softmax_and_entropy", "fused_log_softmax_and_entropy"),
    Place("trl.trainer.utils", "selective_log_softmax", "selective_log_softmax"),
    Place("trl.trainer.utils", "entropy_from_logits", "entropy_from_logits"),
    Place("trl.trainer.utils", "selective_log_softmax_and_entropy", "selective_log_softmax_and_entropy"),
)
"""Every function that is replaced."""

ASKING = tuple(f"trl.trainer.{name}_trainer" for name in ("sft", "dpo", "kto", "grpo", "rloo", "distillation"))
"""The modules whose trainers ask, when they are made, if the head has an adapter."""

_OF_TRITON = "trl.kernels.logprob_entropy"  # cannot be imported without Triton, and is not called then

_originals: dict[int, tuple[Any, Any]] = {}
"""While enabled: for the id of each replacement, the replacement and TRL's own."""


class Enabled:
    """Result of `enable`: a context manager that undoes this call of `enable` on exit."""

    def __init__(self, *, begun: bool) -> None:
        """Remember whether the call of `enable` changed anything."""
        self._begun = begun

    def __enter__(self) -> None:
        """Do nothing: `enable` has done it."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Disable, unless crossent was enabled before already."""
        if self._begun:
            disable()


def enable() -> Enabled:
    """Put crossent under TRL's chunked log-probabilities and divergences, and its log-softmax of selected tokens.

    With hidden states h, a head W, its bias b, a scale a, a softcap c and a temperature τ, the scores of a token are

        s = c · tanh(a (W h + b) / c) / τ,   or a (W h + b) / τ without a softcap

    and TRL's trainers ask for log softmax(s) of a token, the entropy, log Σ q² and the mean of the scores of each row,
    and for divergences between two such heads. All come from `linear_logprobs` and `linear_divergence`, and
    log-probabilities of logits that exist from `logprobs`; outputs have TRL's shapes and dtypes. On CPUs ignored rows
    cost no work. SFTTrainer, DPOTrainer, KTOTrainer, GRPOTrainer, RLOOTrainer and DistillationTrainer train so, and
    every trainer with the same functions; they need no change.

    Calling it twice changes nothing. It imports TRL.

    Returns
    -------
    Enabled
        A context manager. At its exit crossent is disabled, unless it was enabled before this call.

    Raises
    ------
    ImportError
        If TRL is not installed.
    RuntimeError
        If the functions of the installed version of TRL are not known, or lack Triton, or if another library has
        replaced one of them.

    Notes
    -----
    LoRA and rsLoRA on the head are trained, which TRL's trainers refuse; `torch.compile` leaves TRL's part of the model
    as it is then. Refused are other adapters on the head, a head whose weight DeepSpeed ZeRO-3 frees, and scales that
    are zero or negative. In half precision TRL rounds logits to the dtype of the model; here they are float32. DPO and
    KTO log the mean of the scores, which costs another product where these are capped, and none otherwise.

    Logits that a trainer itself asks for stay: label smoothing in SFTTrainer, a `compute_loss_func`, evaluation with
    `compute_metrics`, and CPO, ORPO and TPO, which log the mean of all logits. `crossent.torch.fuse_lm_head(model)`
    beside `enable` makes those of label smoothing lazy.

    Examples
    --------
    >>> import trl
    >>> from crossent.integrations.trl import enable
    >>> with enable():
    ...     trl.trainer.utils.selective_log_softmax.__module__
    'crossent.integrations.trl_functions'
    >>> trl.trainer.utils.selective_log_softmax.__module__
    'trl.trainer.utils'

    References
    ----------
    TRL: https://huggingface.co/docs/trl.
    """
    if _originals:
        return Enabled(begun=False)
    found = _originals_of_trl()
    functions = importlib.import_module("crossent.integrations.trl_functions")
    for place, original in found.items():
        ours = getattr(functions, place.ours)
        _originals[id(ours)] = ours, original
    if find_spec("peft") is not None:
        adapters: Any = importlib.import_module("crossent.integrations.trl_adapters")
        for name in ASKING:
            _ = importlib.import_module(name)
        _originals[id(adapters.LeftOut)] = adapters.LeftOut, adapters.tuner_class()
        adapters.State.accepted = False
    _replace({id(original): ours for ours, original in _originals.values()})
    return Enabled(begun=True)


def disable() -> None:
    """Give TRL its own functions back, in every module that holds one of crossent's.

    Calling it twice, or without `enable`, changes nothing. Losses that were computed before still have their gradients.

    Examples
    --------
    >>> from crossent.integrations.trl import disable, enable, is_enabled
    >>> _ = enable()
    >>> disable()
    >>> is_enabled()
    False
    """
    _replace({key: original for key, (_, original) in _originals.items()})
    _originals.clear()


def is_enabled() -> bool:
    """Return whether crossent is under TRL's functions.

    Examples
    --------
    >>> from crossent.integrations.trl import enable, is_enabled
    >>> with enable():
    ...     is_enabled()
    True
    """
    return bool(_originals)


def _originals_of_trl() -> MappingProxyType[Place, Any]:
    """Return TRL's functions; raise unless they are the ones that are known."""
    if find_spec("trl") is None:
        raise ImportError(
            f"crossent.integrations.trl needs TRL, which is not installed; use pip install trl=={VERSIONS[-1]}"
        )
    found = importlib.import_module("trl").__version__
    if found not in VERSIONS:
        raise RuntimeError(
            f"TRL {found} is not supported, only TRL {' and '.join(VERSIONS)}; install one "
            f"of these (pip install trl=={VERSIONS[-1]}) or train without crossent.integrations.trl. A trainer that "
            "reads model(...).logits needs no integration: use crossent.torch.fuse_lm_head(model)"
        )
    if found in _NEEDS_TRITON and find_spec("triton") is None:
        raise RuntimeError(
            f"TRL {found} needs Triton for its chunked functions, but Triton is not installed; use pip install triton, "
            "or "
            f"pip install trl=={VERSIONS[-1]}"
        )
    originals: dict[Place, Any] = {}
    for place in PLACES:
        if find_spec("triton") is None and place.module == _OF_TRITON:
            continue
        original = getattr(importlib.import_module(place.module), place.name)
        if original.__module__ != place.module:
            raise RuntimeError(
                f"{place.module}.{place.name} was replaced by one of {original.__module__}, for the same purpose; use "
                "only one of them: undo the other replacement before crossent.integrations.trl.enable()"
            )
        originals[place] = original
    return MappingProxyType(originals)


def _replace(by: dict[int, Any]) -> None:
    """Replace values of TRL's loaded modules: `by` maps the id of a value to its replacement."""
    for name, module in list(sys.modules.items()):
        if name == "trl" or name.startswith("trl."):
            for key, value in list(vars(module).items()):
                if id(value) in by:
                    setattr(module, key, by[id(value)])
