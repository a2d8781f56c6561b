"""The contract of a backend: the functions that `crossent.torch` and `crossent.score` call, and their arguments.

Conventions, the same for every function:

* Logits are (N, V), or (outer, V, inner) for N = outer · inner rows with the classes in the middle, with any strides.
* Results go into arrays that the caller allocates, so that each framework allocates its own. Nothing is returned but
  sums. Arguments are never written to.
* The record is (5, N) float64: `crossent.stats.FIELDS`, in that order. Loss, lse and entropy are float64 for float64
  logits and else float32; a gradient has shape and dtype of its input.
* A row whose class is `target.ignore_index` has a record of zeros but for a total of 1, and the gradient 0.
* Rows of few classes need no record, because recomputing their statistics is faster. The record may be None if the
  target is not a top-k and there are at most `FEW_CLASSES` classes.
* Shapes and dtypes fit each other. The front doors have checked them; the CPU checks them again.

`crossent.reference` defines each function in plain NumPy. A backend is a module of this package that has these
functions under these names; `tests/conformance` holds each one against the reference.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from crossent.spec import Array, Scores, Target, element_error
from crossent.stats import Cotangents, PairCotangents, Teacher

__all__ = [
    "NO_OUTPUTS",
    "Backend",
    "BiasedLogits",
    "BinaryKind",
    "BinaryOperands",
    "Cotangents",
    "LossScale",
    "PairCotangents",
    "Reduced",
    "RowOutputs",
    "Scalar",
    "Teacher",
]

BinaryKind = Literal["logits", "probabilities"]
"""The kind of input of binary cross-entropy."""

Scalar = Any
"""A float, or a tensor of shape () on a device where a float would have to wait for the result."""


class RowOutputs(NamedTuple):
    """Arrays (N,) that receive loss, lse and entropy of each row; None where one is not wanted."""

    loss: Array | None = None
    lse: Array | None = None
    entropy: Array | None = None


NO_OUTPUTS = RowOutputs()
"""The record alone is wanted."""


class BiasedLogits(NamedTuple):
    """Logits without the bias (V,) of their layer, which a backend that has `ADDS_BIAS` adds as it reads them.

    It is added in the dtype of the computation, before temperature and softcap.
    """

    without_bias: Array
    bias: Array


class LossScale(NamedTuple):
    """Factors (N,) of the sum whose gradient `row_fused` writes: Σ loss_scale · loss + lse_squared_scale · lse²."""

    loss: Array
    lse_squared: Array | None = None


class BinaryOperands(NamedTuple):
    """Input, target and weights of binary cross-entropy, all of one shape (expanded ones will do); no weight is 1."""

    input: Array
    target: Array
    weight: Array | None = None
    pos_weight: Array | None = None

    def wrong_element(self, place: tuple[int, ...]) -> ValueError:
        """Return the error for an element of the target, or else of the input, that is not in [0, 1]."""
        target: Any = self.target
        of_target, of_input = float(target[place]), float(self.input[place])  # pyright: ignore[reportIndexIssue]
        if not 0 <= of_target <= 1:
            return element_error("target", of_target, place)
        return element_error("input", of_input, place)


class Reduced(NamedTuple):
    """The sum or mean of the losses of rows, and its derivative by each of them."""

    loss: Scalar
    scale: Scalar


class Backend(Protocol):
    """A module that computes the row functions and binary cross-entropy for arrays on one kind of device.

    A backend that can raise from within a kernel raises the errors listed here. One that cannot (a GPU, where to raise
    is to wait for the device) makes loss and gradient of the row NaN, and raises if CROSSENT_VALIDATE=1 is set.
    """

    FEW_CLASSES: int
    """So many classes need no record; 0 if all do."""

    ADDS_BIAS: bool
    """Whether `row_stats`, `row_grad`, `row_fused` and those of pairs take `BiasedLogits` in place of logits."""

    def why_not(self) -> str | None:
        """Return None if the backend can be used here, else the reason and the fix."""
        ...

    def row_stats(
        self,
        logits: Array,
        target: Target,
        scores: Scores,
        record: Array | None,
        outputs: RowOutputs = NO_OUTPUTS,
        *,
        extend: bool = False,
    ) -> None:
        """Write the record of each row of logits into `record`, and loss, lse and entropy into `outputs`.

        With `extend` the record holds other columns of the same rows already, and those of the logits are merged in.

        A row whose target has no mass (probabilities or class weights of 0) has the loss 0 for any logits.

        Raises
        ------
        IndexError
            If a class index is neither `target.ignore_index` nor among the classes; one of probability 0 may be any.
        ValueError
            If a target probability is negative, infinite or NaN, or the temperature of a row with a target is not
            between 1e-15 and 1e15.
        """
        ...

    def row_loss(
        self,
        logits: Array,
        target: Target,
        scores: Scores,
        record: Array | None,
        losses: Array | None,
        *,
        mean: bool,
    ) -> Reduced:
        """Return the sum or mean of the losses of all rows, and write the data for a backward of loss and lse.

        The record's tilt may be left out. `losses` (N,) is memory for the losses; where the record is None, it is too.
        A mean divides by Σ weight[index] over the rows that are not ignored; without weight, or for other targets than
        one class a row, by the number of these rows. Raises as `row_stats` does.
        """
        ...

    def row_grad(
        self, logits: Array, target: Target, scores: Scores, record: Array | None, cotangents: Cotangents, grad: Array
    ) -> None:
        """Write the gradient phi'(z) (q (a + b log q) − c p) of each row into `grad`.

        a, b and c are `RowStats.coefficients` of the cotangents (N,) of loss, lse and entropy; a cotangent of None is
        0. A row whose cotangents are all 0, or whose loss is that of a target without mass, has the gradient 0, for any
        values.
        """
        ...

    def row_fused(
        self,
        logits: Array,
        target: Target,
        scores: Scores,
        scale: LossScale,
        record: Array,
        grad: Array,
        outputs: RowOutputs = NO_OUTPUTS,
    ) -> None:
        """Do `row_stats`, then write the gradient of Σ scale.loss · loss + scale.lse_squared · lse² into `grad`.

        `grad` may be the logits themselves. Raises as `row_stats` does; `grad` is then undefined.
        """
        ...

    def pair_stats(
        self,
        logits: Array,
        scores: Scores,
        record: Array,
        teacher: Teacher,
        beta: float | None,
        sums: Array,
        *,
        extend: bool = False,
    ) -> None:
        """Write four sums over the columns of each row and its teacher's into `sums` (4, N) float64.

        With student q, teacher p and m = β p + (1 − β) q, 0 < β < 1, they are KL(p‖q), KL(q‖p), KL(p‖m) and KL(q‖m);
        the last two are not touched if beta is None. With `extend` the sums of other columns are there already, and
        those of the logits are added. Both records are those of all columns.

        The sums are those of terms that are never negative, and exactly 0 for a row that equals its teacher's in
        numbers, dtype, scores and layout. A class that only one of the two rules out by a score of −∞ makes KL from the
        other one +∞; both together cost nothing. A NaN or +∞ in either row, or a row of −∞ only, makes the sums NaN.

        The record of an ignored row does not depend on its logits: its sums mean nothing, and are for the caller to
        clear.
        """
        ...

    def pair_grad(
        self,
        logits: Array,
        target: Target,
        scores: Scores,
        record: Array,
        teacher: Teacher,
        beta: float | None,
        sums: Array,
        cotangents: PairCotangents,
        grad: Array,
    ) -> None:
        """Write the gradient by the student's logits of all that a row has with its teacher into `grad`.

        It is that of `row_grad` for loss, lse and entropy, and with δ = log p − log q

            phi'(z) (g_kl (q − p) − g_reverse_kl q (δ + KL(q‖p)) + g_js (1 − β) q (log q − log m − KL(q‖m))).

        `sums` are those of `pair_stats` over all columns. A row that is ignored or whose cotangents are all 0 has the
        gradient 0, and where those of the three divergences are 0 the teacher's row may hold anything. The gradient by
        the teacher's logits is this function with student and teacher in each other's place, g_kl and g_reverse_kl
        too, 1 − β for β, and the sums in the order 1, 0, 3, 2.

        `grad` may be the memory of the logits or of the teacher's, element for element. Its dtype is that of the
        logits, or bfloat16 for float32 logits.
        """
        ...

    def binary_loss(self, kind: BinaryKind, operands: BinaryOperands, out: Array | None) -> Scalar:
        """Write the binary cross-entropy of each element into `out`, unless it is None, and return the sum.

        An element of weight 0 costs 0, and so does the positive term of one of positive weight 0, for any values.

        Raises
        ------
        ValueError
            If an element of weight other than 0 has a target outside [0, 1] or NaN, or if the kind is "probabilities"
            and such an element of the input is.
        """
        ...

    def binary_grad(self, kind: BinaryKind, operands: BinaryOperands, cotangent: Array, out: Array) -> None:
        """Write the derivative of each element's loss with respect to the input, times its cotangent, into `out`.

        Where weight or cotangent is 0 it is 0, for any value.
        """
        ...
