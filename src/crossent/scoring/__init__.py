"""Scoring of predictions: `score`, `compare`, `Score` and `ScoreState`, from one pass over rows whose sums merge.

Data flow from `evaluate` through `state` to `input` (arrays and files become batches), `sums` (statistics of rows),
`finish` and `result`, which `show` draws; `calibration` scales predictions, `lm` scores logs of language models,
`adapters` and `cli` are other faces. `crossent`, `crossent.cli` and users import this face; it loads a module only when
one of its names is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossent.scoring.calibration.cross_fit import CrossFit
    from crossent.scoring.calibration.estimators import TemperatureScaling, VectorScaling
    from crossent.scoring.calibration.scaling import CalibrationWarning
    from crossent.scoring.compared import PairDifference, Ranked, Regression, SliceDifference
    from crossent.scoring.comparison import Comparison, compare
    from crossent.scoring.evaluate import score
    from crossent.scoring.multilabel import MultilabelScore
    from crossent.scoring.parts import (
        BalancedLoss,
        Bar,
        Bin,
        Blame,
        Brier,
        Calibration,
        ClassReliability,
        Confusion,
        Decided,
        Decisions,
        Estimate,
        FiniteRows,
        Floor,
        Macro,
        Mistake,
        Ranking,
        Row,
        Slice,
        Temperature,
        Threshold,
        Thresholds,
    )
    from crossent.scoring.ranking import ModelRanking, rank
    from crossent.scoring.result import Score
    from crossent.scoring.state import ScoreState

_PARTS = (
    "BalancedLoss", "Bar", "Bin", "Blame", "Brier", "Calibration", "ClassReliability", "Confusion", "Decided",
    "Decisions", "Estimate", "FiniteRows", "Floor", "Macro", "Mistake", "Ranking", "Row", "Slice", "Temperature",
    "Threshold", "Thresholds",
)  # fmt: skip
_HOME = {
    "score": "evaluate",
    "Score": "result",
    "ScoreState": "state",
    "MultilabelScore": "multilabel",
    "compare": "comparison",
    "Comparison": "comparison",
    "rank": "ranking",
    "ModelRanking": "ranking",
    **dict.fromkeys(("Regression", "SliceDifference", "Ranked", "PairDifference"), "compared"),
    "TemperatureScaling": "calibration.estimators",
    "VectorScaling": "calibration.estimators",
    "CrossFit": "calibration.cross_fit",
    "CalibrationWarning": "calibration.scaling",
    **dict.fromkeys(_PARTS, "parts"),
}
__all__ = [
    "BalancedLoss", "Bar", "Bin", "Blame", "Brier", "Calibration", "CalibrationWarning", "ClassReliability",
    "Comparison", "Confusion", "CrossFit", "Decided", "Decisions", "Estimate", "FiniteRows", "Floor", "Macro",
    "Mistake", "ModelRanking", "MultilabelScore", "PairDifference", "Ranked", "Ranking", "Regression", "Row", "Score",
    "ScoreState", "Slice", "SliceDifference", "Temperature", "TemperatureScaling", "Threshold", "Thresholds",
    "VectorScaling", "compare", "rank", "score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"crossent.scoring.{_HOME[name]}"), name)
    raise AttributeError(f"module 'crossent.scoring' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
