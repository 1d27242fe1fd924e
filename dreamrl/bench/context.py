"""How well each kind of positions carries a text model past the length that it was trained at.

A small decoder-only model learns to continue made-up text and to answer questions about it at up to 512 tokens,
and is measured at up to 4096. Nothing is read from files: the texts follow from the seed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dreamrl.dreaming_config import POSITIONS
from dreamrl.files import write_atomically
from dreamrl.nn.layers import Block
from dreamrl.nn.positional import TextPositions

FILLER, KEYS, VALUES = 16, 32, 16
"""Words of each sort; the vocabulary is filler, then keys, then values."""
REGULAR = 0.9
"""Share of filler words that follow from the word two before them; the best loss on them is 0.57 nats."""
TRAINED_LENGTH = 512
LENGTHS = (512, 1024, 2048, 4096)
YARN_FACTOR = 8.0
FACTS = 16
"""Facts in a measured text, each stated once and asked for once."""
MEASURED_TEXTS = 64
TOKENS_PER_STEP = 4096
PEAK_LR, TUNE_LR = 3e-3, 5e-4
TUNE_LENGTH, TUNE_SHARE = 2048, 0.03
"""Length of the fine-tuning texts, and its updates as a share of the training's."""


class Stage(NamedTuple):
    """A part of training: until which ``share`` of all updates, and the texts (see :func:`make_texts`)."""

    share: float
    length: int
    facts: int
    repeats: int


STAGES = (
    Stage(0.5, 32, 4, 3),  # nothing but facts and questions: recall is found in minutes only where it is dense
    Stage(0.65, 64, 8, 2),
    Stage(0.75, 128, 16, 2),
    Stage(0.85, 256, 16, 2),
    Stage(1.0, TRAINED_LENGTH, 16, 2),
)


class Texts(NamedTuple):
    """``tokens`` (B, L), ``questions`` the number of (key, value) pairs asked for at their end.

    Example with one fact, one question and 3 words of filler: ``f f k v f  k v``.
    """

    tokens: Tensor
    questions: int


class ContextModel(nn.Module):
    """A causal text model of :class:`Block` and :class:`TextPositions`.

    Args:
        kind: see ``DreamingConfig.positions``.
        yarn_factor: with rope+yarn, how many times longer than 512 tokens texts may get.
        dim: channels.
        heads: attention heads.
        layers: blocks; recall needs two.
    """

    def __init__(self, kind: str, yarn_factor: float = 1.0, dim: int = 64, heads: int = 4, layers: int = 2):
        """See the class."""
        super().__init__()
        self.text = nn.Embedding(FILLER + KEYS + VALUES, dim)
        self.positions = TextPositions(kind, dim, heads, TRAINED_LENGTH, yarn_factor, base=10_000.0)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, FILLER + KEYS + VALUES)
        for parameter in (self.text.weight, *self.positions.parameters()):
            nn.init.normal_(parameter, std=0.3)  # what attention adds is then not drowned by the word itself

    def forward(self, tokens: Tensor, offset: int = 0) -> Tensor:
        """``tokens`` (B, L), the first of them at position ``offset`` -> logits (B, L, vocabulary)."""
        index = torch.arange(tokens.shape[1], device=tokens.device)
        causal = index.unsqueeze(1) >= index
        x = self.text(tokens)
        added, places = self.positions(index + offset)
        x = x if added is None else x + added
        for block in self.blocks:
            x = block(x, mask=causal, places=places)
        return self.head(self.norm(x))


def make_texts(count: int, length: int, facts: int, generator: torch.Generator, repeats: int = 1) -> Texts:
    """Filler in which ``facts`` (key, value) pairs are stated at random depths, then questions about them.

    Args:
        count: texts B.
        length: tokens L of each, questions included.
        facts: pairs stated in each text, of different keys.
        generator: the only source of chance.
        repeats: times that each fact is asked for.

    Returns:
        :class:`Texts`; a question is the key, the answer the value that follows it.
    """
    questions = facts * repeats
    body = length - 2 * questions
    assert 2 * facts <= body, f"{facts} facts do not fit into {body} tokens"
    tokens = torch.randint(FILLER, (count, body), generator=generator)
    regular = torch.rand(count, body, generator=generator) < REGULAR
    for place in range(2, body):
        tokens[:, place] = torch.where(regular[:, place], (7 * tokens[:, place - 2] + 3) % FILLER, tokens[:, place])
    keys = FILLER + _shuffled(count, KEYS, generator)[:, :facts]
    values = FILLER + KEYS + torch.randint(VALUES, (count, facts), generator=generator)
    place = 2 * _shuffled(count, body // 2, generator)[:, :facts]
    tokens = tokens.scatter(1, place, keys).scatter(1, place + 1, values)
    asked = _shuffled(count, questions, generator) % facts
    pairs = torch.stack([keys.gather(1, asked), values.gather(1, asked)], dim=-1).flatten(1)
    return Texts(torch.cat([tokens, pairs], dim=1), questions)


def _shuffled(count: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, size) random orders of 0 .. size - 1."""
    return torch.rand(count, size, generator=generator).argsort(-1)


def score(model: ContextModel, texts: Texts, offset: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy of each filler word (F,) and each answer (B, questions), and which answers are right.

    Keys, and values when they are stated, cannot be known and are left out.
    """
    tokens, questions = texts
    logits, targets = model(tokens[:, :-1], offset), tokens[:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    answers = slice(targets.shape[1] - 2 * questions + 1, None, 2)
    right = logits[:, answers].argmax(-1) == targets[:, answers]
    return loss[targets < FILLER], loss[:, answers], right


@torch.no_grad()
def measure(model: ContextModel, length: int, seed: int) -> dict[str, float]:
    """Mean loss per word that can be known, its filler and answer parts, and the share of right answers."""
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, 2 * TOKENS_PER_STEP // length)
    parts = []
    for start in range(0, MEASURED_TEXTS, batch):
        count = min(batch, MEASURED_TEXTS - start)
        filler, answers, right = score(model, make_texts(count, length, FACTS, generator))
        parts.append((filler, answers.flatten(), right.flatten().float()))
    filler, answers, right = (torch.cat(column) for column in zip(*parts, strict=True))
    return {
        "loss": torch.cat([filler, answers]).mean().item(),
        "filler_loss": filler.mean().item(),
        "answer_loss": answers.mean().item(),
        "retrieval": right.mean().item(),
    }


def train(model: ContextModel, steps: int, seed: int) -> None:
    """Train on the ``STAGES``, short texts first, which stand anywhere among the first 512 positions."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.98))
    for step in range(steps):
        done = step / steps
        stage = next(stage for stage in STAGES if done < stage.share)
        # Learned positions have to be met one by one, but recall is found sooner if they come in slowly.
        reach = (TRAINED_LENGTH - stage.length) * min(1.0, max(0.0, done - 0.15) / 0.3)
        offset = int(torch.randint(int(reach) + 1, (), generator=generator))
        count = TOKENS_PER_STEP // max(64, stage.length)
        texts = make_texts(count, stage.length, stage.facts, generator, stage.repeats)
        warmth = min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * done))
        _update(model, optimizer, texts, PEAK_LR * warmth, offset)


def tune(model: ContextModel, steps: int, seed: int) -> None:
    """Go on for ``steps`` updates with texts of ``TUNE_LENGTH`` tokens."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=TUNE_LR, betas=(0.9, 0.98))
    for _ in range(steps):
        _update(model, optimizer, make_texts(TOKENS_PER_STEP // TUNE_LENGTH, TUNE_LENGTH, FACTS, generator, 2), TUNE_LR)


def _update(model: ContextModel, optimizer: torch.optim.Optimizer, texts: Texts, lr: float, offset: int = 0) -> None:
    filler, answers, _ = score(model, texts, offset)
    loss = filler.sum() / max(1, len(filler)) + answers.mean()  # the shortest texts have no filler
    optimizer.param_groups[0]["lr"] = lr
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def bench(
    kinds: tuple[str, ...] = POSITIONS, steps: int = 1500, seed: int = 0, directory: Path | None = None
) -> dict[str, dict]:
    """Train and measure each kind of positions.

    rope+yarn is trained as plain rope and stretched ``YARN_FACTOR`` times afterwards. "zero_shot" are its and the
    other kinds' measurements after training at 512 tokens, "tuned" those after a few more updates on longer texts.

    Args:
        kinds: of ``dreamrl.dreaming_config.POSITIONS``.
        steps: updates of each training.
        seed: of the weights and the texts.
        directory: keeps weights and results; what lies there already is not computed again.

    Returns:
        {kind: {"zero_shot" or "tuned": {length: :func:`measure`}}}, lengths as strings, as in the JSON files.
    """
    results = {}
    for kind in kinds:
        file = None if directory is None else directory / f"{kind}-{steps}-{seed}.json"
        if file is not None and file.is_file():
            results[kind] = json.loads(file.read_text(encoding="utf-8"))
            continue
        model = ContextModel(kind, YARN_FACTOR if kind == "rope+yarn" else 1.0)
        model.load_state_dict(_trained("rope" if kind == "rope+yarn" else kind, steps, seed, directory))
        results[kind] = {"zero_shot": _measure_all(model, seed)}
        tune(model, max(1, round(TUNE_SHARE * steps)), seed + 1)
        results[kind]["tuned"] = _measure_all(model, seed)
        if file is not None:
            write_atomically(file, json.dumps(results[kind], indent=1))
    return results


def _trained(kind: str, steps: int, seed: int, directory: Path | None) -> dict[str, Tensor]:
    """Weights of a trained model, from ``directory`` if they are there."""
    file = None if directory is None else directory / f"{kind}-{steps}-{seed}.safetensors"
    if file is not None and file.is_file():
        return load_file(file)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ContextModel(kind)
    train(model, steps, seed)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), file)
    return model.state_dict()


def _measure_all(model: ContextModel, seed: int) -> dict[str, dict[str, float]]:
    return {str(length): measure(model, length, seed + 2) for length in LENGTHS}
