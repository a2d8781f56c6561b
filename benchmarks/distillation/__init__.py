"""The suite `distillation`: divergences between two heads, with `python -m benchmarks --suite distillation`.

`cases` holds the heads and the kinds of divergence. `contenders` says who computes them, and the four products that
bound them. `errors` compares with float64. `report` prints the records and makes the tables of the pages. TRL takes
part where it can be imported, from a folder in PYTHONPATH too. Divergences of logits that exist are the suite
`divergence`, in `benchmarks/logits`.
"""
