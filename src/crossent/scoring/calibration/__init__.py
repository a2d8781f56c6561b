"""Calibration: temperature and vector scaling of predictions, fitted to the exact optimum, and their honest gain.

`rows` reads batches as often as a fit needs them, a piece at a time; `temperature` and `vector` find the optimum of the
one convex problem each; `cross_fit` estimates their gain on rows outside the fit; `estimators` are the face in
scikit-learn's manner. The folder imports `state`, `sums` and `input`; the commands and `crossent.scoring` import it.
"""
