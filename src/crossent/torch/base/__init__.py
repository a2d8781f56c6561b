"""The ground floor of the losses: what every room above stands on, and nothing that knows a loss.

Here live calls of operators and their registration with torch, the backend of a tensor, access to libtorch, and small
helpers for tensors. These modules import torch, `crossent.kernels` and the plain modules alone. Every other folder of
`crossent.torch` may import them.
"""
