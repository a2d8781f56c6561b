"""The version of crossent, written here and nowhere else."""

__version__ = "0.2.0"
