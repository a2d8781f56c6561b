"""Sources: where logits come from, and the driver that takes them a tile at a time.

A source makes a tile of logits and takes the gradient of a tile back to its operands; the plan sets the size of tiles;
the products multiply. They import `base` and `ranks`. The operators import them, and `crossent.torch.linear`, which
chooses between one and two sweeps by the plan. No public option is known here.
"""
