"""What answers are learned from: questions with their dreams, read once; and how answers are sampled from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamrl.evaluate import CHUNK, held_out
from dreamrl.feedback.examples import Preference, Rated
from dreamrl.imagine import answer, imagine
from dreamrl.model import DreamingReasoningLLM
from dreamrl.nn.graph import NO_EDGES, Reading
from dreamrl.nn.input_tokenizer import Prompt
from dreamrl.nn.output_decoder import NEVER, OutputDecoder
from dreamrl.nn.text import BOS, PAD
from dreamrl.rewards import answer_correctness
from dreamrl.saving import Loaded
from envs.questions import stream
from envs.world import Question, QuestionKind, Split, Verdict


class Asked(NamedTuple):
    """A question, and whether the world can verify its answers."""

    question: Question
    checked: bool


class Read(NamedTuple):
    """Q questions with what the decoder reads to answer them; without gradients.

    ``asked``; ``text`` (Q, L) prompt tokens; ``reading`` with one dream for each question, the one in focus;
    ``focus`` (Q,) 0, or 1 where no dream is to be read; ``prompt``, of which the decoder reads the summary only.
    """

    asked: list[Asked]
    text: Tensor
    reading: Reading
    focus: Tensor
    prompt: Prompt

    def rows(self, index: Tensor) -> Read:
        """The questions at ``index`` (R,), which may repeat."""
        nodes, mask, focus_logits, value, _, last, columns = self.reading
        assert last is not None and columns is not None
        return Read(
            [self.asked[i] for i in index.tolist()],
            self.text[index],
            Reading(
                nodes[index], mask[index], focus_logits[index], value[index], NO_EDGES, last[index], columns[index]
            ),
            self.focus[index],
            Prompt(*(part[index] for part in self.prompt)),
        )


def training_questions(loaded: Loaded, records: Sequence[Rated | Preference], count: int, seed: int) -> list[Asked]:
    """``count`` questions: the world's own path questions and the prompts of ``records`` in turn.

    A prompt is asked about its scene, or about training boards if it has none.
    """
    world, sizes = loaded.world, loaded.world.sizes
    prompts = list({f"{r.prompt}\n{r.scene}": (r.prompt, r.scene) for r in records}.values())
    order = stream(seed, 42).permutation(len(prompts))
    out = []
    for index in range(count):
        rng = stream(seed, 43, index)
        scene = world.sample_scene(rng, Split.TRAIN, int(rng.choice(sizes)))
        if index % 2 == 0:
            out.append(Asked(world.draw(scene, False, loaded.run.model.dream_length, rng), True))
            continue
        prompt, options = prompts[order[index // 2 % len(prompts)]]
        scene = scene if options is None else world.scene(options)
        known = world.interpret(prompt, scene)
        question = known or Question(kind=QuestionKind.PLAN, text=prompt, scene=scene)
        out.append(Asked(question, known is not None))
    return out


def validation_questions(loaded: Loaded, count: int, seed: int) -> list[Asked]:
    """``count`` path questions on validation boards."""
    questions = held_out(loaded.world, loaded.world.sizes, count, seed, Split.VALIDATION)
    return [Asked(question, True) for question in questions]


@torch.no_grad()
def read_questions(loaded: Loaded, asked: Sequence[Asked], seed: int) -> Read:
    """Dream about the questions and choose the dream to answer from, as evaluation does."""
    parts = [_read_chunk(loaded, asked[i : i + CHUNK], i, seed) for i in range(0, len(asked), CHUNK)]
    longest = max(nodes.shape[1] for nodes, *_ in parts)
    nodes = torch.cat([F.pad(nodes, (0, 0, 0, longest - nodes.shape[1])) for nodes, *_ in parts])
    mask = torch.cat([F.pad(mask, (0, longest - mask.shape[1])) for _, mask, *_ in parts])
    focus, value, summary, text, columns = (torch.cat([part[i] for part in parts]) for i in range(2, 7))
    most, pad = max(part[7].shape[1] for part in parts), loaded.model.pad_code
    last = torch.cat([F.pad(part[7], (0, most - part[7].shape[1]), value=pad) for part in parts])
    logits = torch.full((len(focus), 2), NEVER, device=focus.device).scatter(1, focus.unsqueeze(1), 0.0)
    reading = Reading(nodes.unsqueeze(1), mask.unsqueeze(1), logits, value, NO_EDGES, last.unsqueeze(1), columns)
    prompt = Prompt(summary.unsqueeze(1), focus.new_ones(len(summary), 1, dtype=torch.bool), summary)
    return Read(list(asked), text, reading, focus, prompt)


def _read_chunk(loaded: Loaded, asked: Sequence[Asked], first: int, seed: int) -> tuple[Tensor, ...]:
    """Of the dream in focus nodes (Q, T, D), mask (Q, T); focus, value (Q,), summary (Q, D), text (Q, L).

    Then patches per row (Q,) and codes (Q, P) of that dream's last picture.
    """
    dreams = loaded.run.model.num_dream_sequences
    questions = [part.question for part in asked]
    imagined = imagine(loaded, questions, dreams, seed, loaded.run.eval.temperature, first=first)
    answers = answer(loaded, imagined, dreams)
    device = loaded.model.device
    focus, rows = torch.from_numpy(answers.focus).to(device), torch.arange(len(asked), device=device)
    none, chosen = focus == dreams, focus.clamp(max=dreams - 1)
    nodes, mask = answers.reading.nodes[rows, chosen], answers.reading.mask[rows, chosen]
    text = torch.from_numpy(imagined.batch.tokens).to(device)
    reading = answers.reading
    assert reading.last is not None and reading.columns is not None
    last = reading.last[rows, chosen]
    return nodes, mask, none.long(), reading.value, imagined.prompt.summary, text, reading.columns, last


@torch.no_grad()
def write_answers(model: DreamingReasoningLLM, read: Read, dice: np.ndarray | None) -> Tensor:
    """(Q, L) tokens of answers: sampled at temperature 1 with ``dice`` (Q, L + 1) in [0, 1), or without it greedy."""
    uniform = None if dice is None else torch.from_numpy(dice).float().to(model.device)
    return model.answer(read.reading, read.prompt, uniform).tokens


def words_logp(decoder: OutputDecoder, read: Read, tokens: Tensor) -> Tensor:
    """(Q,) log-probability that ``decoder`` writes ``tokens`` (Q, L)."""
    memory, memory_mask = decoder.memory(read.reading, read.focus, read.prompt)
    written = int((tokens != PAD).sum(1).amax())
    targets = tokens[:, :written]
    begin = torch.full_like(targets[:, :1], BOS)
    logits = decoder(torch.cat([begin, targets[:, :-1]], dim=1), memory, memory_mask)
    logp = -F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
    return (logp * (targets != PAD)).sum(1)


def correctness(loaded: Loaded, read: Read, tokens: Tensor) -> np.ndarray:
    """(Q,) what the verifier pays for the answers ``tokens`` (Q, L); 0 where the world cannot verify any."""
    pays = []
    for (question, checked), row in zip(read.asked, tokens.tolist(), strict=True):
        verdict = loaded.world.verify(question, loaded.text.decode(row)) if checked else UNKNOWN
        pays.append(answer_correctness(verdict.exact, verdict.success))
    return np.array(pays, np.float32)


UNKNOWN = Verdict(exact=False, progress=0.0, valid=False, success=False)
