"""The operators that torch sees: crossent::row_loss, crossent::linear_stats and their kin.

Each has a kernel, a fake kernel, a backward and a slow twin in plain torch operations. They connect a call with the
backends and the chunk driver. The public face imports them; they import `call`, `sources`, `ranks` and `base`.
"""
