"""crossent: cross-entropy as a measure, a loss and a score; exact, fast and composable.

The measures are here, the losses for PyTorch in `crossent.torch`, the command line in `crossent demo` and
`crossent doctor`. Importing crossent imports neither torch nor pandas nor matplotlib.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "cross_entropy": "crossent.measures",
    "entropy": "crossent.measures",
    "js_divergence": "crossent.measures",
    "kl_divergence": "crossent.measures",
    "perplexity": "crossent.measures",
}

__all__ = ["__version__", *_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'crossent' has no attribute {name!r}; it has {', '.join(sorted(__all__))}")


def __dir__() -> list[str]:
    return sorted(__all__)
