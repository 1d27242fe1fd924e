"""The reasoner: the same reading however dreams are ordered, batched or padded, with every mechanism on or off."""

import dataclasses

import pytest
import torch

from dreamrl.dreaming_config import DreamingConfig
from dreamrl.nn.graph import EDGE_TYPES
from dreamrl.nn.graph_reasoner import GraphReasoner
from dreamrl.nn.input_tokenizer import InputTokenizer, Prompt

QUESTIONS, DREAMS, STEPS, PATCHES, ACTIONS = 4, 3, 4, 16, 4
FULL = torch.full((QUESTIONS, DREAMS), STEPS)
CONFIG = DreamingConfig(embedding_dim=16, num_heads=2, graph_num_heads=4, dream_length=STEPS, num_edge_types=2)
VARIANTS = {
    "plain": {},
    "no hops": {"graph_reasoning_hops": 0},
    "learned edges": {"use_learned_edges": True},
    "memory": {"use_node_memory": True},
    "sparse": {"attention": "sparsemax"},
    "all": {"use_learned_edges": True, "use_node_memory": True, "attention": "sparsemax", "graph_reasoning_hops": 3},
    "mean": {"graph_reader": "mean"},
}
SHUFFLED = {
    "shuffled": {"graph_reader": "shuffled"},
    "shuffled learned edges": {"graph_reader": "shuffled", "use_learned_edges": True},
}
NAMES = ("nodes", "focus_logits", "value")


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(**fields):
    """A reasoner whose weights are all far from zero and from each other."""
    config = dataclasses.replace(CONFIG, **fields)
    reasoner = GraphReasoner(config, ACTIONS, InputTokenizer(config, 300))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in reasoner.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return reasoner


@pytest.fixture(params=VARIANTS)
def reasoner(request):
    """Every variant that does not know the order of the dreams."""
    return make(**VARIANTS[request.param])


@pytest.fixture(params=[*VARIANTS, *SHUFFLED])
def any_reasoner(request):
    return make(**(VARIANTS | SHUFFLED)[request.param])


def random_dreams(seed=0, lengths=None):
    """Arguments of ``GraphReasoner.forward`` but the prompt; half of the boards are 3x3.

    The first two dreams of a question begin alike, as dreams do that take the same action from the same picture.
    """
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(CONFIG.num_codes, (QUESTIONS, DREAMS, STEPS + 1, PATCHES), generator=generator)
    frames[::2, :, :, 9:] = CONFIG.num_codes
    actions = torch.randint(ACTIONS, (QUESTIONS, DREAMS, STEPS), generator=generator)
    beliefs = torch.randint(4, (QUESTIONS, DREAMS, STEPS), generator=generator)
    if lengths is None:
        lengths = torch.randint(1, STEPS + 1, (QUESTIONS, DREAMS), generator=generator)
        lengths[:, 0], lengths[0, 1] = STEPS, 1
    frames[:, 1, :2], actions[:, 1, 0], beliefs[:, 1, 0] = frames[:, 0, :2], actions[:, 0, 0], beliefs[:, 0, 0]
    return frames, actions, beliefs, lengths


def prompts():
    return Prompt(randn(QUESTIONS, 5, 16), torch.ones(QUESTIONS, 5, dtype=torch.bool), randn(QUESTIONS, 16, seed=1))


def assert_same(one, other, names=NAMES, **tolerance):
    for name in names:
        torch.testing.assert_close(getattr(one, name), getattr(other, name), **(tolerance or TOLERANCE))


TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}


@torch.no_grad()
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_the_order_of_the_dreams_does_not_matter(reasoner, order):
    dreams, order = random_dreams(), list(order)
    before, after = reasoner(*dreams, prompts()), reasoner(*(part[:, order] for part in dreams), prompts())
    torch.testing.assert_close(after.focus_logits, before.focus_logits[:, [*order, DREAMS]], **TOLERANCE)
    torch.testing.assert_close(after.value, before.value, **TOLERANCE)
    torch.testing.assert_close(after.nodes, before.nodes[:, order], **TOLERANCE)
    assert (before.focus_logits[:, 0] - before.focus_logits[:, 1]).abs().min() > 1e-3  # the dreams do differ
    assert weights_by_place(after, order) == pytest.approx(weights_by_place(before, range(DREAMS)), abs=1e-4)


def weights_by_place(reading, order):
    """Weight of every edge, by question, dream and step of its ends, whatever place a dream has in the batch."""

    def place(node):
        return node // (DREAMS * STEPS), order[node // STEPS % DREAMS], node % STEPS

    edges = zip(*(part.tolist() for part in (*reading.edges.edge_index, *reading.edges[1:])), strict=True)
    return {(place(a), place(b), kind): weight for a, b, kind, weight in edges}


@torch.no_grad()
def test_equal_dreams_are_read_alike(reasoner):
    frames, actions, beliefs, lengths = random_dreams()
    for part in (frames, actions, beliefs, lengths):
        part[:, 1] = part[:, 0]
    reading = reasoner(frames, actions, beliefs, lengths, prompts())
    torch.testing.assert_close(reading.focus_logits[:, 1], reading.focus_logits[:, 0], **TOLERANCE)
    torch.testing.assert_close(reading.nodes[:, 1], reading.nodes[:, 0], **TOLERANCE)


@torch.no_grad()
def test_answers_follow_the_dreams_when_those_change_places(loaded):
    order, dreams = [2, 0, 1], random_dreams()
    texts = ["Give the shortest way to the gift.", "The elf moves right. What happens?", "Up?", "left, left"]
    prompt = loaded.model.input_tokenizer(torch.stack([torch.from_numpy(loaded.text.encode(t, 24)) for t in texts]))
    readings = [loaded.model.read(*dreams, prompt), loaded.model.read(*(part[:, order] for part in dreams), prompt)]
    answers = [loaded.model.answer(reading, prompt) for reading in readings]
    assert answers[0].tokens.tolist() == answers[1].tokens.tolist()
    assert [[*order, DREAMS][f] for f in answers[1].focus.tolist()] == answers[0].focus.tolist()
    for focus in range(DREAMS):  # whichever dream is read, the same answer comes out of it
        chosen = [torch.full((QUESTIONS,), place) for place in (focus, order.index(focus))]
        scores = [
            loaded.model.score_answer(reading, prompt, f, answers[0].tokens).logp
            for reading, f in zip(readings, chosen, strict=True)
        ]
        torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_steps_past_the_end_of_a_dream_do_not_matter(any_reasoner):
    frames, actions, beliefs, lengths = random_dreams()
    before = any_reasoner(frames, actions, beliefs, lengths, prompts())
    other_frames, other_actions, other_beliefs, _ = random_dreams(seed=1)
    over = torch.arange(STEPS) >= lengths.unsqueeze(-1)
    assert over.any()
    past = torch.cat([torch.zeros_like(over[..., :1]), over], dim=-1).unsqueeze(-1)
    after = any_reasoner(
        torch.where(past, other_frames, frames),
        torch.where(over, other_actions, actions),
        torch.where(over, other_beliefs, beliefs),
        lengths,
        prompts(),
    )
    assert_same(after, before, atol=0, rtol=0)
    assert (before.mask == ~over).all()
    assert (before.nodes[over] == 0).all()


@torch.no_grad()
def test_room_for_longer_dreams_does_not_matter(reasoner):
    frames, actions, beliefs, lengths = random_dreams()
    before = reasoner(frames, actions, beliefs, lengths, prompts())
    wider = [torch.cat([part, part[:, :, :3]], dim=2) for part in (frames, actions, beliefs)]
    after = reasoner(*wider, lengths, prompts())
    assert_same(after, before, ("focus_logits", "value"))
    torch.testing.assert_close(after.nodes[:, :, :STEPS], before.nodes, **TOLERANCE)


@torch.no_grad()
def test_questions_do_not_see_each_other(any_reasoner):
    dreams, prompt = random_dreams(), prompts()
    together = any_reasoner(*dreams, prompt)
    size, found = DREAMS * STEPS, []
    for q in range(QUESTIONS):
        one = slice(q, q + 1)
        alone = any_reasoner(*(part[one] for part in dreams), Prompt(*(part[one] for part in prompt)))
        for name in NAMES:
            torch.testing.assert_close(getattr(alone, name), getattr(together, name)[one], **TOLERANCE)
        found += list(zip(*(alone.edges.edge_index + q * size).tolist(), alone.edges.edge_type.tolist(), strict=True))
    edges = together.edges
    assert (edges.edge_index[0] // size == edges.edge_index[1] // size).all()
    assert sorted(found) == sorted(zip(*edges.edge_index.tolist(), edges.edge_type.tolist(), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("part", ["what", "result", "action", "belief"])
@pytest.mark.parametrize("variant", ["plain", "all", "mean"])
def test_every_part_of_every_step_matters(variant, part):
    reasoner = make(**VARIANTS[variant])
    before = reasoner(*random_dreams(lengths=FULL), prompts())
    for step in range(STEPS):
        frames, actions, beliefs, lengths = random_dreams(lengths=FULL)
        if part in ("what", "result"):
            place = frames[:, 1, step + (part == "result"), 3]
            place[:] = (place + 7) % CONFIG.num_codes
        else:
            values = actions if part == "action" else beliefs
            values[:, 1, step] = (values[:, 1, step] + 1) % 4
        after = reasoner(frames, actions, beliefs, lengths, prompts())
        assert ((after.focus_logits - before.focus_logits)[:, 1].abs() > 1e-6).all()
        heard = (after.nodes - before.nodes)[:, 0].abs().amax((1, 2)) > 1e-6  # what a sibling hears of it
        assert heard.all() if variant != "mean" else not heard.any()


@torch.no_grad()
def test_the_question_matters(any_reasoner):
    before = any_reasoner(*random_dreams(), prompts())
    after = any_reasoner(*random_dreams(), Prompt(*(part.roll(1, 0) for part in prompts())))
    assert ((after.focus_logits - before.focus_logits).abs().amax(1) > 1e-3).all()
    assert ((after.nodes - before.nodes).abs().amax(-1)[before.mask] > 1e-3).all()


@torch.no_grad()
@pytest.mark.parametrize("blind", [False, True])
def test_when_a_triplet_happens_matters_by_its_step_embedding_alone(blind):
    """Without hops, and with one picture throughout, two triplets that change places differ in nothing else."""
    reasoner = make(graph_reasoning_hops=0)
    if blind:
        reasoner.step.weight.zero_()
    frames, actions, beliefs, lengths = random_dreams(lengths=FULL)
    frames[:] = frames[:, :1, :1]
    actions[:] = torch.tensor([0, 1, 2, 3])
    before = reasoner(frames, actions, beliefs * 0, lengths, prompts())
    after = reasoner(frames, actions[..., [0, 2, 1, 3]], beliefs * 0, lengths, prompts())
    change = (after.focus_logits - before.focus_logits)[:, :-1].abs()
    assert (change < 1e-5).all() if blind else (change > 1e-4).all()


@torch.no_grad()
def test_the_plain_mean_is_a_mean_of_what_was_dreamed():
    reasoner = make(graph_reader="mean")
    frames, actions, beliefs, lengths = random_dreams()
    lengths[3, 2] = 0
    reading = reasoner(frames, actions, beliefs, lengths, prompts())
    summary = prompts().summary
    for q in range(QUESTIONS):
        dreams = []
        for n in range(DREAMS):
            taken = range(int(lengths[q, n]))
            dreams.append(torch.stack([reading.nodes[q, n, t] for t in taken]).mean(0) if taken else torch.zeros(16))
        for n in range(DREAMS):
            score = reasoner.score(torch.cat([dreams[n], summary[q]]))
            torch.testing.assert_close(reading.focus_logits[q, n], score.squeeze(), **TOLERANCE)
        real = torch.stack([dream for n, dream in enumerate(dreams) if lengths[q, n] > 0])
        value = reasoner.value(torch.cat([real.mean(0), summary[q]]))
        torch.testing.assert_close(reading.value[q], value.squeeze(), **TOLERANCE)
    assert reading.edges.edge_index.shape == (2, 0)


@torch.no_grad()
@pytest.mark.parametrize("variant", SHUFFLED)
def test_shuffled_edges_change_the_reading_and_nothing_else(variant):
    fields = SHUFFLED[variant]
    shuffled, plain = make(**fields), make(**(fields | {"graph_reader": "graph"}))
    dreams = random_dreams()
    readings = [reasoner(*dreams, prompts()) for reasoner in (shuffled, shuffled, plain)]
    assert_same(readings[0], readings[1], atol=0, rtol=0)
    kinds, other = (reading.edges.edge_type for reading in readings[1:])
    assert kinds.tolist() == other.tolist()
    for kind in kinds.unique():
        sources = [reading.edges.edge_index[0, kinds == kind] for reading in readings[1:]]
        assert sources[0].tolist() != sources[1].tolist()
    assert ((readings[0].focus_logits - readings[2].focus_logits)[:, :-1].abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(readings[0].focus_logits[:, -1], readings[2].focus_logits[:, -1])


SHIFTS = ("hops.0.key.bias", "hops.1.key.bias", "hops.2.key.bias", ".score.bias")
"""Add the same to all scores that are weighed against each other, which changes no weight: no gradient by design."""


def test_every_weight_learns(any_reasoner):
    reading = any_reasoner(*random_dreams(), prompts())
    (reading.nodes * randn(*reading.nodes.shape, seed=5)).sum().backward(retain_graph=True)
    (reading.focus_logits * randn(QUESTIONS, DREAMS + 1, seed=6)).sum().backward(retain_graph=True)
    reading.value.sum().backward()
    for name, parameter in any_reasoner.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith(SHIFTS):
            assert parameter.grad.abs().max() > 1e-6, name


@torch.no_grad()
@pytest.mark.parametrize("variant", ["plain", "sparse", "learned edges", "no hops"])
def test_edges_say_what_each_triplet_heard(variant):
    edges = make(**VARIANTS[variant])(*random_dreams(), prompts()).edges
    source, target = edges.edge_index
    total = torch.zeros(QUESTIONS * DREAMS * STEPS).index_add(0, target, edges.weight)[target]
    if variant == "no hops":
        assert (edges.weight == 1).all()
    elif variant == "learned edges":
        assert (total < 1).all() and (edges.edge_type >= len(EDGE_TYPES)).any()
    else:
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-5, rtol=0)
    fixed = edges.edge_type < len(EDGE_TYPES)
    dream, step = edges.edge_index[:, fixed] // STEPS, edges.edge_index[:, fixed] % STEPS
    offset = torch.tensor([1, -1, 0])[edges.edge_type[fixed]]
    assert (step[1] - step[0] == offset).all()
    assert ((dream[0] == dream[1]) == (offset != 0)).all()
