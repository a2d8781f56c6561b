"""crossent: cross-entropy as a measure, a loss and a score; exact, fast and composable.

The measures are here, the losses for PyTorch in `crossent.torch`, the command line in `crossent demo` and
`crossent doctor`. Importing crossent imports neither torch nor pandas nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from crossent.measures import cross_entropy, entropy, js_divergence, kl_divergence, perplexity

__all__ = ["__version__", "cross_entropy", "entropy", "js_divergence", "kl_divergence", "perplexity"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("crossent.measures"), name)
    raise AttributeError(f"module 'crossent' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
