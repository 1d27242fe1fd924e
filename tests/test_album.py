"""What training shows of its dreams, looked up in the pixels of TensorBoard's files and in the file for a watcher."""

import io

import numpy as np
import pytest
import torch
from event_files import events
from PIL import Image

from dreamrl import drawing
from dreamrl.album import CANDIDATES, question_at, show_dreams
from dreamrl.dream_record import NEWEST, read_record
from dreamrl.evaluate import held_out
from dreamrl.filmstrip import Layout
from dreamrl.generate import graph_of, to_dreams
from dreamrl.graph_view import draw_graph, edge_colour
from dreamrl.imagine import answer, imagine
from dreamrl.metrics import MetricsWriter
from dreamrl.plain import train_plain
from dreamrl.saving import load_pretrained, new_model, weights
from dreamrl.settings import load_settings
from envs.world import Split


def pictures(directory, stage):
    """(tag, step) -> picture, as TensorBoard's files of ``stage`` have them."""
    found = {}
    for event in events(directory, stage):
        for value in event.summary.value:
            if value.HasField("image"):
                encoded = Image.open(io.BytesIO(value.image.encoded_image_string))
                assert (value.tag, event.step) not in found, "shown twice"
                found[value.tag, event.step] = np.asarray(encoded.convert("RGB"))
    return found


@pytest.fixture(scope="module")
def shown(loaded, tmp_path_factory):
    """Directory, pictures, question, and what the model dreams about it, dreamed once more."""
    directory = tmp_path_factory.mktemp("run")
    writer = MetricsWriter(directory, resume=False)
    show_dreams(loaded, writer, "ppo", 7)
    writer.close()
    _, question = question_at(loaded, 7)
    imagined = imagine(loaded, [question], 3, loaded.run.seed, loaded.run.eval.temperature)
    return directory, pictures(directory, "ppo"), question, imagined


def expected(frame, truth, patch):
    """``frame`` as it is drawn: enlarged, with a red outline inside of each patch that differs from ``truth``."""
    scale = drawing.TARGET_SIDE // max(frame.shape[:2])
    large = frame.repeat(scale, 0).repeat(scale, 1)
    side = scale * patch
    for y in range(0, frame.shape[0], patch):
        for x in range(0, frame.shape[1], patch):
            a, b = (f[y : y + patch, x : x + patch].astype(float) for f in (frame, truth))
            if ((a - b) ** 2).mean() > drawing.PATCH_TOLERANCE**2:
                cell = large[y * scale : y * scale + side, x * scale : x * scale + side]
                cell[:2] = cell[-2:] = drawing.BAD
                cell[:, :2] = cell[:, -2:] = drawing.BAD
    return large


def test_the_filmstrip_shows_what_is_dreamed_above_what_is_true(loaded, shown):
    _, found, question, imagined = shown
    picture, batch, patch = found["ppo/dreams/filmstrip", 7], imagined.batch, loaded.world.patch_size
    layout = Layout.of(to_dreams(loaded, imagined, 0, None, True))
    start = question.scene.frame(question.scene.start)
    size = question.scene.grid[0] * question.scene.grid[1]

    def at(x, y, block):
        return (picture[y : y + block.shape[0], x : x + block.shape[1]] == block).all()

    asked = loaded.model.codec.decode(batch.frames[0, 0, 0, :size].astype(np.int64), question.scene.grid)
    block, x = expected(asked, asked, patch), layout.frame_x(0)
    top = next(y for y in range(picture.shape[0]) if at(x, y, block))
    false, steps = 0, 0
    for n in range(3):
        state, y = question.scene.start, top + n * layout.height
        assert at(layout.frame_x(0), y, block)
        for t in range(int(batch.lengths[0, n])):
            state, _ = question.scene.step(state, int(batch.actions[0, n, t]))
            truth = question.scene.frame(state)
            dreamed = loaded.model.codec.decode(batch.frames[0, n, t + 1, :size].astype(np.int64), question.scene.grid)
            x = layout.frame_x(t + 1)
            assert at(x, y, expected(dreamed, truth, patch)), f"dream {n} step {t}"
            assert at(x, y + layout.true_line, expected(truth, dreamed, patch)), f"truth of dream {n} step {t}"
            false += (expected(dreamed, truth, patch) == drawing.BAD).all(-1).any()
            steps += 1
    assert steps >= 3 and false == steps, "a codec that was not trained paints nothing right"
    assert start.shape == asked.shape


def test_the_graph_is_that_in_which_the_dreams_are_read(loaded, shown):
    _, found, _, imagined = shown
    data = graph_of(loaded, imagined, answer(loaded, imagined, 3))
    assert data["num_nodes"] == imagined.batch.lengths.sum()
    picture = found["ppo/dreams/graph", 7]
    assert (picture == np.asarray(draw_graph(data))).all()
    heard = {edge["type"] for edge in data["edges"] if edge["weight"] > 0}
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert heard and all(edge_colour(kind) in colours for kind in heard)


def test_the_record_for_a_watcher_holds_the_same_dreams(loaded, shown):
    directory, _, question, imagined = shown
    record = read_record(directory / NEWEST)
    answers = answer(loaded, imagined, 3)
    assert (record.stage, record.step, record.question, record.answer) == ("ppo", 7, question.text, answers.texts[0])
    for ours, theirs in zip(record.dreams, to_dreams(loaded, imagined, 0, answers, True), strict=True):
        assert (ours.actions, ours.belief, ours.focus) == (theirs.actions, theirs.belief, theirs.focus)
        assert ours.value == pytest.approx(theirs.value)
        for a, b in zip(ours.triplets, theirs.triplets, strict=True):
            assert all((getattr(a, k) == getattr(b, k)).all() for k in ("what", "result", "true_result"))
            assert (a.faithful, a.experts) == (b.faithful, b.experts)


def test_another_model_shows_other_dreams(shown, make_loaded, tmp_path):
    other = make_loaded()
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(-1.0)
    writer = MetricsWriter(tmp_path, resume=False)
    show_dreams(other, writer, "ppo", 7)
    writer.close()
    for key, picture in pictures(tmp_path, "ppo").items():
        assert picture.shape != shown[1][key].shape or (picture != shown[1][key]).any()


def test_training_is_not_touched(make_loaded, tmp_path):
    loaded = make_loaded()
    before = {name: tensor.clone() for name, tensor in weights(loaded.model).items()}
    torch.manual_seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    writer = MetricsWriter(tmp_path, resume=False)
    show_dreams(loaded, writer, "pretrain", 1)
    writer.close()
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(loaded.model).items())
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()


def test_the_question_is_a_held_out_one_that_takes_the_longest_way(loaded):
    place, question = question_at(loaded, 3)
    assert place == [] and question.text == question_at(loaded, 900)[1].text
    world, length = loaded.world, loaded.run.model.dream_length
    others = held_out(world, (max(world.sizes),), CANDIDATES, loaded.run.seed, Split.VALIDATION, length)
    test = held_out(world, (max(world.sizes),), CANDIDATES, loaded.run.seed, Split.TEST, length)
    assert question.scene.key in {q.scene.key for q in others} - {q.scene.key for q in test}
    ways = [len(q.script) or q.scene.distance(q.scene.start) for q in others]
    assert (len(question.script) or question.scene.distance(question.scene.start)) == max(
        w for w in ways if w <= length
    )


def test_of_a_mixture_every_world_is_shown_under_its_name(tmp_path):
    tiny = ["model.embedding_dim=16", "model.code_levels=[4,4]", "model.dream_length=3", "model.num_dream_sequences=2"]
    loaded = new_model(load_settings(overrides=[*tiny, "world.worlds=[frozen_lake@3-4*5, minigrid]"]))
    asked = {place[0]: question for place, question in (question_at(loaded, step) for step in range(5, 65, 5))}
    assert set(asked) == {"spatial.frozen_lake", "spatial.minigrid"}
    assert all(question.scene.label == name for name, question in asked.items())
    writer = MetricsWriter(tmp_path, resume=False)
    show_dreams(loaded, writer, "ppo", 5)
    writer.close()
    (name,) = question_at(loaded, 5)[0]
    assert set(pictures(tmp_path, "ppo")) == {(f"ppo/dreams/{kind}/{name}", 5) for kind in ("filmstrip", "graph")}


TINY = [
    "world.sizes=[2]", "model.embedding_dim=16", "model.num_heads=2", "model.dream_length=3",
    "model.num_dream_sequences=2", "pretrain.codec_steps=10", "pretrain.steps=2", "pretrain.scenes_per_step=2",
    "pretrain.num_workers=1", "ppo.iterations=1", "ppo.questions_per_iteration=4", "ppo.minibatch_size=4",
    "ppo.num_learners=1", "ppo.replay_scenes=1",
]  # fmt: skip


@pytest.mark.slow
def test_both_stages_of_a_training_show_their_dreams(tmp_path):
    """The last pictures of a stage are those of the model that it leaves; going on at the end shows nothing twice."""
    run = load_settings(overrides=TINY)
    train_plain(run, tmp_path)
    train_plain(run, tmp_path)
    for stage, model, step in (("pretrain", "pretrained", 2), ("ppo", "model", 1)):
        again = tmp_path / f"again-{stage}"
        writer = MetricsWriter(again, resume=False)
        show_dreams(load_pretrained(tmp_path / model, trusted=True), writer, stage, step)
        writer.close()
        found, ours = pictures(tmp_path, stage), pictures(again, stage)
        assert set(found) == set(ours) == {(f"{stage}/dreams/{kind}", step) for kind in ("filmstrip", "graph")}
        assert all((found[key] == ours[key]).all() for key in ours)
