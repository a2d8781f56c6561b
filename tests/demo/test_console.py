"""What the demonstration prints, against scikit-learn on the files that it wrote."""

from __future__ import annotations

import math
from typing import Any

from sklearn.metrics import log_loss

from tests.demo.runs import read


def test_they_are_printed_three_ways(finished: Any) -> None:
    for prediction, nats, bits in (("[0.7, 0.2, 0.1]", "0.357", "0.515"), ("[0.1, 0.3, 0.6]", "2.303", "3.322")):
        (line,) = [line for line in finished.printed.splitlines() if line.startswith(prediction)]
        assert line.removeprefix(prediction).split() == [nats] * 3 + [bits]


def test_printed_numbers(finished: Any) -> None:
    for title, name in (("Digits", "predictions.csv"), ("Breast cancer", "predictions_breast_cancer.csv")):
        _, _, y, p = read(finished.out / name)
        loss = log_loss(y, p)
        line = next(line for line in finished.printed.splitlines() if line.startswith(title) and line.count("%") == 2)
        found = line.removeprefix(title).split()
        assert found[:4] == [str(len(y)), f"{loss:.4f}", f"{loss / math.log(2):.4f}", f"{loss:.4f}"]
