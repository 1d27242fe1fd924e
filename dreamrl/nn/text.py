"""Text <-> token ids: byte-level BPE from the ``tokenizers`` library, trained on the worlds' own sentences.

Every Unicode string has an encoding (bytes are the base alphabet) and decodes to itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD_TOKEN, BOS_TOKEN, EOS_TOKEN = "<pad>", "<bos>", "<eos>"
PAD, BOS, EOS = range(3)


class TextTokenizer:
    """Fixed-length batches of token ids around a ``tokenizers.Tokenizer``."""

    def __init__(self, tokenizer: Tokenizer):
        """Args: ``tokenizer`` whose first three ids are padding, begin and end."""
        self.tokenizer = tokenizer
        self.tokenizer.encode_special_tokens = True  # "<eos>" typed by a person is text, not the end mark
        if [tokenizer.token_to_id(t) for t in (PAD_TOKEN, BOS_TOKEN, EOS_TOKEN)] != [PAD, BOS, EOS]:
            raise ValueError("tokenizer.json does not start with <pad>, <bos>, <eos>: it was not made by dreamrl")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 512) -> TextTokenizer:
        """Learn merges from ``texts``; the vocabulary holds at most ``vocab_size`` tokens, bytes included."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD_TOKEN, BOS_TOKEN, EOS_TOKEN],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @classmethod
    def load(cls, path: Path) -> TextTokenizer:
        """Read a tokenizer.json; ValueError unless it works as :meth:`train` makes them.

        Others may hold patterns and rules that take any time, or make any length of text, of what somebody asks.
        """
        found = cls(Tokenizer.from_file(str(path)))
        if sorted(found.tokenizer.get_vocab().values()) != list(range(found.vocab_size)):
            raise ValueError("its tokens are not numbered from 0 on")
        given, own = (json.loads(made.tokenizer.to_str()) for made in (found, cls.train([])))
        for table in (given, own):
            for learned in ("vocab", "merges"):
                table["model"].pop(learned, None)
        for part in sorted(given.keys() | own.keys()):
            if given.get(part) != own.get(part):
                raise ValueError(f"its {part} is not dreamrl's")
        return found

    def save(self, path: Path) -> None:
        """Write a tokenizer.json."""
        self.tokenizer.save(str(path))

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        return self.tokenizer.get_vocab_size()

    def encode(self, text: str, length: int, end: bool = False) -> np.ndarray:
        """(length,) int64 ids, padded; a longer text is a ValueError, never cut silently."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"text is not valid Unicode: {text[:80]!r}") from error
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids + ([EOS] if end else [])
        if len(ids) > length:
            raise ValueError(f"text of {len(ids)} tokens is longer than {length}: {text[:80]!r}")
        return np.array(ids + [PAD] * (length - len(ids)), np.int64)

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the end mark."""
        kept = []
        for token in ids:
            if token == EOS:
                break
            if token not in (PAD, BOS):
                kept.append(int(token))
        return self.tokenizer.decode(kept, skip_special_tokens=False)
