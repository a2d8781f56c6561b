"""The suites `logits`, `everyday`, `growth` and `divergence`: losses of logits that are in memory.

`cases` holds shapes, targets and options named after models and data sets, `everyday` those of few classes and few rows
and the sweeps of their sizes, `pairs` those of a student's logits beside a teacher's. `contenders` says who computes
the loss and which floors bound it from below. `errors` compares with float64. `report`,
`everyday_report` and `growth_report` print the records.
`benchmarks.run` measures; this folder imports only `benchmarks.common`.
"""
