"""`crossent.scoring.sklearn`: scores as scorers of scikit-learn. The code is in `crossent.scoring.adapters.sklearn`."""

from crossent.scoring.adapters.sklearn import Scorer, neg_cross_entropy, skill

__all__ = ["Scorer", "neg_cross_entropy", "skill"]
