"""Predictions of any library, layout and storage become the same numbers."""

from __future__ import annotations

import narwhals as nw
import numpy as np
import pandas
import polars
import pyarrow as pa
import pytest
import torch

import crossent
from crossent import score
from tests.scoring.exact import close, exact_mean, made, softmax
from tests.scoring.refusals import P, Y, assert_refused


def arrays(p):
    """The same numbers in every memory layout."""
    n, c = p.shape
    backwards = p[::-1, ::-1].copy()[::-1, ::-1]
    gaps = np.full((2 * n, 3 * c), np.nan)
    gaps[::2, 1::3] = p
    frozen = p.copy()
    frozen.flags.writeable = False
    return {
        "C": p,
        "Fortran": np.asfortranarray(p),
        "transposed": np.ascontiguousarray(p.T).T,
        "backwards": backwards,
        "gaps": gaps[::2, 1::3],
        "read only": frozen,
        "list": p.tolist(),
        "tuple of arrays": tuple(p),
        "torch": torch.tensor(p),
        "torch, transposed": torch.tensor(p.T.copy()).T,
        "torch, grad": torch.tensor(p, requires_grad=True),
        "list of tensors": [torch.tensor(row) for row in p],
        "table": pa.table({f"p_{i}": p[:, i] for i in range(c)}),
        "chunks": pa.concat_tables(pa.table({f"p_{i}": q[:, i] for i in range(c)}) for q in np.array_split(p, 3)),
        "batch": pa.record_batch({f"p_{i}": p[:, i] for i in range(c)}),
        "narwhals": nw.from_native(pa.table({f"p_{i}": p[:, i] for i in range(c)})),
        "lists": pa.array(p.tolist()),
        "fixed lists": pa.FixedSizeListArray.from_arrays(pa.array(p.ravel()), c),
        "chunked lists": pa.chunked_array([p[:5].tolist(), p[5:].tolist()]),
    }


@pytest.mark.parametrize("container", arrays(np.eye(2)))
def test_containers_of_predictions(container):
    y, z = made(9, 60, 3)
    p = softmax(z)
    before = p.copy()
    given = arrays(p)[container]
    close(crossent.score(y, probs=given).loss, exact_mean(p[np.arange(60), y]), 1e-13)
    assert (p == before).all()


def test_longdouble_and_foreign_byte_order():
    y, z = made(3, 50, 4)
    expected = crossent.score(y, logits=z).loss
    close(crossent.score(y, logits=z.astype(">f8")).loss, expected)
    close(crossent.score(y, logits=z.astype(np.longdouble)).loss, expected)
    close(crossent.score(y.astype(">i4"), logits=z).loss, expected)


@pytest.mark.parametrize("module", [pandas, polars], ids=["pandas", "polars"])
def test_frames(module):
    y, z = made(4, 30, 3)
    p = softmax(z)
    frame = module.DataFrame({f"p_{name}": p[:, i] for i, name in enumerate(["cat", "dog", "eel"])})
    names = module.Series([["cat", "dog", "eel"][v] for v in y])
    doc = module.Series(np.arange(30) // 3)
    result = crossent.score(names, probs=frame, cluster=doc, by=module.DataFrame({"half": np.arange(30) % 2}))
    close(result.loss, exact_mean(p[np.arange(30), y]))
    assert result.classes == ("cat", "dog", "eel")
    assert result.clusters == 10
    close(
        crossent.score(module.Series(y == 1), probs=frame["p_dog"]).loss,
        exact_mean(np.where(y == 1, p[:, 1], 1 - p[:, 1])),
    )


def test_frame_order_is_that_of_its_columns():
    table = pa.table({"p_dog": [0.7, 0.1], "p_ant": [0.3, 0.9]})
    result = crossent.score(["dog", "ant"], probs=table)
    close(result.loss, exact_mean([0.7, 0.9]))
    assert result.classes == ("dog", "ant")


# name: (call, words that the error must hold; lower case)
ERRORS = {
    "three axes": (lambda: score(Y, probs=P[None]), ["(1, 4, 3)", "probs"]),
    "tokens of a batch of texts": (lambda: score(np.zeros((2, 2), int), logits=np.zeros((2, 2, 3))), ["(2, 2, 3)"]),
    "a single number": (lambda: score(1, probs=0.5), ["()"]),
    "complex": (lambda: score(Y, probs=P.astype(complex)), ["probs", "complex"]),
    "objects": (lambda: score(Y, probs=P.astype(str).astype(object)), ["probs", "object"]),
    "texts": (lambda: score(Y, probs=P.astype(str)), ["probs"]),
    "ragged": (lambda: score([0, 1], probs=[[0.5, 0.5], [1.0]]), ["probs"]),
    "dates": (lambda: score([0, 1], probs=np.array(["2026", "2027"], "datetime64[D]")), ["probs"]),
    "masked predictions": (lambda: score([1, 0], probs=np.ma.masked_array([0.5, 0.2], [0, 1])), ["mask"]),
    "no columns": (lambda: score([0, 0], probs=np.zeros((2, 0))), ["(2, 0)"]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    assert_refused(*ERRORS[name])
