"""Rows beside a teacher's on a GPU: their divergences and the gradient, against the reference in float64."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from benchmarks.common.records import Record
from benchmarks.gpu.prove.lab import Lab, together, verdict
from benchmarks.gpu.prove.long_rows import NAN, normal, target_of
from benchmarks.gpu.prove.truth import NUMBERS, as_array, of_this_checkout
from crossent import kernels
from crossent.kernels.backend import PairCotangents, Teacher
from crossent.spec import Scores, Target
from crossent.stats import FIELDS, PAIR_SUMS

BETA = 0.3


def rows(lab: Lab, dtypes: tuple[str, str], softcap: float | None, V: int) -> Iterator[Record]:
    """Yield the errors of few rows with all sums and cotangents, of models that are near each other and far apart."""
    N = lab.pick(32, 3)
    random = torch.Generator(lab.device.device).manual_seed(N)
    z = normal(lab, random, N, V).mul_(3)
    logits = [x.to(getattr(torch, dtype)) for x, dtype in zip((z, z + normal(lab, random, N, V)), dtypes, strict=True)]
    target, scores = target_of(lab, "plain", random, (N, V)), (Scores(1.0, softcap), Scores(0.8, softcap))
    g = PairCotangents(*(normal(lab, random, N) for _ in PairCotangents._fields))
    sums, gradient = _compute(logits, target, scores, g)
    yield {"shape": [N, V], "dtype": dtypes[0], "teacher": dtypes[1], **verdict(
        _shares(logits, target, scores, g, sums, gradient, lab.threads)
    )}  # fmt: skip


def equal(lab: Lab, dtype: str) -> Iterator[Record]:
    """Yield whether rows that equal their teacher's have no divergence and no gradient, to the last bit."""
    N, V = lab.pick(600, 3), lab.pick(248320, 5003)
    random = torch.Generator(lab.device.device).manual_seed(N)
    logits = normal(lab, random, N, V).mul_(3).to(getattr(torch, dtype))
    target, g = target_of(lab, "plain", random, (N, V)), normal(lab, random, N)
    given = PairCotangents(kl=g, reverse_kl=g, js=g)
    sums, gradient = _compute([logits, logits.clone()], target, (Scores(0.7), Scores(0.7)), given)
    wrong = {"sums": sums[:, [0, 1, *range(3, N)]], "gradient": gradient}  # row 2 is ignored
    found = {name: NAN if bool(x.isnan().any()) else 2.0 * bool((x != 0).any()) for name, x in wrong.items()}
    yield {"shape": [N, V], "dtype": dtype, **verdict(found)}


def _compute(logits: Any, target: Target, scores: tuple[Scores, Scores], g: PairCotangents) -> tuple[Any, Any]:
    """Return the sums and the gradient that the backend makes: NaN stays where it writes nothing."""
    backend, (z, t), N = kernels.get("triton"), logits, len(logits[0])
    record, its = (z.new_full((len(FIELDS), N), NAN, dtype=torch.float64) for _ in range(2))
    nothing = Target(torch.zeros((N, 0), dtype=torch.int64, device=z.device), z.new_zeros((N, 0), dtype=torch.float32))
    backend.row_stats(z, target, scores[0], record)
    backend.row_stats(t, nothing, scores[1], its)
    teacher = Teacher(t, scores[1], its)
    sums, gradient = z.new_full((PAIR_SUMS, N), NAN, dtype=torch.float64), torch.full_like(z, NAN)
    backend.pair_stats(z, scores[0], record, teacher, BETA, sums)
    backend.pair_grad(z, target, scores[0], record, teacher, BETA, sums, g, gradient)
    return sums, gradient


def _shares(
    logits: Any, target: Target, scores: Any, g: PairCotangents, sums: Any, gradient: Any, threads: int
) -> dict[str, float]:
    """Return the largest error of each result, as a share of the error that the conformance suite allows."""
    of_this_checkout()
    index: Any = target.index
    z, t, label, given, found, grad = as_array(logits[0]), as_array(logits[1]), as_array(index), [
        as_array(x) for x in g
    ], as_array(sums), as_array(gradient)  # fmt: skip
    names = [str(x.dtype).removeprefix("torch.") for x in logits]
    step = max(1, NUMBERS // z.shape[1])

    def part(begin: int) -> dict[str, float]:
        here = slice(begin, begin + step)
        own = Target(label[here], ignore_index=target.ignore_index)
        case = _case(names, (z[here], t[here]), own, scores, [x[here] for x in given])
        with np.errstate(all="ignore"):
            return _part(case, found[:, here], grad[here])

    with ThreadPoolExecutor(threads) as pool:
        return together(pool.map(part, range(0, len(z), step)))


def _case(names: list[str], logits: Any, target: Target, scores: Any, g: list[Any]) -> Any:
    from tests import data
    from tests.oracle_pair import PairCase, no_target

    place = data.LAYOUTS["rows"]
    student = data.Case("student", names[0], logits[0], target, scores[0], tuple(g[:3]), place)
    teacher = data.Case("teacher", names[1], logits[1], no_target(len(logits[1])), scores[1], (None,) * 3, place)
    return PairCase(student, teacher, BETA, tuple(g[3:]))


def _part(case: Any, sums: Any, gradient: Any) -> dict[str, float]:
    from tests import oracle, oracle_pair
    from tests.data import decode

    truth = oracle_pair.PairTruth.of(case)
    most, valid = oracle_pair.limit(case), truth.student.truth.valid
    found: dict[str, float] = {}
    for name, got, want, bound in zip(
        ("kl", "reverse_kl", "p beside m", "q beside m"), sums, truth.sums, truth.bound, strict=True
    ):
        found[name] = oracle.worst(got[valid], want[valid], case.unit * bound[valid]) / most
    want, bound = oracle_pair.gradient_bound(case, truth, case.student.dtype)
    found["gradient"] = oracle.worst(decode(gradient), want, bound) / most
    return found
