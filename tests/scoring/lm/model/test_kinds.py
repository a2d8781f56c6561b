"""Models that predict no next token are told by their class and configuration, and those that do are none of them."""

from __future__ import annotations

import pytest
import torch
import transformers

from crossent.errors import InputError
from crossent.scoring.lm import score_model
from crossent.scoring.lm.model.kinds import why_not_causal
from tests.scoring.lm.model.tiny import bytewise, model

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
BERT = {"vocab_size": 257, **SIZES}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: transformers.BertForMaskedLM(transformers.BertConfig(**BERT)), "predicts masked tokens"),
        (lambda: transformers.RobertaForCausalLM(transformers.RobertaConfig(**BERT)), "is_decoder=False"),
        (
            lambda: transformers.T5ForConditionalGeneration(
                transformers.T5Config(vocab_size=257, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
            ),
            "turns one text into another",
        ),
    ],
)
def test_what_is_no_causal_language_model_is_refused(made, said):
    with pytest.raises(InputError, match=f"{said}.*; pass a causal language model"):
        _ = score_model(made().eval(), bytewise(bos=True), ["Hello there"])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_causal_models_are_not(kind):
    assert why_not_causal(model(257, kind=kind)) is None


def test_a_decoder_of_a_kind_that_also_has_masked_tokens_is_not():
    made = transformers.BertLMHeadModel(transformers.BertConfig(**BERT, is_decoder=True)).eval()
    assert why_not_causal(made) is None
    assert score_model(made, bytewise(bos=True), ["Hello there"]).tokens == 11


def test_a_decoder_that_was_part_of_a_pair_is_not():
    config = transformers.BartConfig(
        vocab_size=257, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, decoder_ffn_dim=16, encoder_ffn_dim=16, max_position_embeddings=32,
    )  # fmt: skip
    assert why_not_causal(transformers.BartForCausalLM(config)) is None
    assert "turns one text" in str(why_not_causal(transformers.BartForConditionalGeneration(config)))


def test_modules_of_others_are_not():
    assert why_not_causal(torch.nn.Linear(2, 2)) is None
    assert why_not_causal("no model") is None
