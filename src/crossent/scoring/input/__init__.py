"""Input: from arrays, frames and files to batches of rows that can be scored.

`batch` makes a `Batch` of the arguments of `update` (`arguments`), by `labels` (codes) and `predictions` (numbers).
`files` reads tables, with one reader for each format; `columns` names their columns, and `arrow` turns these into
arguments. `survey` settles open questions about a table: `recognised` knows the tables of tools by their shape
(`tools`, `seen`), `shapes` the columns that hold all predictions of a row, `nested` the paths into objects. All input
of users is checked here. The folder imports only `parts` and `crossent.errors`; `sums`, the state, the commands and the
adapters import it.
"""
