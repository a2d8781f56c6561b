"""The losses for PyTorch: `import crossent.torch as F` is a drop-in for `torch.nn.functional`'s cross-entropies.

The public face is `functional`, `linear`, `log_probabilities`, `divergence`, `linear_divergence`, `modules`, `lm_head`,
`explain` (on `rehearsal`, `head_facts` and `head_memory`) and `sequences`. Users import this module only. Below it lie
the folders `lazy` (lazy logits), `teachers` (teachers of a divergence), `operators` (operators of torch's dispatcher),
`call` (arguments and results), `sources` (logits, a tile at a time), `ranks` (distribution of classes and rows) and
`base`. They import `crossent.kernels` and the plain modules; nothing but the demonstration and `doctor` imports this.
"""

from crossent.torch.base.dequantized import Dequantized
from crossent.torch.call.closings import ClosingRows
from crossent.torch.call.low_rank import LowRank
from crossent.torch.call.results import DivergenceStats, Stats
from crossent.torch.call.targets import TopK
from crossent.torch.divergence import divergence
from crossent.torch.explain import Explanation, explain
from crossent.torch.functional import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
)
from crossent.torch.linear import linear_cross_entropy
from crossent.torch.linear_divergence import linear_divergence
from crossent.torch.lm_head import fuse_lm_head, unfuse_lm_head
from crossent.torch.log_probabilities import linear_logprobs, logprobs
from crossent.torch.modules import BCELoss, BCEWithLogitsLoss, CrossEntropyLoss, LinearCrossEntropyLoss
from crossent.torch.ranks.records import all_reduce
from crossent.torch.sequences import next_token_labels, token_weights

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "ClosingRows",
    "CrossEntropyLoss",
    "Dequantized",
    "DivergenceStats",
    "Explanation",
    "LinearCrossEntropyLoss",
    "LowRank",
    "Stats",
    "TopK",
    "all_reduce",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "divergence",
    "explain",
    "fuse_lm_head",
    "linear_cross_entropy",
    "linear_divergence",
    "linear_logprobs",
    "logprobs",
    "next_token_labels",
    "token_weights",
    "unfuse_lm_head",
]
