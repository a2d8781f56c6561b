"""What all benchmarks share.

Here live the arguments of a loss and the ways to call it (`losses`), peaks of memory, the description of the machine
and the class of its processor (`processors`), records in files (`records`), the place of the result files and tables in
pages (`pages`), tables of text (`grid`), and the progress on a terminal. Nothing here knows a suite, and nothing here
imports from the other folders.
"""
