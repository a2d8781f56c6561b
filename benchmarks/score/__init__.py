"""The suite `score`: time and memory of an evaluation, with `python -m benchmarks.score`.

`cases` makes predictions in memory, in parts and in a Parquet file. `arrays` measures rows in memory beside
scikit-learn. `files` measures a file beside merely reading it, each in a process of its own, which runs `file`.
`report` prints the records. This folder imports only `benchmarks.common`.
"""
