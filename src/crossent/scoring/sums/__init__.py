"""Sums: what is kept of rows, small and mergeable, and the statistics that follow from it.

What each row costs (by the core), sums by class and slice, the calibration curve, the temperature, intervals, and the
notes about suspicious rows. It imports `input` and `parts`; the state puts its pieces together.
"""
