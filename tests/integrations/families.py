"""Small models of many families of transformers, what they are trained on, and how large their logits are."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

os.environ["HF_HUB_OFFLINE"] = "1"
import transformers

from tests.torch import test_lm_head_architectures as architectures
from tests.torch import test_lm_head_models as models

V, BATCH, LENGTH, D = 431, 3, 17, 32  # so long that the logits are more than the head's weight
IMAGE, PATCHES = 5, 4  # the token that stands for a piece of an image, and how many of them an image has
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {
    "vocab_size": V, "hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3, **SPECIAL,
}  # fmt: skip
ROTARY = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
SQUARES = {"depth": 1, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
PLACES = {"image_token_id": IMAGE, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
QWEN = {
    "Qwen2-VL": ("Qwen2VL", {"embed_dim": D, "hidden_size": D, "mlp_ratio": 2}),
    "Qwen2.5-VL": ("Qwen2_5_VL", {"hidden_size": D, "out_hidden_size": D, "intermediate_size": 48, "window_size": 16}),
    "Qwen3-VL": (
        "Qwen3VL",
        {"hidden_size": D, "out_hidden_size": D, "intermediate_size": 48, "num_position_embeddings": 16,
         "deepstack_visual_indexes": [0]},
    ),
}  # fmt: skip
TWELVE = tuple(models.FAMILIES)
SEQUENCES = ("Bart", "T5", "T5 tied", "Whisper")
OWN_LOSS = ("Bert", *SEQUENCES)
"""Those that compute their loss themselves, without `loss_function`."""
IMAGES = ("Llava", *QWEN)
MASKED = ("Bert", "EuroBert")
ALL = (*TWELVE, *SEQUENCES, "EuroBert", *IMAGES)


def model_of(name: str) -> Any:
    """A model in training, with random weights."""
    if name in TWELVE:
        return models.model_of(name).train()
    if name in architectures.MODELS:
        return architectures.pair_of(name)[1]
    if name == "Whisper":
        sizes = {"d_model": D, "encoder_layers": 1, "decoder_layers": 1, "num_mel_bins": 8, "max_source_positions": 16}
        sizes |= {"max_target_positions": 64, "decoder_start_token_id": 1, "init_std": 0.3, **architectures.SIZES}
        config = transformers.WhisperConfig(vocab_size=V, dropout=0.0, **sizes, **SPECIAL)
        return transformers.WhisperForConditionalGeneration(config).train()
    if name == "Llava":
        sight = {"hidden_size": D, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        sight = transformers.CLIPVisionConfig(image_size=16, patch_size=8, **sight)
        config = transformers.LlavaConfig(
            vision_config=sight, text_config=transformers.LlamaConfig(**TEXT), image_token_id=IMAGE
        )
        return transformers.LlavaForConditionalGeneration(config).train()
    if name == "EuroBert":
        return euro_bert(V)
    kind, sight = QWEN[name]
    text = {**TEXT, "rope_parameters": ROTARY} | ({"head_dim": 8} if kind == "Qwen3VL" else {})
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config={**SQUARES, **sight}, **PLACES)
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config).train()


def euro_bert(classes: int) -> Any:
    """A masked language model that calls `loss_function`, as BERT does not."""
    return transformers.EuroBertForMaskedLM(transformers.EuroBertConfig(**{**TEXT, "vocab_size": classes})).train()


def inputs_of(name: str) -> dict[str, Tensor]:
    """A batch: images before text, sound, or text alone; some labels ignored."""
    g = torch.Generator().manual_seed(7)
    ids = torch.randint(10, 300, (BATCH, LENGTH), generator=g)
    inputs: dict[str, Tensor] = {"input_ids": ids}
    if name == "Whisper":
        inputs = {"input_features": torch.randn(BATCH, 8, 32, generator=g)}
    elif name == "Llava":
        inputs["pixel_values"] = torch.randn(BATCH, 3, 16, 16, generator=g)
    elif name in QWEN:
        inputs["pixel_values"] = torch.randn(BATCH * 16, 3 * 2 * 4 * 4, generator=g)
        inputs["image_grid_thw"] = torch.tensor([[1, 4, 4]] * BATCH)
    if name in IMAGES:
        ids[:, 1 : 1 + PATCHES] = IMAGE
        if name in QWEN:
            ids[:, 0] = 7
            inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    share = 0.7 if name in MASKED else 0.3
    labels = torch.where(torch.rand(ids.shape, generator=g) < share, -100, ids)
    return {**inputs, "labels": torch.where(ids == IMAGE, -100, labels)}


def classes_of(model: Any) -> int:
    """V of the model."""
    return model.get_output_embeddings().weight.shape[0]
