"""Adapters: the same state inside Ray Data, Dask, scikit-learn and torchmetrics, one file for each library.

An adapter imports its library and the public `ScoreState`; nothing imports an adapter. Users import them as
`crossent.scoring.ray`, `.dask`, `.sklearn` and `.torchmetrics`.
"""
