"""Passes of a calibration over files: few rows are kept, many are read again, with the same numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from crossent.scoring.calibration.rows import Rows
from crossent.scoring.calibration.temperature import fit
from crossent.scoring.cli import calibrating
from crossent.scoring.cli.calibrating import Kept
from crossent.scoring.input.arguments import RowArguments, ScoreOptions
from crossent.scoring.input.batch import Batch, batch
from tests.scoring.calibration.drawn import best_temperature, drawn


@pytest.mark.parametrize(("most", "reads"), [(1 << 28, 1), (1000, 3)])
def test_many_rows_are_read_again(most: int, reads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrating, "KEPT", most)
    z, y, _ = drawn(500, 3)
    opened = 0

    def read() -> Iterator[Batch]:
        nonlocal opened
        opened += 1
        for k in range(0, 500, 100):
            yield batch(y[k : k + 100], RowArguments(logits=z[k : k + 100]), ScoreOptions())

    found = fit(Rows(Kept(read)))
    assert 1.0 / found.beta == pytest.approx(best_temperature(z, y), rel=1e-9)
    assert opened == 1 if reads == 1 else opened >= reads


def test_batches_in_another_order_of_columns_are_turned() -> None:
    import pandas as pd

    z, y, _ = drawn(400, 3)
    frame = pd.DataFrame(z, columns=["z_a", "z_b", "z_c"])
    words = np.array(["a", "b", "c"])[y]
    parts = [(frame[:200], words[:200]), (frame[200:][["z_c", "z_a", "z_b"]], words[200:])]
    from crossent.scoring import TemperatureScaling

    assert TemperatureScaling().fit_batches(parts).temperature_ == pytest.approx(best_temperature(z, y), rel=1e-9)
