"""crossent: cross-entropy as a measure, a loss and a score; exact, fast and composable.

The measures are here, the losses for PyTorch in `crossent.torch`, the command line in `crossent demo` and
`crossent doctor`. Importing crossent imports neither torch nor pandas nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crossent.version import __version__

if TYPE_CHECKING:
    from crossent.measures import cross_entropy, entropy, js_divergence, kl_divergence, perplexity
    from crossent.scoring import Score, ScoreState, compare, rank, score

_MEASURES = ("cross_entropy", "entropy", "js_divergence", "kl_divergence", "perplexity")
_SCORES = ("Score", "ScoreState", "compare", "rank", "score")

__all__ = [
    "Score", "ScoreState", "__version__", "compare", "cross_entropy", "entropy", "js_divergence", "kl_divergence",
    "perplexity", "rank", "score",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MEASURES:
        return getattr(import_module("crossent.measures"), name)
    if name in _SCORES:
        return getattr(import_module("crossent.scoring"), name)
    raise AttributeError(f"module 'crossent' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
