"""Ranks: the classes and rows of each process, and the messages between processes.

Collectives, records of the same rows merged over ranks, and the check that all ranks make the same call live here. They
import `base` only, and everything above may import them; kernels and operators never see a process group.
"""
