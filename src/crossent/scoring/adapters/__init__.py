"""Adapters: a `ScoreState` inside Ray Data, Dask, scikit-learn and torchmetrics, one file for each library.

An adapter imports its library, `ScoreState` and `input`; nothing inside crossent imports an adapter. Users import them
as `crossent.scoring.ray`, `.dask`, `.sklearn` and `.torchmetrics`. An adapter with argument names of its own uses them
in the hints of errors and warnings.
"""
