"""`crossent.scoring.torchmetrics`: scores as a metric of torchmetrics.

The code is in `crossent.scoring.adapters.torchmetrics`.
"""

from crossent.scoring.adapters.torchmetrics import CrossEntropyScore

__all__ = ["CrossEntropyScore"]
