"""The suites `linear` and `scaling`: losses of a linear layer, with `python -m benchmarks --suite linear`.

`cases` holds the heads of models, and the sweeps of their sizes. `contenders` says who computes the loss and which
matrix products bound it from below. `errors` compares with float64. `report` prints the records. `shards` is a model
on paper of a head that several ranks share. `benchmarks.run` measures; this folder imports only `benchmarks.common`.
"""
