"""A score by a model is that of a plain loop, one forward a window, with all logits in memory."""

from __future__ import annotations

import math

import pytest
import torch
import transformers

from crossent.errors import InputError, InputTypeError
from crossent.scoring.lm import LogError, score_model
from crossent.scoring.lm.model.evaluate import NamedText, evaluated
from crossent.torch.lazy.heads import is_fused
from tests.scoring.lm.model.tiny import BOS, bytewise, model, plain_loop, spread

TEXTS = {
    "long": "The quick brown fox — naïve, 🙂 — jumps over the lazy dog. " * 3,
    "short": "abc",
    "one": "x",
    "none": "",
    "bos": f"{BOS}hello",
    "space": "  \n\t ",
}
PAIRS = [(16, 8), (16, 1), (63, 40), (8, 7), (3, 1)]


def scored(made, tokenizer, texts, **options):
    """Return the log-probabilities by text and place, and check that none is there twice."""
    _, documents = evaluated(made, tokenizer, [NamedText(*pair) for pair in texts.items()], **options)
    found = {name: {} for name in texts}
    for document in documents:
        for token in document.tokens:
            assert token.position not in found[document.id]
            found[document.id][token.position] = token.logprob
    return found


@pytest.mark.parametrize(("window", "stride"), PAIRS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("bos", [False, True])
def test_every_token_has_the_number_of_a_plain_loop(window, stride, batch, bos):
    tokenizer = bytewise(bos=bos)
    made = model(len(tokenizer))
    found = scored(made, tokenizer, TEXTS, window=window, stride=stride, batch=batch)
    values = []
    for name, text in TEXTS.items():
        wanted = plain_loop(made, tokenizer, text, window, stride)
        assert found[name].keys() == wanted.keys()
        for place, value in wanted.items():
            assert found[name][place] == pytest.approx(value, abs=1e-5)  # float32 of numbers near 10
        values += wanted.values()
    score = score_model(made, tokenizer, TEXTS, window=window, stride=stride, batch=batch)
    assert score.tokens == len(values)
    assert score.loss == pytest.approx(-math.fsum(values) / len(values), abs=1e-6)


@pytest.mark.parametrize("kind", ["gpt2", "gemma2"])
def test_so_it_is_where_positions_are_learned_and_logits_are_capped(kind):
    tokenizer = bytewise(bos=kind == "gemma2")
    made = model(len(tokenizer), kind=kind)
    for batch in (1, 4):
        found = scored(made, tokenizer, TEXTS, window=16, stride=8, batch=batch)
        for name, text in TEXTS.items():
            assert found[name] == pytest.approx(plain_loop(made, tokenizer, text, 16, 8), abs=1e-5)


@pytest.mark.parametrize("bos", [False, True])
def test_bytes_are_those_of_the_text_that_was_scored(bos):
    tokenizer = bytewise(bos=bos)
    score = score_model(model(len(tokenizer)), tokenizer, TEXTS, window=16)
    texts = {name: text.removeprefix(BOS) if bos else text for name, text in TEXTS.items()}
    sizes = [len(text.encode()) for text in texts.values()]
    context = 0 if bos else sum(size > 0 for size in sizes) + len(BOS) - 1
    assert score.bytes == sum(sizes) - context
    assert score.bits_per_byte == pytest.approx(score.loss * score.tokens / math.log(2) / score.bytes)
    said = " ".join(score.warnings)
    assert ("is context, not scored: the tokenizer puts no BOS before it" in said) is not bos
    assert score.facts[0].startswith("windows of 16 tokens")


def test_documents_are_texts_and_words_of_one_name_are_two():
    tokenizer = bytewise(bos=True)
    made = model(len(tokenizer))
    score = score_model(made, tokenizer, ["abcd", "abcd", "xy"], window=3, stride=1)
    assert score.documents == 3
    losses = {d.document: d.loss for d in score.worst_documents}
    assert losses["text 1"] == pytest.approx(losses["text 2"], abs=1e-6)
    assert score_model(made, tokenizer, [f"{BOS}abcd"]).loss == pytest.approx(
        score_model(made, tokenizer, ["abcd"]).loss
    )


def test_the_model_is_left_as_it_was():
    tokenizer = bytewise(bos=True)
    made = model(len(tokenizer)).train()
    kinds = [type(module) for module in made.modules()]
    before = {name: value.clone() for name, value in made.state_dict().items()}
    _ = score_model(made, tokenizer, ["abc"])
    assert made.training
    assert [type(module) for module in made.modules()] == kinds
    assert not any(is_fused(module) for module in made.modules())
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(parameter.grad is None for parameter in made.parameters())


def test_no_tensor_of_tokens_by_vocabulary_is_made():
    tokenizer = bytewise(bos=True)
    made = model(len(tokenizer), positions=600)
    logits: list[int] = []
    head = made.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, __, output: logits.append(output.was_read()))
    _ = score_model(made, tokenizer, ["abc" * 150], window=512)
    handle.remove()
    assert logits
    assert not any(logits)


def test_a_model_that_looks_ahead_is_refused():
    config = transformers.BertConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    made = spread(transformers.BertLMHeadModel(config))
    with pytest.raises(InputError, match="its configuration has is_decoder=False; pass a causal language model"):
        _ = score_model(made, bytewise(bos=True), ["abc"])


@pytest.mark.parametrize("size", [0.02, 0.1, 0.3])
def test_so_is_one_of_small_weights_whose_class_says_nothing(size):
    """The check alone, without what classes of transformers say."""
    config = transformers.BertConfig(
        vocab_size=257, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        initializer_range=size,
    )  # fmt: skip
    torch.manual_seed(0)
    made = type("Own", (transformers.BertLMHeadModel,), {"__module__": "own"})(config).eval()
    with pytest.raises(InputError, match="reads tokens after the one that it predicts"):
        _ = score_model(made, bytewise(bos=True), ["abc"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_whose_rows_depend_on_later_tokens_by_rounding_alone_are_scored(dtype):
    tokenizer = bytewise(bos=True)
    config = transformers.MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    torch.manual_seed(0)
    made = spread(transformers.MixtralForCausalLM(config)).to(dtype)
    assert score_model(made, tokenizer, ["hello there"]).tokens == 11


def test_tokens_of_another_model_are_refused():
    tokenizer = bytewise(bos=True)
    largest = max(tokenizer("é").input_ids)
    with pytest.raises(
        InputError, match=f"gives text 2 the token {largest}, but the model has only 100 tokens, from 0"
    ):
        _ = score_model(model(100), tokenizer, ["abc", "é"])


def test_half_of_a_surrogate_pair_is_no_text():
    tokenizer = bytewise(bos=True)
    with pytest.raises(InputError, match=r"text 1: character 1 is '\\ud800', half of a surrogate pair"):
        _ = score_model(model(len(tokenizer)), tokenizer, ["a\ud800b"])


def test_what_is_no_model_text_or_tokenizer_is_refused():
    tokenizer = bytewise(bos=True)
    made = model(len(tokenizer))
    with pytest.raises(InputTypeError, match=r"pass \[text\] to score one"):
        _ = score_model(made, tokenizer, "abc")
    with pytest.raises(InputTypeError, match="text 2 is a int"):
        _ = score_model(made, tokenizer, ["a", 7])
    with pytest.raises(InputTypeError, match="tokenizer must be one of Hugging Face, got str"):
        _ = score_model(made, "tokenizer", ["a"])
    with pytest.raises(InputTypeError, match="model must be a causal language model"):
        _ = score_model("model", tokenizer, ["a"])
    with pytest.raises(InputError, match="cannot be computed in chunks"):
        _ = score_model(torch.nn.Embedding(3, 3), tokenizer, ["a"])
    with pytest.raises(InputError, match="batch must be 1 or more"):
        _ = score_model(made, tokenizer, ["a"], batch=0)
    with pytest.raises(LogError, match="no scored token in 2 texts: they are empty; pass longer texts"):
        _ = score_model(made, tokenizer, ["", ""])
    with pytest.raises(LogError, match="no scored token: there is no text"):
        _ = score_model(made, tokenizer, [])
    with pytest.raises(LogError, match="1 text: they are empty or have one token, and the tokenizer puts no BOS"):
        _ = score_model(made, bytewise(bos=False), ["x"])


def test_a_nan_says_which_text_and_what_to_do():
    tokenizer = bytewise(bos=True)
    made = model(len(tokenizer))
    with torch.no_grad():
        _ = made.get_output_embeddings().weight.fill_(float("nan"))
    with pytest.raises((LogError, InputError), match="NaN"):
        _ = score_model(made, tokenizer, ["abc"])
