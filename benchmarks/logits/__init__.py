"""The suite `logits`: losses of logits that are in memory, with `python -m benchmarks --suite logits`.

`cases` holds shapes, targets and options named after models and data sets. `contenders` says who computes the loss and
which floors bound it from below. `errors` compares with float64. `report` prints the records.
`benchmarks.run` measures; this folder imports only `benchmarks.common`.
"""
