"""Small input tokenizers and prompts for them: what the tests of reading and of its noise share."""

import numpy as np
import torch

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.input_tokenizer import InputTokenizer
from dreamrl.nn.picture_reader import Pictures
from dreamrl.nn.text import PAD

VOCAB = 40


def make(seed=0, **changes):
    settings = {"embedding_dim": 16, "num_heads": 2, "code_levels": (3, 3), "patch_size": 8, "max_prompt_tokens": 28}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return InputTokenizer(DreamingConfig(**(settings | changes)), VOCAB)


def some_text(rows=6, length=5, seed=0):
    """Texts of 1 to ``length`` tokens; the first two rows are equal."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(3, VOCAB, (rows, length), generator=generator)
    lengths = torch.randint(1, length + 1, (rows, 1), generator=generator)
    text = text.masked_fill(torch.arange(length) >= lengths, PAD)
    text[1:2] = text[0]
    return text


def some_picture(height=16, width=24, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def stack_pictures(prompts):
    """The pictures of each prompt at the top left of one batch, with noise around them."""
    most = max(len(pictures) for pictures in prompts)
    pixels = torch.randint(0, 256, (len(prompts), most, 24, 24, 3), generator=torch.Generator().manual_seed(9))
    pixels, size = pixels.to(torch.uint8), torch.zeros(len(prompts), most, 2, dtype=torch.long)
    for q, pictures in enumerate(prompts):
        for k, picture in enumerate(pictures):
            size[q, k] = torch.tensor(picture.shape[:2])
            pixels[q, k, : picture.shape[0], : picture.shape[1]] = torch.from_numpy(picture)
    return Pictures(pixels, size[..., 0] > 0, size)
