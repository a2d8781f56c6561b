"""Lazy logits: the output of a linear layer, computed only when its numbers are needed.

`deferred` holds the layer and later steps on its output, `logits` is the tensor that users see. A loss of it is
`crossent.torch.linear`'s. `functional` and `lm_head` import this folder; nothing below them does.
"""
