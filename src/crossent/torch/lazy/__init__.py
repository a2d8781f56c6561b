"""Lazy logits: the output of a linear layer that is multiplied only when somebody wants the numbers.

`deferred` remembers the layer and what was done to its output, `logits` is the tensor that users see. A loss of it is
`crossent.torch.linear`'s. `functional` and `lm_head` import this folder; nothing below them does.
"""
