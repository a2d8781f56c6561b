"""Sums: small, mergeable sums over the rows of a state, and the statistics from them.

`row_sums` feeds every sum, a block of rows at a time: `costs` (from the core), `counted` (the rows that count),
`totals` by class and slice (`slicing`) with their `interval`, `details`, `curve` and `temperature` (calibration),
`outcomes` (answers) with the intervals of `proportion`, `ranks` and `grid` (each class against the rest), from which
`ranking` makes areas and thresholds, `notes` (row validation), `kept` (rows for comparisons). The folder imports
`input`, `parts` and the core; the state, `finish` and
comparisons import it, and `lm` its intervals.
"""
