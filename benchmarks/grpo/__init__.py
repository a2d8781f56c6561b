"""The suite `grpo`: examples/grpo.py trains by crossent and with all logits, with `python -m benchmarks.grpo`.

`__main__` runs the example and records its results. This folder imports only `benchmarks.common`.
"""
