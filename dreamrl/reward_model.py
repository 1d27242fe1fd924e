"""Training the learned judge of dreams on what the simulator verified, and measuring it on boards it never saw.

Everything comes from random play: true dreams, dreams made wrong in known ways, right and wrong answers. No
dream of the policy is used, so the judge is not fitted to the mistakes of one policy. A plain torch loop; a few
minutes on one core.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dreamrl.checkpoint import load_model_files, save_model
from dreamrl.config import RunConfig
from dreamrl.dreaming_config import REWARD_COMPONENTS
from dreamrl.errors import UserError
from dreamrl.nn.codec import FrameCodes, ImageCodec
from dreamrl.nn.reward_model import RewardModel, RewardScores
from dreamrl.nn.text import TextTokenizer
from dreamrl.rewards import answer_correctness
from dreamrl.saving import Loaded
from dreamrl.settings import from_dict, to_dict
from dreamrl.statistics import expected_calibration_error
from dreamrl.told_dreams import Corruption, ToldDream, corrupt, creativities, tell, verify
from envs.questions import draw_question, stream
from envs.world import Question, Split, World, random_play, roll

QUESTIONS = 16
"""Questions of an update or of a batch to evaluate on."""
LR = 4e-3
WEIGHT_DECAY = 0.01
GRAD_CLIP = 1.0
PREDICT_SHARE = 0.3
TRUE_SHARE = 0.4
"""Share of dreams that are left as they happened."""
ANSWERED_SHARE = 0.5
"""Share of questions that come with an answer."""
SMALLEST_GAP = 0.02
"""Dreams whose verified quality differs by less are not compared."""
KINDS = tuple(Corruption)


class VerifiedDreams:
    """Batches of true and of corrupted dreams with what the simulator says of them."""

    def __init__(
        self, run: RunConfig, world: World, text: TextTokenizer, codec: ImageCodec, split: Split = Split.TRAIN
    ):
        """Args: settings of the ``run``, its ``world``, text tokenizer, trained codec, ``split`` to draw from."""
        self.run, self.world, self.text, self.split = run, world, text, split
        self.codes = FrameCodes(codec)
        self.num_patches = world.max_patches

    def batch(self, seed: int, index: int, questions: int) -> dict[str, Tensor]:
        """Batch ``index`` of a seed: what :class:`RewardModel` reads, and its targets, for R = Q x N dreams.

        ``frames`` (R, T + 1, P), ``actions``, ``beliefs`` (R, T), ``lengths`` (R,), ``grid`` (R, 2), ``text`` and
        ``answer`` (R, L); the four components, ``true``, ``quality`` (R,) and ``makers`` (R, T, A) in [0, 1];
        ``kind`` (R,): 0 for a true dream, else 1 + the place in ``KINDS``.
        """
        rng = stream(seed, 20, index)
        asked = [self._question(rng) for _ in range(questions)]
        told = [self._dreams(question, rng) for question in asked]
        answers = self._answers(asked, told, rng)
        records = [self._record(*parts) for parts in zip(asked, told, answers, strict=True)]
        return {name: torch.from_numpy(np.concatenate([r[name] for r in records])) for name in records[0]}

    def _question(self, rng: np.random.Generator) -> Question:
        scene = self.world.sample_scene(rng, self.split, int(rng.choice(self.world.sizes)))
        return draw_question(self.world, scene, rng.random() < PREDICT_SHARE, self.run.model.dream_length, rng)

    def _dreams(self, question: Question, rng: np.random.Generator) -> list[tuple[ToldDream, int]]:
        """N dreams of random play (for PREDICT half of them follow the script), each with its kind."""
        model, num_actions, dreams = self.run.model, len(self.world.actions), []
        for _ in range(model.num_dream_sequences):
            follows = len(question.script) > 0 and rng.random() < 0.5
            length = len(question.script) or model.dream_length
            play = random_play(question.scene, num_actions, length, rng)
            dream, kind = tell(question, roll(question.scene, question.script) if follows else play, self.codes), 0
            if rng.random() >= TRUE_SHARE:
                chosen = int(rng.integers(len(KINDS)))
                wrong = corrupt(dream, KINDS[chosen], rng, self.codes, num_actions, model.num_codes, model.dream_length)
                dream, kind = (dream, 0) if wrong is None else (wrong, 1 + chosen)
            dreams.append((dream, kind))
        return dreams

    def _answers(
        self, asked: list[Question], told: list[list[tuple[ToldDream, int]]], rng: np.random.Generator
    ) -> list[str]:
        """For each question what its dreams support, or what those of another question do; "" for no answer."""
        supported = []
        for question, dreams in zip(asked, told, strict=True):
            rollouts = [roll(question.scene, dream.actions) for dream, _ in dreams]
            supported.append(self.world.true_answer(question, rollouts)[1])
        answers = []
        for index in range(len(asked)):
            source = index if rng.random() < 0.5 else int(rng.integers(len(asked)))
            answers.append(supported[source] if rng.random() < ANSWERED_SHARE else "")
        return answers

    def _record(self, question: Question, told: list[tuple[ToldDream, int]], answer: str) -> dict[str, np.ndarray]:
        model, dreams = self.run.model, [dream for dream, _ in told]
        count, length = len(dreams), model.dream_length
        findings = [verify(dream, self.codes, len(self.world.actions)) for dream in dreams]
        frames = np.full((count, length + 1, self.num_patches), model.num_codes, np.int64)
        actions, beliefs = np.zeros((2, count, length), np.int64)
        makers = np.zeros((count, length, len(self.world.actions)), np.float32)
        for n, (dream, found) in enumerate(zip(dreams, findings, strict=True)):
            frames[n, : dream.steps + 1, : dream.frames.shape[1]] = dream.frames
            actions[n, : dream.steps], beliefs[n, : dream.steps] = dream.actions, dream.beliefs
            makers[n, : dream.steps] = found.makers
        correctness = [found.correctness for found in findings]
        if answer:
            verdict = self.world.verify(question, answer)
            correctness = [answer_correctness(verdict.exact, verdict.success)] * count
        parts = {
            "faithfulness": [found.faithfulness for found in findings],
            "coherence": [float(np.mean(found.coherent)) for found in findings],
            "correctness": correctness,
            "creativity": creativities(dreams, findings).tolist(),
        }
        true = np.array([found.true for found in findings], np.float32)
        scores = {**parts, "quality": self._quality(parts, true), "true": true}
        words = {
            "text": self.text.encode(question.text, model.max_prompt_tokens),
            "answer": self.text.encode(answer, model.max_answer_tokens, end=bool(answer)),
            "grid": np.array(question.scene.grid, np.int64),
        }
        return {
            "frames": frames,
            "actions": actions,
            "beliefs": beliefs,
            "lengths": np.array([dream.steps for dream in dreams], np.int64),
            "makers": makers,
            "kind": np.array([kind for _, kind in told], np.int64),
            **{name: np.repeat(value[None], count, axis=0) for name, value in words.items()},
            **{name: np.asarray(value, np.float32) for name, value in scores.items()},
        }

    def _quality(self, parts: dict[str, list[float]], true: np.ndarray) -> np.ndarray:
        """(N,) in [0, 1]: the components weighted as the run pays them.

        A right answer that the pictures do not show is luck, and noise is not creative: correctness and
        creativity count only for dreams that are ``true`` (N,) throughout.
        """
        paid = {name: getattr(self.run.reward, name) for name in self.run.model.reward_components}
        fair = {name: true if name in ("correctness", "creativity") else 1.0 for name in paid}
        quality = sum(weight * fair[name] * np.array(parts[name]) for name, weight in paid.items())
        return np.asarray(quality) / max(sum(paid.values()), 1e-9)


def judge(model: RewardModel, batch: dict[str, Tensor], dreams: int) -> RewardScores:
    """``model``'s scores of a batch of :class:`VerifiedDreams` with N ``dreams`` a question."""
    names = ("frames", "actions", "beliefs", "lengths", "grid", "text")
    return model(*(batch[name] for name in names), dreams, batch["answer"])


def reward_model_loss(model: RewardModel, batch: dict[str, Tensor], dreams: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Cross-entropy of every score with what the simulator says, and of preferences with verified quality.

    The preferences train only the weights of the total and their sharpness: the components keep their meaning.
    """
    scores = judge(model, batch, dreams)
    losses = {
        name: F.binary_cross_entropy(getattr(scores, name), batch[name])
        for name in ("faithfulness", "correctness", "creativity")
    }
    happened = torch.arange(batch["makers"].shape[1]) < batch["lengths"].unsqueeze(1)
    losses["coherence"] = F.binary_cross_entropy(scores.makers[happened], batch["makers"][happened])
    losses["confidence"] = F.binary_cross_entropy(scores.confidence, batch["true"])
    losses["preference"] = preference_loss(model, scores.components.detach() @ scores.weights, batch["quality"])
    return torch.stack(list(losses.values())).sum(), {f"loss/{k}": v.detach() for k, v in losses.items()}


def preference_loss(model: RewardModel, total: Tensor, quality: Tensor) -> Tensor:
    """Bradley-Terry loss over all pairs of R dreams whose ``quality`` (R,) differs; 0 if none does."""
    better, worse = (quality.unsqueeze(1) - quality > SMALLEST_GAP).nonzero(as_tuple=True)
    losses = F.softplus(-model.preference_logits(total[better], total[worse]))
    return losses.sum() / max(1, len(losses))


def train_reward_model(
    run: RunConfig,
    world: World,
    text: TextTokenizer,
    codec: ImageCodec,
    steps: int,
    seed: int,
    questions: int = QUESTIONS,
    on_step: Callable[[int, dict[str, Tensor]], None] = lambda step, metrics: None,
) -> RewardModel:
    """A reward model trained for ``steps`` updates on TRAIN boards; the same seed gives the same model.

    Args:
        run: the settings; architecture from ``run.model``, what quality is from ``run.reward``.
        world: where the dreams come from.
        text: tokenizer of prompts and answers.
        codec: trained; the model can only judge pictures that this codec has coded.
        steps: updates.
        seed: of the weights and of the data.
        questions: of an update; each has num_dream_sequences dreams.
        on_step: called after each update with its number, from 1, and the losses by name.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RewardModel(run.model, len(world.actions), text.vocab_size)
    data = VerifiedDreams(run, world, text, codec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY)
    for step in range(steps):
        loss, metrics = reward_model_loss(model, data.batch(seed, step, questions), run.model.num_dream_sequences)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRAD_CLIP)
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1.0, (step + 1) / 30) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        optimizer.step()
        on_step(step + 1, metrics)
    return model.eval()


def auc(true: np.ndarray, wrong: np.ndarray) -> float:
    """Area under the ROC curve: how often a score of ``true`` (n,) is above one of ``wrong`` (m,), ties half.

    Exact, from the ranks (the Mann-Whitney U statistic over n m); not a number if either is empty.
    """
    if len(true) == 0 or len(wrong) == 0:
        return float("nan")
    ranked = np.sort(wrong)
    below = np.searchsorted(ranked, true, "left") + np.searchsorted(ranked, true, "right")
    return float(below.mean() / 2 / len(wrong))


@torch.no_grad()
def evaluate_reward_model(model: RewardModel, data: VerifiedDreams, questions: int, seed: int) -> dict[str, float]:
    """How well ``model`` judges the dreams of ``questions`` new questions of ``data``; take the TEST split.

    Returns:
        ``auc/<score>/<kind>`` at telling true dreams from each corruption and from "all", for total, faithfulness,
        coherence and confidence; ``auc/correctness/all`` at telling dreams and answers that the verifier pays;
        ``error/<component>`` mean absolute error; ``calibration_error`` of the confidence; ``dreams`` judged.
    """
    dreams = data.run.model.num_dream_sequences
    batches = [data.batch(seed, index, QUESTIONS) for index in range(-(-questions // QUESTIONS))]
    judged = [judge(model, batch, dreams) for batch in batches]
    names = ("kind", "true", *REWARD_COMPONENTS)
    known = {name: np.concatenate([batch[name].numpy() for batch in batches]) for name in names}
    names = ("total", "confidence", *REWARD_COMPONENTS)
    score = {name: np.concatenate([getattr(scores, name).numpy() for scores in judged]) for name in names}
    out = {"dreams": float(len(known["kind"]))}
    wrong = {kind.value: known["kind"] == place for place, kind in enumerate(KINDS, 1)} | {"all": known["kind"] > 0}
    for name in ("total", "faithfulness", "coherence", "confidence"):
        for kind, rows in wrong.items():
            out[f"auc/{name}/{kind}"] = auc(score[name][known["kind"] == 0], score[name][rows])
    paid = known["correctness"] > 0
    out["auc/correctness/all"] = auc(score["correctness"][paid], score["correctness"][~paid])
    for name in REWARD_COMPONENTS:
        out[f"error/{name}"] = float(np.abs(score[name] - known[name]).mean())
    out["calibration_error"] = expected_calibration_error(score["confidence"], known["true"])
    return out


def save_reward_model(model: RewardModel, loaded: Loaded, directory: Path) -> None:
    """Write ``model`` as a directory like a policy's, atomically; it goes with the codec and text of ``loaded``."""
    config = {
        "reward_model_of": _readers_digest(loaded),
        "run": to_dict(loaded.run),
        "vocab_size": loaded.text.vocab_size,
        "actions": list(loaded.world.actions),
    }
    save_model(directory, dict(model.state_dict()), config, loaded.text.save)


def load_reward_model(directory: Path, loaded: Loaded) -> RewardModel:
    """The reward model in ``directory``, to judge dreams of ``loaded``; UserError if it cannot."""
    config, state = load_model_files(directory)
    if "reward_model_of" not in config or not isinstance(config.get("run"), dict):
        raise UserError(f"{directory} holds no reward model; give the directory that its training wrote")
    if config["reward_model_of"] != _readers_digest(loaded) or config.get("actions") != list(loaded.world.actions):
        raise UserError(
            f"reward model {directory} was trained with another image codec, tokenizer or world than this model has: "
            "it cannot read its dreams; train it again"
        )
    run = from_dict(config["run"], f"{directory}/config.json")
    model = RewardModel(run.model, len(loaded.world.actions), loaded.text.vocab_size)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{directory}/model.safetensors does not belong to its config.json: {problem}") from error
    return model.eval()


def _readers_digest(loaded: Loaded) -> str:
    """What codes and token ids mean: a hash of the codec's weights and of the tokenizer."""
    digest = hashlib.sha256(loaded.text.tokenizer.to_str().encode())
    for name, parameter in sorted(loaded.model.codec.named_parameters()):
        digest.update(name.encode() + parameter.detach().cpu().numpy().tobytes())
    return digest.hexdigest()
