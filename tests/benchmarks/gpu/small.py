"""Cases of a GPU with a few numbers, on the CPU."""

from __future__ import annotations

import torch

from benchmarks.gpu.cases import CASES, AnyCase, scaled

CPU = torch.device("cpu")
LOGITS = ("llama3", "gpt2", "llama2-f32", "decode", "cityscapes", "tags")
HEADS = ("llama3-head", "gemma2-head", "qwen-head", "gpt2-head", "errors-1k", "errors-16k")


def tiny(name: str) -> AnyCase:
    return scaled(next(case for case in CASES if case.name == name))
