"""The suite `coverage`: how often an interval of 95 % covers the loss, with `python -m benchmarks.coverage`.

`cases` holds models whose expected loss is known, and draws samples of their losses. `measure` counts how many
intervals of those samples cover it. `report` prints the records. This folder imports only `benchmarks.common`.
"""
