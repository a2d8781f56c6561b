"""The losses for PyTorch: `import crossent.torch as F` is a drop-in for `torch.nn.functional`'s cross-entropies."""

from crossent.torch.call.results import Stats
from crossent.torch.call.targets import TopK
from crossent.torch.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
)
from crossent.torch.linear import linear_cross_entropy
from crossent.torch.lm_head import fuse_lm_head, unfuse_lm_head
from crossent.torch.modules import BCEWithLogitsLoss, CrossEntropyLoss, LinearCrossEntropyLoss
from crossent.torch.ranks.records import all_reduce

__all__ = [
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "LinearCrossEntropyLoss",
    "Stats",
    "TopK",
    "all_reduce",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "fuse_lm_head",
    "linear_cross_entropy",
    "unfuse_lm_head",
]
