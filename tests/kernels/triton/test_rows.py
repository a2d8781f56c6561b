"""The Triton backend against the reference: the cases of the CPU's conformance tests, and bfloat16.

CROSSENT_EVERY=1 runs every case of them, as a GPU does; the interpreter takes few of each kind, others for each length.
"""

from __future__ import annotations

import functools
import os

import pytest

from tests import data, oracle
from tests.kernels.triton.device import INTERPRETED, as_tensor, backend

EVERY = int(os.environ.get("CROSSENT_EVERY", "24" if INTERPRETED else "1"))
# on either side of every change of tile; in the interpreter, each takes a second for each case
CLASSES = (1, 2, 17, 64, 65, 513, 2041, 4097, 5003) if INTERPRETED and EVERY > 1 else (*data.CLASSES, 64, 65, 2041)
DTYPES = ("float32", "float64", "float16", "bfloat16")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("V", CLASSES)
@pytest.mark.parametrize("kind", data.KINDS)
def test_rows_agree_with_the_reference(kind, V, dtype):
    for case in data.cases(kind, V, dtype, backwards=False, every=EVERY):
        oracle.check_rows(backend, case, oracle.Truth.of(case), functools.partial(as_tensor, dtype=dtype))
