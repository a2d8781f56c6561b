"""Teachers: what callers of a divergence compare a student with, and what is known of the rows of both heads.

`view` has the arguments and what closings and statistics read; `logits` and `sparse` (`TopK`) are the kinds of
teachers. `divergence` comes in here. They import `operators` and everything below them.
"""
