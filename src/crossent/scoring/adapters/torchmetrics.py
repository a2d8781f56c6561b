"""A metric for torchmetrics over a `ScoreState`. Needs the extra `torchmetrics`."""

from __future__ import annotations

import io
import pickle
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from crossent.errors import Argument, InputError, as_python, errors_spelled, quoted, spelled
from crossent.scoring.parts import KINDS, Kind, Zero
from crossent.scoring.result import Score
from crossent.scoring.state import ScoreState

MetricUnit = Literal["nats", "bits", "perplexity"]


def as_metric_argument(argument: Argument) -> str:
    """Return an argument of `crossent.score` as the metric calls it; it lacks some, which `crossent.score` has.

    Examples
    --------
    >>> as_metric_argument(Argument("logits")), as_metric_argument(Argument("ignore", [-100]))
    ("predictions='logits'", 'ignore_index=-100')
    >>> as_metric_argument(Argument("normalize", True)), as_metric_argument(Argument("classes"))
    ('normalize=True', 'classes= of crossent.score')
    """
    name, value = argument.name, argument.value
    if name in KINDS:
        return as_python(Argument("predictions", name))
    if name == "ignore":
        index = next(iter(value), None) if isinstance(value, list) else value  # the metric has at most one
        return as_python(Argument("ignore_index", index))
    if name in {"zero", "normalize", "ci", "weight", "cluster"}:
        return as_python(argument)
    return f"{as_python(argument)} of crossent.score"


class CrossEntropyScore(Metric):
    """Cross-entropy over batches and processes, Σ w_i (−log q_i(y_i)) / Σ w_i, or e to its power; smaller is better.

    The classes are the last axis of the predictions, as in torchmetrics' Perplexity, and not the second as in
    `torch.nn.functional.cross_entropy`. Sums are float64 on the CPU, for predictions of any device and dtype. `score`
    returns the interval and all other results. Classes are named by their numbers.

    Parameters
    ----------
    predictions
        Kind of `preds`: "logits", "probs" or "logprobs".
    unit
        Result of `compute`: the loss in "nats" or "bits", or the "perplexity".
    ignore_index
        Target whose rows are left out, such as -100.
    zero
        Floor of the probability in the loss, or "inf" for none, so that a probability of 0 costs infinity.
    normalize
        Divide probabilities by their sum.
    ci
        Confidence level of the interval of `score`.
    **kwargs
        Arguments of `torchmetrics.Metric`.

    Examples
    --------
    >>> import torch
    >>> from crossent.scoring.torchmetrics import CrossEntropyScore
    >>> metric = CrossEntropyScore()
    >>> metric.update(torch.zeros(2, 3, 50257, dtype=torch.float16), torch.tensor([[1, 2, 3], [4, 5, 6]]))
    >>> metric.compute()
    tensor(10.8249, dtype=torch.float64)
    >>> metric.score().n
    6
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    plot_lower_bound = 0.0

    def __init__(
        self,
        predictions: Kind = "logits",
        *,
        unit: MetricUnit = "nats",
        ignore_index: int | None = None,
        zero: Zero = "inf",
        normalize: bool = False,
        ci: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, known in (
            ("predictions", predictions, KINDS),
            ("unit", unit, ("nats", "bits", "perplexity")),
        ):
            if value not in known:
                raise InputError(f"{name} must be one of {known}, got {quoted(value)}", argument=name)
        self.predictions, self.unit = predictions, unit
        self._options: dict[str, Any] = {
            "ignore": ignore_index,
            "zero": zero,
            "normalize": normalize,
            "ci": ci,
            "worst": 0,
        }
        with errors_spelled(as_metric_argument):
            self._rows, self._bytes = ScoreState(**self._options), None
        # without a reduction torchmetrics sets the list of the tensors of all processes, which are merged
        self.add_state("encoded", default=[], dist_reduce_fx=None)

    @property
    def encoded(self) -> list[Tensor]:
        """The state as a list of one tensor of bytes, the form that torchmetrics copies, moves, saves and gathers."""
        if self._bytes is None:
            whole = bytearray(pickle.dumps(self._rows))
            self._bytes = torch.frombuffer(whole, dtype=torch.uint8).to(self.device)
        return [self._bytes]

    @encoded.setter
    def encoded(self, states: list[Tensor]) -> None:
        self._rows, self._bytes = ScoreState(**self._options), None
        for each in states:
            _ = self._rows.merge(_decoded(each))

    def update(
        self, preds: Tensor, target: Tensor, weight: Tensor | None = None, cluster: Tensor | None = None
    ) -> None:
        """Add a batch.

        Parameters
        ----------
        preds
            Predictions, (…, V), or (…,) for the positive one of two classes; see `predictions`.
        target
            The true classes, (…,).
        weight
            Weights ≥ 0, (…,), or of the first axes of the target, such as one for each text.
        cluster
            Number of the cluster of each row, shaped like weights. Rows of one cluster, such as a text, depend on each
            other, and intervals allow for it. A number names the same cluster in all batches and processes.

        Raises
        ------
        InputError
            If shapes do not fit or the rows cannot be scored, with row, cause and fix; a ValueError.

        Examples
        --------
        >>> metric = CrossEntropyScore(ignore_index=-100)
        >>> metric.update(torch.randn(2, 3, 7), torch.tensor([[1, 2, -100], [4, 5, 6]]), cluster=torch.tensor([0, 1]))
        >>> metric.score().clusters
        2
        """
        shape = target.shape
        if preds.shape[:-1] != shape and preds.shape != shape:
            second = preds.ndim > 2 and preds.shape[:1] + preds.shape[2:] == shape
            hint = "; if the classes are the second axis, pass preds.movedim(1, -1)" if second else ""
            raise InputError(
                f"preds must have the shape of target {tuple(shape)} plus a last axis of classes, or exactly that "
                f"shape for the positive class of two; got {tuple(preds.shape)}{hint}",
                argument="preds",
            )
        if target.numel() == 0:
            return
        binary = preds.shape == shape
        flat = preds.reshape(-1) if binary else preds.reshape(-1, preds.shape[-1])
        rest = {"weight": _spread(weight, "weight", shape), "cluster": _spread(cluster, "cluster", shape)}
        self._bytes = None
        with errors_spelled(as_metric_argument):
            _ = self._rows.update(target.reshape(-1), **{self.predictions: flat}, **rest)

    def compute(self) -> Tensor:
        """Return the loss in the metric's unit, of all processes if there are several.

        Returns
        -------
        Tensor
            (), float64, or float32 on devices without it.

        Raises
        ------
        InputError
            If there are no rows to score.

        Examples
        --------
        >>> metric = CrossEntropyScore("probs", unit="bits")
        >>> metric.update(torch.tensor([[0.25, 0.75]]), torch.tensor([0]))
        >>> metric.compute()
        tensor(2., dtype=torch.float64)
        """
        found = self._finalized()
        value = {"nats": found.loss, "bits": found.bits, "perplexity": found.perplexity}[self.unit]
        return torch.tensor(
            value, dtype=torch.float32 if self.device.type == "mps" else torch.float64, device=self.device
        )

    def score(self) -> Score:
        """Return the whole score, with intervals, of all processes if there are several; then each must call it.

        Returns
        -------
        Score
            As `crossent.score` returns it.

        Raises
        ------
        InputError
            If there are no rows to score.

        Examples
        --------
        >>> metric = CrossEntropyScore()
        >>> metric.update(torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.0]]), torch.tensor([0, 1, 1]))
        >>> score = metric.score()
        >>> round(score.loss, 3), round(score.accuracy, 3)
        (0.471, 0.667)
        """
        with self.sync_context(should_sync=not self._is_synced, should_unsync=not self._is_synced):
            return self._finalized()

    def _finalized(self) -> Score:
        """Return the score of the rows that are here, in the words of the metric."""
        with errors_spelled(as_metric_argument):
            found = self._rows.finalize()
        return replace(found, warnings=tuple(spelled(warning, as_metric_argument) for warning in found.warnings))

    def reset(self) -> None:
        """Remove all rows."""
        super().reset()
        self._rows, self._bytes = ScoreState(**self._options), None


def _spread(values: Tensor | None, name: str, shape: torch.Size) -> Tensor | None:
    """Return one value for each row, from values for the first axes of the target."""
    if values is None:
        return None
    if values.shape != shape[: values.ndim]:
        raise InputError(
            f"{name} must have the first axes of target {tuple(shape)}, got {tuple(values.shape)}", argument=name
        )
    return values.reshape(values.shape + (1,) * (len(shape) - values.ndim)).expand(shape).reshape(-1)


STATE_CLASSES = {
    "numpy": {"dtype", "ndarray"},
    "numpy._core.multiarray": {"_reconstruct", "scalar"},
    "numpy._core.numeric": {"_frombuffer"},
    "crossent.scoring.input.arguments": {"ScoreOptions"},
    "crossent.scoring.input.batch": {"Layout"},
    "crossent.scoring.parts": {"Row"},
    "crossent.scoring.state": {"ScoreState"},
    "crossent.scoring.sums.curve": {"Curve"},
    "crossent.scoring.sums.details": {"Details"},
    "crossent.scoring.sums.kept": {"KeptColumns", "KeptRows"},
    "crossent.scoring.sums.notes": {"Notes"},
    "crossent.scoring.sums.grid": {"ClassGrid"},
    "crossent.scoring.sums.outcomes": {"Outcomes"},
    "crossent.scoring.sums.ranks": {"Ranks"},
    "crossent.scoring.sums.row_sums": {"RowSums"},
    "crossent.scoring.sums.slicing": {"Numbering", "Slicing"},
    "crossent.scoring.sums.temperature": {"Temperatures"},
    "crossent.scoring.sums.totals": {"ClusterSums", "Sum", "Totals", "_Block"},
}
"""The classes and functions that a pickled `ScoreState` is made of, by module. No other is ever imported."""


class _Unpickler(pickle.Unpickler):
    """Reads states and nothing else: the bytes may come from a checkpoint, which must not run code."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if global_name in STATE_CLASSES.get(module_name, ()):
            return super().find_class(module_name, global_name)
        raise pickle.UnpicklingError(f"these bytes are not a state of crossent: {module_name}.{global_name}")


def _decoded(state: Tensor) -> ScoreState:
    try:
        found = _Unpickler(io.BytesIO(state.detach().cpu().to(torch.uint8).numpy().tobytes())).load()
    except (InputError, pickle.UnpicklingError):
        raise
    except Exception as error:  # damaged bytes may be any instructions
        raise InputError(f"these bytes are not a state of crossent, or a damaged one: {error}") from error
    if not isinstance(found, ScoreState):
        raise InputError(f"these bytes hold a {type(found).__name__}, not a state of crossent")
    return found
