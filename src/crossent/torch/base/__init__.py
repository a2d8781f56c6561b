"""The ground floor of the losses: what every room above stands on, and nothing that knows a loss.

Here live the registration of an operator with torch, access to libtorch, and small questions about tensors. These
modules import torch and `crossent.kernels` alone. Every other folder of `crossent.torch` may import them.
"""
