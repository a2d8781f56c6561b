"""`crossent.scoring.dask`: scores inside Dask. The code is in `crossent.scoring.adapters.dask`."""

from crossent.scoring.adapters.dask import score, state

__all__ = ["score", "state"]
