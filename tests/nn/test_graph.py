"""The dream graph against a slow loop, and a reasoner that does not know the order of the dreams."""

import pytest
import torch

from dreamrl.nn.graph import NEXT, PREVIOUS, SIBLING, build_graph

QUESTIONS, DREAMS, STEPS, PATCHES = 4, 3, 4, 16


def random_dreams(loaded, seed=0, lengths=None):
    """Arguments of ``GraphReasoner.forward`` but the prompt; half of the boards are 3x3."""
    generator = torch.Generator().manual_seed(seed)
    codes = loaded.model.config.num_codes
    frames = torch.randint(codes, (QUESTIONS, DREAMS, STEPS + 1, PATCHES), generator=generator)
    frames[::2, :, :, 9:] = codes
    actions = torch.randint(4, (QUESTIONS, DREAMS, STEPS), generator=generator)
    beliefs = torch.randint(4, (QUESTIONS, DREAMS, STEPS), generator=generator)
    if lengths is None:
        lengths = torch.randint(1, STEPS + 1, (QUESTIONS, DREAMS), generator=generator)
    return frames, actions, beliefs, lengths


def prompts(loaded):
    texts = ["Give the shortest way to the gift.", "The elf moves right. What happens?", "Up?", "left, left"]
    return loaded.model.input_tokenizer(torch.stack([torch.from_numpy(loaded.text.encode(t, 24)) for t in texts]))


def slow_edges(lengths, steps):
    """Every (source, target, type) between flat node numbers, by the definition."""
    questions, dreams = lengths.shape
    nodes = [(q, n, t) for q in range(questions) for n in range(dreams) for t in range(steps) if t < int(lengths[q, n])]
    edges = set()
    for q, n, t in nodes:
        for other in nodes:
            if other == (q, n, t + 1):
                edges.add(((q, n, t), other, NEXT))
            if other == (q, n, t - 1):
                edges.add(((q, n, t), other, PREVIOUS))
            if other[0] == q and other[1] != n and other[2] == t:
                edges.add(((q, n, t), other, SIBLING))
    return nodes, edges


@pytest.mark.parametrize("seed", range(6))
def test_edges_equal_a_slow_loop(seed):
    generator = torch.Generator().manual_seed(seed)
    questions, dreams, steps = (int(torch.randint(1, 6, (), generator=generator)) for _ in range(3))
    lengths = torch.randint(0, steps + 1, (questions, dreams), generator=generator)
    graph = build_graph(lengths, steps)
    nodes, edges = slow_edges(lengths, steps)
    places = [(i // (dreams * steps), i // steps % dreams, i % steps) for i in graph.node.tolist()]
    assert places == nodes
    found = [
        (places[a], places[b], kind)
        for a, b, kind in zip(*graph.edge_index.tolist(), graph.edge_type.tolist(), strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == edges


@pytest.mark.parametrize("length", [0, 3])
def test_dreams_all_of_one_length(length):
    graph = build_graph(torch.full((2, 4), length), 3)
    assert len(graph.node) == 2 * 4 * length
    assert graph.edge_index.shape[1] == 2 * (4 * 2 * max(0, length - 1) + 4 * 3 * length)


@torch.no_grad()
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 0, 1), (2, 1, 0)])
def test_the_order_of_the_dreams_does_not_matter(loaded, order):
    model, prompt = loaded.model, prompts(loaded)
    dreams = random_dreams(loaded)
    before, after = model.read(*dreams, prompt), model.read(*(part[:, list(order)] for part in dreams), prompt)
    torch.testing.assert_close(after.focus_logits[:, :-1], before.focus_logits[:, list(order)], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.focus_logits[:, -1], before.focus_logits[:, -1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.value, before.value, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.nodes, before.nodes[:, list(order)], atol=1e-4, rtol=1e-4)
    assert (before.focus_logits[:, 0] - before.focus_logits[:, 1]).abs().min() > 1e-3  # the dreams do differ
    answers = [model.answer(reading, prompt) for reading in (before, after)]
    assert answers[0].tokens.tolist() == answers[1].tokens.tolist()
    torch.testing.assert_close(answers[0].logp, answers[1].logp, atol=1e-4, rtol=1e-4)
    where = [*order, DREAMS]
    assert [where[f] for f in answers[1].focus.tolist()] == answers[0].focus.tolist()
    for focus in range(DREAMS):  # whichever dream is read, the same answer comes out of it
        chosen = torch.full((QUESTIONS,), focus)
        moved = torch.full((QUESTIONS,), order.index(focus))
        scores = [
            model.score_answer(reading, prompt, f, answers[0].tokens).logp
            for reading, f in ((before, chosen), (after, moved))
        ]
        torch.testing.assert_close(scores[0], scores[1], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_steps_past_the_end_of_a_dream_do_not_matter(loaded):
    frames, actions, beliefs, lengths = random_dreams(loaded)
    prompt = prompts(loaded)
    before = loaded.model.read(frames, actions, beliefs, lengths, prompt)
    other_frames, other_actions, other_beliefs, _ = random_dreams(loaded, seed=1)
    over = torch.arange(STEPS) >= lengths.unsqueeze(-1)
    assert over.any()
    past = torch.cat([torch.zeros_like(over[..., :1]), over], dim=-1).unsqueeze(-1)
    after = loaded.model.read(
        torch.where(past, other_frames, frames),
        torch.where(over, other_actions, actions),
        torch.where(over, other_beliefs, beliefs),
        lengths,
        prompt,
    )
    for name in ("nodes", "focus_logits", "value", "mask"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=0, rtol=0)
    assert (before.mask == ~over).all()
    assert (before.nodes[over] == 0).all()


@torch.no_grad()
def test_room_for_longer_dreams_does_not_matter(loaded):
    frames, actions, beliefs, lengths = random_dreams(loaded)
    before = loaded.model.read(frames, actions, beliefs, lengths, prompts(loaded))
    wider = [torch.cat([part, part[:, :, :3]], dim=2) for part in (frames, actions, beliefs)]
    after = loaded.model.read(*wider, lengths, prompts(loaded))
    for name in ("focus_logits", "value"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(after.nodes[:, :, :STEPS], before.nodes, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("part", ["what", "result", "action", "belief"])
def test_every_part_of_every_step_matters(loaded, part):
    lengths = torch.full((QUESTIONS, DREAMS), STEPS)
    before = loaded.model.read(*random_dreams(loaded, lengths=lengths), prompts(loaded))
    for step in range(STEPS):
        frames, actions, beliefs, lengths = random_dreams(loaded, lengths=lengths)
        if part in ("what", "result"):
            place = frames[:, 1, step + (part == "result"), 3]
            place[:] = (place + 7) % loaded.model.config.num_codes
        else:
            values = actions if part == "action" else beliefs
            values[:, 1, step] = (values[:, 1, step] + 1) % 4
        after = loaded.model.read(frames, actions, beliefs, lengths, prompts(loaded))
        assert ((after.focus_logits - before.focus_logits)[:, 1].abs() > 1e-6).all()
        assert ((after.nodes - before.nodes)[:, 0].abs().amax((1, 2)) > 1e-6).all()  # siblings hear of it


@torch.no_grad()
def test_the_order_of_the_steps_matters(loaded):
    frames, actions, beliefs, lengths = random_dreams(loaded, lengths=torch.full((QUESTIONS, DREAMS), STEPS))
    before = loaded.model.read(frames, actions, beliefs, lengths, prompts(loaded))
    back = loaded.model.read(frames.flip(2), actions.flip(2), beliefs.flip(2), lengths, prompts(loaded))
    assert ((back.focus_logits - before.focus_logits)[:, :-1].abs() > 1e-5).all()


@torch.no_grad()
def test_questions_do_not_see_each_other(loaded):
    dreams, prompt = random_dreams(loaded), prompts(loaded)
    together = loaded.model.read(*dreams, prompt)
    for q in range(QUESTIONS):
        one = slice(q, q + 1)
        alone = loaded.model.read(*(part[one] for part in dreams), type(prompt)(*(part[one] for part in prompt)))
        for name in ("nodes", "focus_logits", "value"):
            torch.testing.assert_close(getattr(alone, name), getattr(together, name)[one], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_question_matters(loaded):
    dreams, prompt = random_dreams(loaded), prompts(loaded)
    before = loaded.model.read(*dreams, prompt)
    after = loaded.model.read(*dreams, type(prompt)(*(part.roll(1, 0) for part in prompt)))
    assert ((after.focus_logits - before.focus_logits).abs().amax(1) > 1e-3).all()
