"""`crossent.scoring.ray`: scores inside Ray Data. The code is in `crossent.scoring.adapters.ray`."""

from crossent.scoring.adapters.ray import Score, State, score

__all__ = ["Score", "State", "score"]
