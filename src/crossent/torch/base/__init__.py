"""The base of the losses: helpers for every folder above, without any loss.

It holds calls of operators and their registration with torch, the backend of a tensor, access to libtorch, and small
helpers for tensors. These modules import only torch, `crossent.kernels` and the plain modules. Every other folder of
`crossent.torch` may import them.
"""
