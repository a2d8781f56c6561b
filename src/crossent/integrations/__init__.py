"""crossent in the libraries that people train with: `transformers` and `trl`, each imports only its own library.

In this package, only `cli` and `doctor` import from here. Importing this imports neither library.
"""
