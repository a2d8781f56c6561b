"""The model and the data of the examples that train in a framework's trainer (in_accelerate, in_lightning, in_fabric).

A small random Llama of transformers learns an invented language of 2003 words. Its loss function is transformers' own.
"""

from typing import Any

import torch
from torch import Tensor

CLASSES, BATCH, LENGTH = 2003, 4, 32


def start() -> Any:
    """Return the model that every run begins with."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128}
    return LlamaForCausalLM(LlamaConfig(vocab_size=CLASSES, hidden_size=64, tie_word_embeddings=True, **layers))


def batch(step: int) -> Tensor:
    """Return tokens (BATCH, LENGTH), the same in every process; most follow from the one before."""
    random = torch.Generator().manual_seed(step)
    text = [torch.randint(CLASSES, (BATCH,), generator=random)]
    for _ in range(LENGTH - 1):
        surprise = torch.randint(CLASSES, (BATCH,), generator=random)
        text.append(torch.where(torch.rand(BATCH, generator=random) < 0.1, surprise, (31 * text[-1] + 7) % 101))
    return torch.stack(text, 1)
