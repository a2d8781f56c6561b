"""The memory of a GPU's plan, by arithmetic."""

from __future__ import annotations

from crossent.torch.sources.plan import Rest


def peak(N, D, V, sweep, small=2**22):
    """Bytes of float32 logits, of their half-precision gradients and of float32 sums, when there are most of them."""
    if sweep is None:
        return 0
    rows, rest = min(N, sweep.rows), sweep.rest or Rest(0, 0)
    kept = 2 * (V - rest.logits) * max(rows, min(N, sweep.kept))
    sums = 4 * V * D if max(sweep.kept, sweep.rows) < N or small >= V * D else 0
    return max(4 * rows * V + kept, 6 * N * rest.at_once) + sums
