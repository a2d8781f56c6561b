"""crossent in the libraries that people train with: `transformers` and `trl`, each of which imports its own alone.

Who may come in: nobody in this package but `cli` and `doctor`. Importing this imports neither library.
"""
