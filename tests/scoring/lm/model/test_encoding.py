"""The bytes of tokens make up the text, and a BOS comes before it once or never."""

from __future__ import annotations

import pytest
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from crossent.errors import InputError
from crossent.scoring.lm.model.encoding import Encoder
from tests.scoring.lm.model.tiny import BOS, WORDS, bytewise

BYTES = {bos: bytewise(bos=bos) for bos in (False, True)}


def sentencepiece(**more):
    """Return a tokenizer that writes ▁ for a blank and puts one before a text, as sentencepiece does."""
    made = Tokenizer(models.Unigram([(word, -float(len(WORDS) - k)) for k, word in enumerate(WORDS)], unk_id=0))
    made.normalizer = more.get("normalizer")
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace()
    made.post_processor = processors.TemplateProcessing(single=f"{BOS} $A </s>", special_tokens=[(BOS, 1), ("</s>", 2)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made, bos_token=BOS, eos_token="</s>")


@given(st.text(max_size=30), st.booleans())
def test_the_bytes_of_tokens_are_those_of_the_text(text, bos):
    encoded = Encoder(BYTES[bos]).encode(text)
    assert b"".join(encoded.parts) == text.encode()[encoded.skipped :]
    assert len(encoded.parts) == len(encoded.ids)
    assert encoded.exact


@pytest.mark.parametrize("text", ["the cat", " the", "a  b", "", "ab\ncd", "naïve", "THE"])
def test_so_are_those_of_a_tokenizer_that_changes_the_text(text):
    for normalizer in (None, normalizers.Lowercase()):
        encoder = Encoder(sentencepiece(normalizer=normalizer))
        assert encoder.prefix == [1]
        assert b"".join(encoder.encode(text).parts) == (text.encode() if encoder.encode(text).ids else b"")


def test_a_blank_that_the_tokenizer_adds_has_no_bytes():
    encoded = Encoder(sentencepiece()).encode("the cat")
    assert encoded.parts[0] in (b"", b"the")
    assert sum(map(len, encoded.parts)) == len(b"the cat")
    assert encoded.exact


def test_a_text_that_begins_with_the_prefix_gets_no_second_one():
    encoder = Encoder(BYTES[True])
    spelled, plain = encoder.encode(f"{BOS}abc"), encoder.encode("abc")
    assert (spelled.ids, spelled.parts) == (plain.ids, plain.parts)
    assert (spelled.skipped, plain.skipped) == (len(BOS), 0)
    assert encoder.prefix == [0]
    assert Encoder(BYTES[False]).prefix == []


def test_a_tokenizer_that_mixes_text_and_special_tokens_is_refused():
    class Strange:
        def __call__(self, text, **options):
            return transformers.BatchEncoding({"input_ids": [5] if options else [7, 8]})

    with pytest.raises(InputError, match="a Strange, changes the tokens of a text"):
        _ = Encoder(Strange())


def test_a_token_a_byte_spelled_as_a_character_has_that_byte():
    tokenizer = transformers.ByT5Tokenizer()
    text = "naïve 日本 🙂"
    found = Encoder(tokenizer).encode(text)
    assert found.exact
    assert b"".join(found.parts) == text.encode()
    assert [len(part) for part in found.parts] == [1] * len(text.encode())
