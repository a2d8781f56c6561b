"""The suites of a GPU: `python -m benchmarks.gpu`, or `make bench-gpu` on a machine that has one.

`cases` holds logits and heads. `contenders` says who computes the loss, and which copies and products bound it from
below. `errors` compares with float64. `device` times calls and reads peaks of memory. `trial` measures one case.
`report` prints the records. `model` (`python -m benchmarks.gpu.model`) predicts times from the plan and from `chips`.
`prove` is the proof in six minutes, `make prove-gpu`. The cases of logits and of linear layers are those of
`benchmarks.logits` and `benchmarks.linear`.
"""
