"""ImageTokenReasoningLLM: the baseline without dreams, of the same size and taught by the same random play.

    text, image codes -> InputTokenizer -> trunk over the patches, with the question in mind -> OutputDecoder -> text

It shares tokenizers, codec, blocks and decoder with the model that dreams, and sees the same first pictures, questions
and answers. What it does not see is what random play looked like: there are no rollouts in it, imagined or true.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from dreamrl.checkpoint import load_model_files, present, save_model
from dreamrl.errors import UserError
from dreamrl.losses import touch_all
from dreamrl.model import Assets
from dreamrl.nn.codec import ImageCodec
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt
from dreamrl.nn.layers import Attention, AttentionPool, Block, mlp
from dreamrl.nn.output_decoder import OutputDecoder
from dreamrl.nn.picture_reader import Pictures
from dreamrl.nn.positional import GridPositions
from dreamrl.nn.sampling import sample
from dreamrl.nn.text import BOS, EOS, PAD, TextTokenizer
from dreamrl.saving import set_weights, weights
from dreamrl.settings import from_dict, to_dict
from envs.questions import prompt_pictures, stream
from envs.registry import world_of
from envs.world import Question, QuestionKind, Scene, Split

KIND = "baseline"
"""What config.json of a saved baseline calls it."""


class View(NamedTuple):
    """What the model made of Q questions and pictures.

    Answers are written from ``memory`` (Q, P + 2, D) where ``mask`` (Q, P + 2); ``value`` (Q,) is the reward that the
    model expects for its answer.
    """

    memory: Tensor
    mask: Tensor
    value: Tensor

    def repeat(self, times: int) -> View:
        """Each question ``times`` times in a row, for as many answers."""
        return View(*(part.repeat_interleave(times, dim=0) for part in self))


class Written(NamedTuple):
    """``tokens`` (Q, L), their ``logp`` (Q, L) at temperature 1 and ``entropy`` (Q, L); zeros past the end mark."""

    tokens: Tensor
    logp: Tensor
    entropy: Tensor


class ImageTokenReasoningLLM(nn.Module):
    """Image tokens straight to the answer.

    Args:
        assets: settings, world and text tokenizer, as for the model that dreams.
        layers: blocks of the trunk.
        loops: times that the trunk is applied with the same weights.

    Example:
        >>> from dreamrl.saving import make_assets
        >>> model = ImageTokenReasoningLLM(make_assets(DreamingConfig(), "frozen_lake", 0), layers=2, loops=1)
        >>> model.generate("Find the shortest safe path to the gift.")["output"]  # untrained: nonsense
    """

    def __init__(self, assets: Assets, layers: int, loops: int):
        """See the class."""
        super().__init__()
        self.assets, self.config = assets, assets.run.model
        self.layers, self.loops = layers, loops
        config = self.config
        dim, heads = config.embedding_dim, config.num_heads
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(assets.run.seed)
            self.codec = ImageCodec(config.patch_size, config.code_levels, config.codec_hidden)
            self.input_tokenizer = InputTokenizer(config, assets.text.vocab_size)
            self.positions = GridPositions(config.positions, dim, heads, config.yarn_factor)
            self.instruction = Attention(dim, heads)
            self.condition = nn.Linear(dim, dim)
            self.trunk = nn.ModuleList(Block(dim, heads) for _ in range(layers))
            self.norm = nn.LayerNorm(dim)
            self.readout = AttentionPool(dim, heads)
            self.value = mlp(2 * dim, 2 * dim, 1)
            self.output_decoder = OutputDecoder(config, self.input_tokenizer)
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.output_decoder.nothing.device

    def ask(self, questions: Sequence[Question]) -> dict[str, Tensor]:
        """Questions as tensors: ``text`` (Q, L), ``frames`` (Q, P) codes of the first picture, ``grid`` (Q, 2)."""
        codes = [self.codec.encode(q.scene.frame(q.scene.start)) for q in questions]
        frames = np.full((len(codes), max(len(c) for c in codes)), self.config.num_codes, np.int64)
        for row, own in zip(frames, codes, strict=True):
            row[: len(own)] = own
        asked = {
            "text": np.stack([self.assets.text.encode(q.text, self.config.max_prompt_tokens) for q in questions]),
            "frames": frames,
            "grid": np.array([q.scene.grid for q in questions], np.int64),
        }
        if self.config.vision_backbone != "none":
            side = self.assets.world.max_side * self.assets.world.patch_size
            asked |= prompt_pictures([[q.scene.frame(q.scene.start)] for q in questions], side)
        return {name: torch.from_numpy(value).to(self.device) for name, value in asked.items()}

    def look(self, asked: dict[str, Tensor]) -> View:
        """Read Q questions and the pictures that they are about; ``asked`` as of :meth:`ask`."""
        prompt, frames, grid = self._read(asked), asked["frames"].long(), asked["grid"].long()
        mask = torch.arange(frames.shape[1], device=frames.device) < grid.prod(dim=1, keepdim=True)  # (Q, P)
        added, places = self.positions(grid[:, 1], frames.shape[1])
        told = self.instruction(prompt.summary.unsqueeze(1), memory=prompt.tokens, mask=prompt.mask[:, None, None, :])
        condition = told.squeeze(1) + prompt.summary  # (Q, D)
        x = self.input_tokenizer.codes(frames) + self.condition(condition).unsqueeze(1)  # (Q, P, D)
        x = x if added is None else x + added
        for _ in range(self.loops):
            for block in self.trunk:
                x = block(x, mask=mask[:, None, None, :], places=places)
        x = self.norm(x)
        value = self.value(torch.cat([self.readout(x, mask), condition], dim=-1)).squeeze(-1)
        nothing = self.output_decoder.nothing.expand(len(x), 1, -1)
        memory = torch.cat([x, nothing, prompt.summary.unsqueeze(1)], dim=1)  # (Q, P + 2, D)
        return View(memory, torch.cat([mask, mask.new_ones(len(x), 2)], dim=1), value)

    def _read(self, asked: dict[str, Tensor]) -> Prompt:
        pictures = None
        if self.config.vision_backbone != "none":
            size = asked["picture_size"].long()
            pictures = Pictures(asked["pixels"], size[..., 0] > 0, size)
        return self.input_tokenizer(asked["text"].long(), pictures)

    def answer(self, asked: dict[str, Tensor], uniform: Tensor | None = None) -> Written:
        """Answer Q questions, greedily or from ``uniform`` (Q, L) numbers in [0, 1)."""
        return self.write(self.look(asked), uniform)

    def write(self, view: View, uniform: Tensor | None = None) -> Written:
        """The answers of :meth:`answer`, from what was seen."""
        decoder, longest = self.output_decoder, self.config.max_answer_tokens
        tokens = torch.full((len(view.value), longest), PAD, device=view.value.device)
        token = torch.full_like(tokens[:, 0], BOS)
        ended = torch.zeros_like(token, dtype=torch.bool)
        cache = decoder.start(view.memory, view.mask)
        for place in range(longest):
            logits = decoder.step(token.unsqueeze(1), cache)
            drawn = logits.argmax(-1) if uniform is None else sample(logits, uniform[:, place])
            token = drawn.masked_fill(ended, PAD)
            tokens[:, place] = token
            ended = ended | (token == EOS)
            if bool(ended.all()):
                break
        return self.score(view, tokens)

    def score(self, view: View, tokens: Tensor) -> Written:
        """Log-probability and entropy of the given ``tokens`` (Q, L)."""
        written = max(1, int((tokens != PAD).sum(1).amax()))
        targets = tokens[:, :written]
        inputs = torch.cat([torch.full_like(targets[:, :1], BOS), targets[:, :-1]], dim=1)
        logits = self.output_decoder(inputs, view.memory, view.mask).log_softmax(-1)  # (Q, L, vocab)
        logp = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        entropy = -(logits.exp() * logits).sum(-1)
        nothing = torch.zeros(tokens.shape, device=tokens.device)
        logp, entropy = (torch.cat([part * (targets != PAD), nothing[:, written:]], dim=1) for part in (logp, entropy))
        return Written(tokens, logp, entropy)

    def compute_loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of the answers in a batch of :class:`dreamrl.data.RandomPlay`, in nats per token.

        The answer is what the rollouts support. A path question that none of them supports is left out: its answer
        there is about the rollouts, which are not seen here.
        """
        asked = {k: batch[k] for k in ("text", "grid", "pixels", "picture_size") if k in batch}
        view = self.look(asked | {"frames": batch["frames"][:, 0, 0]})
        supported = ~batch["focus_target"][:, -1].bool() | batch["script"]
        targets = batch["answer"].masked_fill(~supported.unsqueeze(1), PAD)
        count = (targets != PAD).sum()
        loss = -self.score(view, targets).logp.sum() / count.clamp(min=1) + touch_all(cast(Any, self))
        return loss, {"loss/answer": loss.detach(), "supported": supported.float().mean()}

    @torch.no_grad()
    def vote(self, questions: Sequence[Question], answers: int, seed: int, first: int = 0) -> list[list[str]]:
        """The texts of ``answers`` answers to each question: a greedy one, then sampled ones.

        ``first`` is the number of the first question, for the random streams; answer n of a question is the same
        whatever the number of answers.
        """
        view = self.look(self.ask(questions))
        texts = [[text] for text in self._texts(self.write(view).tokens)]
        longest = self.config.max_answer_tokens
        for n in range(1, answers):
            dice = np.stack([stream(seed, 31, first + q, n).random(longest) for q in range(len(questions))])
            sampled = self.write(view, torch.from_numpy(dice).float().to(self.device))
            for own, text in zip(texts, self._texts(sampled.tokens), strict=True):
                own.append(text)
        return texts

    def _texts(self, tokens: Tensor) -> list[str]:
        return [self.assets.text.decode(row) for row in tokens.tolist()]

    @torch.no_grad()
    def generate(self, prompt: str, scene: Scene | None = None, seed: int = 0) -> dict[str, Any]:
        """Answer ``prompt`` about ``scene``; without one, about a test board drawn from ``seed``.

        Returns:
            ``output`` text; ``confidence``, the probability that the model gives to that very text; ``verdict`` of the
            simulator, None where it cannot verify the answer.
        """
        world = self.assets.world
        if scene is None:
            rng = stream(seed, 10)
            scene = world.sample_scene(rng, Split.TEST, int(rng.choice(world.sizes)))
        understood = world.interpret(prompt, scene)
        try:
            asked = self.ask([understood or Question(kind=QuestionKind.PLAN, text=prompt, scene=scene)])
        except ValueError as error:
            raise UserError(f"prompt: {error}; shorten it") from error
        out = self.answer(asked)
        text = self._texts(out.tokens)[0]
        verdict = None if understood is None else world.verify(understood, text)
        return {"output": text, "confidence": round(float(out.logp.sum().exp()), 4), "verdict": verdict}

    def save_pretrained(self, directory: str | Path) -> None:
        """Write the model as a directory (config.json, model.safetensors, tokenizer.json), atomically."""
        config = {
            "kind": KIND,
            "run": to_dict(self.assets.run),
            "layers": self.layers,
            "loops": self.loops,
            "actions": list(self.assets.world.actions),
        }
        save_model(Path(directory), weights(cast(Any, self)), config, self.assets.text.save)

    @classmethod
    def load_pretrained(cls, directory: str | Path) -> ImageTokenReasoningLLM:
        """The model saved in ``directory``; UserError if there is no sound one, or one that dreams."""
        directory = Path(directory)
        config, state = load_model_files(directory)
        if config.get("kind") != KIND:
            raise UserError(f"{directory} holds a model that dreams, not a baseline; load it as DreamingReasoningLLM")
        for key, kind in (("run", dict), ("layers", int), ("loops", int), ("actions", list)):
            if not isinstance(config.get(key), kind):
                raise UserError(f'{directory}/config.json has no "{key}": it was not written by dreamrl, or edited')
        run = from_dict(config["run"], f"{directory}/config.json")
        world = world_of(run, trusted=False)
        if list(world.actions) != config["actions"]:
            raise UserError(f"{directory}/config.json has actions {config['actions']}, {world.name} has other ones")
        try:
            text = TextTokenizer.load(present(directory) / "tokenizer.json")
        except Exception as error:  # tokenizers raises bare Exception
            raise UserError(f"{directory}/tokenizer.json is not a tokenizer: {error}") from error
        model = cls(Assets(run, world, text), config["layers"], config["loops"])
        set_weights(cast(Any, model), state, str(directory / "model.safetensors"))
        model.codec.trained = True
        return model


def majority(texts: Sequence[str]) -> str:
    """The most frequent of several answers, of equals the first (self-consistency, Wang et al. 2022, 2203.11171)."""
    return max(texts, key=texts.count)
