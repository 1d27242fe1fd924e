"""Text tokens: every string comes back, nothing is cut, nothing is a command."""

import json

import pytest
from tokenizers import Tokenizer, models

from dreamrl.nn.text import BOS, EOS, PAD, TextTokenizer
from envs.worlds.frozen_lake import FrozenLake

SENTENCE = "What happens if the elf moves right, down, right?"


@pytest.fixture(scope="module")
def text():
    return TextTokenizer.train(FrozenLake().corpus())


@pytest.mark.parametrize(
    "string",
    [
        "",
        " ",
        "  two  spaces and a trailing one ",
        SENTENCE,
        "RIGHT, Down; uP",
        "\t\n\r\x00\x07\x1b[31m\x7f",
        "ünïcödé, naïve, ß, ﬁ",
        "e\u0301 is not \u00e9",
        "日本語のテキスト",
        "שלום עולם, مرحبا بالعالم",
        "\u202eright to left\u202c \u200b\ufeff",
        "👍🏽👩‍👩‍👧‍👦🇪🇺",
        "\U0010ffff\U000e0001",
        "<pad><bos><eos>",
        "go <eos> right",
        "Ġ is the letter that stands for a space",
    ],
)
def test_every_string_comes_back(text, string):
    assert text.decode(text.encode(string, 200)) == string
    assert text.decode(text.encode(string, 200, end=True)) == string


def test_every_character_comes_back(text):
    everything = [chr(c) for c in range(0x3000)] + [chr(c) for c in range(0xF900, 0x11000)]
    for start in range(0, len(everything), 500):
        string = "".join(everything[start : start + 500])
        assert text.decode(text.encode(string, 2000)) == string


def test_common_words_are_single_tokens(text):
    assert text.vocab_size <= 512
    tokens = [t for t in text.encode("right, right, down", 20) if t != PAD]
    assert len(tokens) == 5  # "right" "," " right" "," " down"


def test_padding_begin_and_end(text):
    plain, ended = text.encode(SENTENCE, 30), text.encode(SENTENCE, 30, end=True)
    count = int((plain != PAD).sum())
    assert ended[count] == EOS and (ended[:count] == plain[:count]).all()
    assert (ended[count + 1 :] == PAD).all() and (plain[count:] == PAD).all()
    assert text.decode([BOS, *ended, *plain]) == SENTENCE  # nothing after the end mark counts


def test_a_long_text_is_an_error_not_cut(text):
    tokens = int((text.encode(SENTENCE, 30) != PAD).sum())
    assert text.decode(text.encode(SENTENCE, tokens)) == SENTENCE
    with pytest.raises(ValueError, match=f"text of {tokens} tokens is longer than {tokens - 1}: 'What happens"):
        text.encode(SENTENCE, tokens - 1)
    with pytest.raises(ValueError, match=f"{tokens + 1} tokens"):
        text.encode(SENTENCE, tokens, end=True)


def test_a_saved_tokenizer_is_the_same(text, tmp_path):
    text.save(tmp_path / "tokenizer.json")
    again = TextTokenizer.load(tmp_path / "tokenizer.json")
    assert again.vocab_size == text.vocab_size
    for string in [*FrozenLake().corpus(), "日本語 👍", "<eos>"]:
        assert again.encode(string, 200).tolist() == text.encode(string, 200).tolist()
    again.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()


def test_training_is_deterministic(text, tmp_path):
    again = TextTokenizer.train(FrozenLake().corpus())
    text.save(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_a_foreign_tokenizer_is_rejected(text, tmp_path):
    Tokenizer(models.BPE({"a": 0, "b": 1}, [])).save(str(tmp_path / "foreign.json"))
    with pytest.raises(ValueError, match="was not made by dreamrl"):
        TextTokenizer.load(tmp_path / "foreign.json")
    text.save(tmp_path / "swapped.json")
    content = json.loads((tmp_path / "swapped.json").read_text())
    vocab = content["model"]["vocab"]
    vocab["<pad>"], vocab["<eos>"] = vocab["<eos>"], vocab["<pad>"]
    content["added_tokens"] = []
    (tmp_path / "swapped.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="was not made by dreamrl"):
        TextTokenizer.load(tmp_path / "swapped.json")
