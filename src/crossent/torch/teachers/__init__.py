"""Teachers: the teachers of a divergence, and the rows of both heads.

`view` has the arguments, and the attributes for closings and statistics; `logits` and `sparse` (`TopK`) are the kinds
of teachers. `divergence` comes in here. They import `operators` and everything below them.
"""
