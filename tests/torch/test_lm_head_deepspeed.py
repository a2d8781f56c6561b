"""Real steps of DeepSpeed, ZeRO-0 to ZeRO-3, with a fused head and without, one rank on the CPU.

They run where DeepSpeed is installed (`pip install deepspeed`). Its first step on a machine compiles an extension,
which takes minutes.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

STEPS, V = 6, 103


def train(stage: int, inside: bool, fuse: bool) -> dict[str, object]:
    """Train a small Llama, and return its losses and parameters, and whether its logits stayed lazy."""
    import deepspeed  # pyright: ignore[reportMissingImports]
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    import crossent.torch as F
    from crossent.torch.lazy.logits import LazyLogits

    _ = torch.manual_seed(0)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=V, hidden_size=16, tie_word_embeddings=False, **layers))
    model = F.fuse_lm_head(model) if fuse else model
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 2,
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=True)
    losses, lazy = [], True
    for step in range(STEPS):
        ids = torch.randint(V, (2, 12), generator=torch.Generator().manual_seed(step))
        out = engine(input_ids=ids, labels=ids if inside else None)
        logits = out.logits
        outside = torch.nn.functional.cross_entropy(logits[:, :-1].float().reshape(-1, V), ids[:, 1:].reshape(-1))
        loss = out.loss if inside else outside
        lazy = lazy and isinstance(logits, LazyLogits) and not logits.was_read()
        engine.backward(loss)
        engine.step()
        losses.append(loss.item())
    with deepspeed.zero.GatheredParameters(list(model.parameters()), enabled=stage == 3):
        parameters = torch.cat([p.detach().flatten() for p in model.parameters()]).tolist()
    return {"losses": losses, "parameters": parameters, "lazy": lazy}


def in_a_process(folder: Path, stage: int, *, inside: bool, fuse: bool) -> dict[str, list[float]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    one_rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    out = folder / f"{fuse}.json"
    command = [sys.executable, "-W", "ignore", "-m", __name__, str(stage), str(int(inside)), str(int(fuse)), str(out)]
    process = subprocess.run(
        command, env={**os.environ, **one_rank, "DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(out.read_text())


@pytest.mark.slow
@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
@pytest.mark.parametrize("inside", [True, False], ids=["loss inside", "loss outside"])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_steps_of_zero_are_those_without_fusing(tmp_path: Path, stage: int, inside: bool) -> None:
    fused, plain = (in_a_process(tmp_path, stage, inside=inside, fuse=fuse) for fuse in (True, False))
    assert fused["losses"] == pytest.approx(plain["losses"], abs=1e-5)
    assert fused["parameters"] == pytest.approx(plain["parameters"], abs=1e-5)
    assert fused["lazy"] == (stage < 3)  # ZeRO-3 frees the weight before the loss, so the head multiplies at once


if __name__ == "__main__":
    stage, inside, fuse, path = sys.argv[1:]
    _ = Path(path).write_text(json.dumps(train(int(stage), inside == "1", fuse == "1")))
