"""Bytes of tokens in every alphabet that logs spell them in, against texts that tokenizers took apart."""

from __future__ import annotations

import functools
import itertools
import math
import random
from pydoc_data.topics import topics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from crossent.scoring.lm.spelling import Passage, SpelledToken, byte_level, escaped, sentencepiece
from tests.scoring.lm import records
from tests.scoring.lm.records import candidate, entry, scored

TEXTS = [
    "The quick brown fox",
    "Good morning",
    "Ein schönes café, 日本語 🙂 żółć\n\tEnde",
    "naïve “quotes” — ¡hola! ÿþ \N{NO-BREAK SPACE}Ġ▁",
    "код\r\nи ещё",
]
UNCONFIRMED = "no text in the log confirms it"


@functools.cache
def alphabet():
    """Character of each byte, by the decoder of the package tokenizers."""
    decoder = decoders.ByteLevel()
    found = {}
    for character in pre_tokenizers.ByteLevel.alphabet():
        byte = next((b for b in range(128) if decoder.decode([character]) == chr(b)), None)
        if byte is not None:
            found[byte] = character
    # The others follow in the order of their bytes: printable ones of Latin-1 as they are, the rest moved up.
    moved = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(found.values()) - set(map(chr, range(256))))
    rest = [b for b in range(128, 256) if chr(b) not in pre_tokenizers.ByteLevel.alphabet()]
    latin = {b: chr(b) for b in range(128, 256) if chr(b) in pre_tokenizers.ByteLevel.alphabet()}
    return found | latin | dict(zip(rest, moved, strict=True))


def cut(text, step=2):
    """The bytes of a text in pieces, which split characters."""
    raw = text.encode()
    return [raw[k : k + step] for k in range(0, len(raw), step)]


def as_byte_level(text):
    return ["".join(alphabet()[byte] for byte in piece) for piece in cut(text)]


def as_sentencepiece(text):
    """Words behind ▁, the first of them too; bytes where a character is in no vocabulary."""
    pieces = [f"<0x{b:02X}>" if b > 127 else chr(b) for b in (" " + text).encode()]
    joined = []
    for piece in pieces:
        if joined and len(piece) == 1 and piece != " " and len(joined[-1]) < 5 and "<" not in joined[-1]:
            joined[-1] += piece
        else:
            joined.append(piece)
    return [piece.replace(" ", "▁") for piece in joined]


def as_escapes(text):
    return [p.decode() if p.isascii() else "".join(f"\\x{b:02x}" for b in p) for p in cut(text)]


def as_lost(text):
    return [piece.decode(errors="replace") for piece in cut(text)]


def as_text(text):
    return list(text)


WRITTEN = {f.__name__: f for f in (as_byte_level, as_sentencepiece, as_escapes, as_lost, as_text)}


def chat(tokens, text, raw=None):
    entries = [entry(t, -1.0, None if raw is None else raw(t)) for t in tokens]
    return {"choices": [{"message": {"content": text}, "logprobs": {"content": entries}}]}


def vllm(tokens, text):
    return {
        "prompt": text,
        "prompt_logprobs": [None, *({str(k): candidate(-1.0, 1, t)} for k, t in enumerate(tokens))],
        "outputs": [],
    }


def completions(tokens, text):
    return {"choices": [{"text": text, "logprobs": {"tokens": tokens, "token_logprobs": [-1.0] * len(tokens)}}]}


def plain(tokens, text):
    return {"tokens": tokens, "logprobs": [-1.0] * len(tokens), "text": text}


def responses(tokens, text):
    part = {"type": "output_text", "text": text, "logprobs": [entry(t, -1.0) for t in tokens]}
    return {"output": [{"type": "message", "content": [part]}]}


LOGS = {f.__name__: f for f in (chat, vllm, completions, plain, responses)}


def about_bytes(score):
    return [w for w in score.warnings if "bytes" in w]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("write", WRITTEN)
@pytest.mark.parametrize("log", LOGS)
def test_the_text_of_a_log_settles_the_bytes_of_its_tokens(tmp_path, text, write, log):
    tokens = WRITTEN[write](text)
    score = scored(tmp_path, LOGS[log](tokens, text))
    assert score.bytes == len(text.encode())
    assert score.bits_per_byte == pytest.approx(len(tokens) / len(text.encode()) / math.log(2), rel=1e-15)
    assert about_bytes(score) == []


TELLING = [
    (text, write)
    for text in TEXTS
    for write in ("as_byte_level", "as_sentencepiece", "as_escapes")
    if not (write == "as_sentencepiece" and "▁" in text)  # a ▁ of the text itself
]


@pytest.mark.parametrize(("text", "write"), TELLING)
@pytest.mark.parametrize("log", LOGS)
@pytest.mark.parametrize("copied", [False, True])
def test_without_a_text_the_tokens_tell_and_a_warning_says_so(tmp_path, text, write, log, copied):
    """Some servers send the UTF-8 of the spelled token as its bytes, which tells nothing."""
    tokens = WRITTEN[write](text)
    record = chat(tokens, None, lambda t: list(t.encode())) if copied else LOGS[log](tokens, None)
    score = scored(tmp_path, record)
    # The blank that sentencepiece puts first may be of the text, for all that the tokens tell.
    assert score.bytes == len(text.encode()) + (write == "as_sentencepiece")
    assert [UNCONFIRMED in w for w in about_bytes(score)] == [True] * ("".join(tokens) != text)


@pytest.mark.parametrize("text", TEXTS)
def test_lists_of_bytes_decide_unless_they_repeat_the_spelling(tmp_path, text):
    """OpenAI's own: characters split over tokens, each with its bytes, whatever the token looks like."""
    for write in (as_escapes, as_lost, as_byte_level):
        entries = [entry(t, -1.0, list(p)) for t, p in zip(write(text), cut(text), strict=True)]
        score = scored(tmp_path, {"choices": [{"logprobs": {"content": entries}}]})
        assert score.bytes == len(text.encode())
        assert about_bytes(score) == []


WORDS = [
    "The quick brown fox", "naïve café", "日本語のテキスト", "Привет, мир!", "🙂🎉 ok", "Ġorġ u l-Għid", "żółć gęś",
    "عربى", "x = [1, 2]\n\treturn x\n", "한국어 텍스트", "“quotes” — dash…", "a", " lead", "trail ", "αβγ" * 3, "𝔘𝔫𝔦",
]  # fmt: skip


@functools.cache
def tokenizer(kind):
    """A tokenizer that knows some English, so that all else comes as bytes: of GPT-2's kind, or of sentencepiece's."""
    bytewise = kind == "byte level"
    made = Tokenizer(models.BPE() if bytewise else models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False)
        if bytewise
        else pre_tokenizers.Metaspace(prepend_scheme="first")
    )
    special = [] if bytewise else ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    initial = pre_tokenizers.ByteLevel.alphabet() if bytewise else []
    trainer = trainers.BpeTrainer(
        vocab_size=1000, initial_alphabet=initial, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(list(topics.values())[:20], trainer)
    return made


@pytest.mark.parametrize("kind", ["byte level", "sentencepiece"])
def test_tokens_of_real_tokenizers_have_the_bytes_of_their_text(kind):
    """With the text, behind a token that begins every text, and without; and pieces of the text are taken as text."""
    draw = random.Random(0)
    for _ in range(300):
        text = draw.choice([" ", "", "\n"]).join(draw.choice(WORDS) for _ in range(draw.randint(1, 4)))
        size = len(text.encode())
        tokens = [SpelledToken(token) for token in tokenizer(kind).encode(text).tokens]
        found = Passage(tokens).measured(text)
        assert (found.total, found.confirmed, found.approximate) == (size, True, False), text
        begun = Passage([SpelledToken(None), *tokens], 1).measured(text, whole=False)
        assert (begun.total, begun.approximate) == (size, False), text
        alone = Passage(tokens).measured()
        assert alone.total == size + (kind == "sentencepiece" and not text.startswith(" ")), text
        cuts = sorted({0, len(text), *(draw.randrange(len(text) + 1) for _ in range(5))})
        pieces = Passage([SpelledToken(text[a:b]) for a, b in itertools.pairwise(cuts)]).measured()
        assert (pieces.total, pieces.confirmed) == (size, True), text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.integers(1, 5))
def test_any_text_in_any_alphabet(text, step):
    pieces = cut(text, step)
    spelled = ["".join(alphabet()[b] for b in piece) for piece in pieces]
    assert [byte_level(SpelledToken(t)) for t in spelled] == pieces
    assert [escaped(SpelledToken("".join(f"\\x{b:02X}" for b in p))) for p in pieces] == pieces
    assert b"".join(sentencepiece(SpelledToken(f"<0x{b:02X}>")) or b"" for p in pieces for b in p) == text.encode()
    for tokens in (spelled, [piece.decode(errors="replace") for piece in pieces]):
        found = Passage([SpelledToken(t) for t in tokens]).measured(text)
        assert (found.total, found.confirmed, found.approximate) == (len(text.encode()), True, False)


ODD = ["Ġa", "▁b", "<0xE2>", "\\xe2\\x80", "bytes:\\xe2", "bytes:", "token_id:3",
       None, "", " ", "é", "Ã", "a�", "<|end|>", "</s>", "\ud800"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(ODD), st.sampled_from([None, b"", b"a", "é".encode()])), max_size=5),
    st.integers(0, 5),
    st.none() | st.text(" abé�", max_size=6),
    st.booleans(),
)
def test_tokens_that_make_no_sense_together_have_numbers_all_the_same(tokens, context, text, whole):
    """Never an error, and never less than nothing."""
    context = min(context, len(tokens))
    found = Passage([SpelledToken(*token) for token in tokens], context).measured(text, whole=whole)
    assert len(found.bytes) == len(tokens) - context
    assert all(size is None or size >= 0 for size in (*found.bytes, found.total))


@pytest.mark.parametrize(
    "tokens",
    [["größe"], ["Ġorġ", " u", " ġ"], ["kąt"], ["żółć"], ["člověk"], ["né", "e"], ["▁▂▃ ", "▁"], ["a b", "Ġ"]],
)
def test_words_of_people_are_no_alphabet(tmp_path, tokens):
    score = scored(tmp_path, chat(tokens, None))
    assert score.bytes == len("".join(tokens).encode())
    assert about_bytes(score) == []


@pytest.mark.parametrize("end", ["</s>", "<|im_end|>", "<eos>", "<end_of_turn>", "<｜end▁of▁sentence｜>"])
@pytest.mark.parametrize("write", ["as_byte_level", "as_sentencepiece", "as_text"])
def test_a_token_that_ends_a_text_has_no_bytes_of_it(tmp_path, end, write):
    text = "The quick brown fox"
    score = scored(tmp_path, chat([*WRITTEN[write](text), end], text))
    assert score.bytes == len(text)
    assert about_bytes(score) == []
    if "|" in end or "｜" in end:
        score = scored(tmp_path, chat([*WRITTEN[write](text), end], None))
        assert score.bytes == len(text) + (write == "as_sentencepiece")
        assert any(UNCONFIRMED in w for w in score.warnings)


def test_a_text_is_only_part_of_the_tokens(tmp_path):
    """Of reasoning the log holds no text, and a stop sequence is cut off; both leave the alphabet beyond doubt."""
    thought = ["<think>", "Ġhm", "</think>", "Ġso", "Ġit", "Ġis"]
    assert scored(tmp_path, chat(thought, "so it is")).bytes == len("<think> hm</think> so it is")
    stopped = scored(tmp_path, completions(["ĠHi", "Ġthere", ".", "ĊĊ", "Q", ":"], " Hi there."))
    assert stopped.bytes == len(" Hi there.\n\nQ:")
    assert about_bytes(stopped) == []


def test_tokens_that_are_numbers_have_the_bytes_of_their_text_together(tmp_path):
    """vLLM's return_tokens_as_token_ids."""
    score = scored(tmp_path, completions(["token_id:7"] * 4, "né!"), records.CHAT)
    assert score.bytes == len("né!".encode()) + 6
    assert [d.bytes for d in score.worst_documents if d.document == "line 1"] == [4]


def test_runs_of_blanks_that_were_added_to_a_byte_level_vocabulary(tmp_path):
    """Phi and GPT-NeoX write them as they are."""
    text = "def f():\n    return é"
    tokens = ["def", "Ġf", "():", "Ċ", "    ", "return", "Ġ" + "".join(alphabet()[b] for b in "é".encode())]
    assert scored(tmp_path, chat(tokens, None)).bytes == scored(tmp_path, chat(tokens, text)).bytes == len(text) + 1


def test_the_context_is_no_part_of_the_scored_bytes(tmp_path):
    """An echoed prompt whose first token nothing predicts, in every alphabet."""
    text = "Grüße an alle"
    for write in (as_byte_level, as_escapes, as_lost, as_text):
        tokens = write(text)
        record = completions(tokens, text)
        record["choices"][0]["logprobs"]["token_logprobs"][0] = None
        first = len(cut(text)[0]) if write is not as_text else 1
        assert scored(tmp_path, record).bytes == len(text.encode()) - first


@pytest.mark.parametrize("token", ["é", "Ã", "©"])
def test_one_token_that_may_be_a_letter_or_a_byte_is_approximate(tmp_path, token):
    """A log of one token a line, spelled byte by byte or not: nobody can tell."""
    score = scored(tmp_path, {"id": "d", "target": token, "top_logprobs": {token: -1.0}})
    assert any("approximate for 1 document" in w for w in score.warnings)
    told = scored(tmp_path, {"id": "d", "target": token, "top_logprobs": {token: -1.0}, "text": token})
    assert (told.bytes, about_bytes(told)) == (2, [])


def test_parts_of_characters_alone_are_approximate(tmp_path):
    score = scored(tmp_path, chat(["".join(alphabet()[b] for b in "日".encode()[:2])], None))
    assert any("approximate for 1 document" in w for w in score.warnings)
    lost = scored(tmp_path, chat(as_lost(TEXTS[2]), None))
    assert any("approximate for 1 document" in w for w in lost.warnings)


def test_each_document_is_read_in_its_own_alphabet(tmp_path):
    """The order of documents changes nothing."""
    rows = [chat(write(text), None) for text in TEXTS[:3] for write in (as_byte_level, as_escapes, as_text)]
    whole = scored(tmp_path, *rows)
    assert whole.bytes == 3 * sum(len(t.encode()) for t in TEXTS[:3])
    orders = itertools.islice(itertools.permutations(rows), 5)
    assert all(scored(tmp_path, *order).bytes == whole.bytes for order in orders)
