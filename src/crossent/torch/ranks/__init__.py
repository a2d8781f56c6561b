"""Ranks: which classes and rows each process holds, and what the processes send each other.

Collectives, records of the same rows merged over ranks, and the check that all ranks make the same call live here.
They import `base` only, and everything above may import them; no kernel and no operator knows a process group.
"""
