"""The cases of the suite `divergence`: a student's and a teacher's logits that are in memory, of the same dtype."""

from __future__ import annotations

from benchmarks.logits.cases import LogitsCase


class PairCase(LogitsCase):
    """A divergence from a teacher whose logits take the place of the target; only the student learns."""

    __slots__ = ()
    suite = "divergence"
    backward_alone = False


BATCH, TOKENS = (4096, 32000), (128, 49152)

CASES = (
    PairCase("pairs-batch", "Llama 2 logits, 4096 tokens", BATCH, target="forward"),
    PairCase("pairs-batch-bf16", "the same in bfloat16", BATCH, "bfloat16", target="forward"),
    PairCase("pairs-few", "SmolLM2 logits, 128 tokens", TOKENS, target="forward", quick=True),
    PairCase("pairs-few-bf16", "the same in bfloat16", TOKENS, "bfloat16", target="forward"),
    PairCase("pairs-few-reverse", "SmolLM2 logits, KL(student‖teacher)", TOKENS, target="reverse"),
    PairCase("pairs-few-js", "SmolLM2 logits, Jensen-Shannon", TOKENS, target="js", quick=True),
)
