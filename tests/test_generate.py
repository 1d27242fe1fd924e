"""Answering one prompt: what comes back, in which form, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image

from dreamrl.cli import main
from dreamrl.config import PretrainConfig
from dreamrl.data import RandomPlay
from dreamrl.errors import UserError
from dreamrl.generate import generate, generate_command
from dreamrl.pretrain import train_codec
from dreamrl.saving import save_pretrained
from envs.questions import stream
from envs.world import Split, WorldError, split_of

PLAN = "Find the shortest safe path to the gift."
BOARD = {"desc": ["SFFF", "FFHF", "FFFF", "FHFG"]}


def taught(loaded):
    """``loaded`` with an image codec that knows the pictures of its world."""
    loaded = dataclasses.replace(loaded, run=dataclasses.replace(loaded.run, pretrain=PretrainConfig(codec_steps=150)))
    with torch.no_grad():
        for part in (loaded.model.codec.encoder[2], loaded.model.codec.encoder[3]):
            part.reset_parameters()
        loaded.model.dream_generator.belief.bias[0] += 2.0  # dreams of several steps
    train_codec(loaded, RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec))
    return loaded


@pytest.fixture(scope="module")
def blind(make_loaded):
    return taught(make_loaded(model={"codec_hidden": 32}))


@pytest.fixture(scope="module")
def seeing(make_loaded):
    return taught(make_loaded(model={"codec_hidden": 32, "vision_backbone": "lite"}))


@pytest.fixture
def scene(blind):
    return blind.world.scene(BOARD)


def same_dreams(ours, theirs):
    for mine, other in zip(ours["dreams"], theirs["dreams"], strict=True):
        assert (mine.actions, mine.value, mine.focus) == (other.actions, other.value, other.focus)
        for a, b in zip(mine.triplets, other.triplets, strict=True):
            assert np.array_equal(a.what, b.what) and np.array_equal(a.result, b.result)


def test_a_scene_may_be_described(blind, scene):
    described = generate(blind, PLAN, scene=BOARD, seed=1)
    same_dreams(described, generate(blind, PLAN, scene=scene, seed=1))
    with pytest.raises(WorldError, match='"desc" is missing'):
        generate(blind, PLAN, scene={})


def test_the_seed_draws_a_board_that_was_never_trained_on(blind):
    results = [generate(blind, seed=seed) for seed in (0, 0, 1)]
    pictures = [result["dreams"][0].triplets[0].what for result in results]
    assert np.array_equal(pictures[0], pictures[1])
    assert pictures[0].shape != pictures[2].shape or not np.array_equal(pictures[0], pictures[2])
    assert results[0]["text"] == results[1]["text"] and results[0]["confidence"] == results[1]["confidence"]
    rng = stream(0, 10)
    drawn = blind.world.sample_scene(rng, Split.TEST, int(rng.choice(blind.world.sizes)))
    assert split_of("/".join(drawn.desc)) is Split.TEST
    shown = generate(blind, seed=0)["dreams"][0].triplets[0]
    assert np.abs(shown.what.astype(int) - drawn.frame(drawn.start)).mean() < 0.08 * 255  # as the codec shows it


def test_dreams_are_shown_beside_what_the_simulator_does(blind, scene):
    result = generate(blind, PLAN, scene=scene, num_dreams=4, seed=1)
    lengths, codec = [], blind.model.codec
    for dream in result["dreams"]:
        state = scene.start
        lengths.append(len(dream.triplets))
        assert np.array_equal(dream.triplets[0].what, codec.decode(codec.encode(scene.frame(state)), (4, 4)))
        for before, after in zip(dream.triplets, dream.triplets[1:], strict=False):
            assert np.array_equal(before.result, after.what) and before.belief == "continue"
        for triplet in dream.triplets:
            state, _ = scene.step(state, blind.world.actions.index(triplet.action))
            truth = scene.frame(state)
            assert np.array_equal(triplet.true_result, truth)
            shown = codec.decode(codec.encode(truth), (4, 4))
            assert triplet.faithful == np.array_equal(triplet.result, shown)
            assert sum(triplet.experts) == pytest.approx(1, abs=1e-3)
    assert max(lengths) > 1
    assert result["graph_data"]["num_nodes"] == sum(lengths)
    assert [dream.focus for dream in result["dreams"]] == [n == result["focus"] for n in range(4)]
    assert len(result["rewards"]) == 4 and all(0 <= v <= 1 for part in result["rewards"] for v in part.values())
    assert result["verdict"] == blind.world.verify(blind.world.interpret(PLAN, scene), result["text"])
    assert result["question"] == PLAN and result["warnings"] == [] and 0 <= result["confidence"] <= 1


@pytest.mark.parametrize("mode", ["text", "image", "both"])
def test_the_output_is_what_was_asked_for(blind, scene, mode):
    result = generate(blind, PLAN, scene=scene, output_mode=mode)
    expected = {"text": result["text"], "image": result["image"]}
    assert result["output"] == (expected if mode == "both" else expected[mode])
    assert isinstance(result["text"], str)
    assert result["image"] is None if mode == "text" else result["image"].size == (64, 64)


def test_the_picture_is_made_of_what_the_codec_knows(blind, scene):
    """Each patch of it is one that the codec draws for some code."""
    picture = np.asarray(generate(blind, PLAN, scene=scene, output_mode="image")["output"])
    known = {blind.model.codec.decode(np.array([c]), (1, 1)).tobytes() for c in range(blind.run.model.num_codes)}
    for row in range(4):
        for column in range(4):
            assert picture[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].tobytes() in known


def texts(loaded, seeds, **choices):
    """Answers to one question from one dream, the greedy one, so that only the words depend on the seed."""
    scene = loaded.world.scene(BOARD)
    return [generate(loaded, PLAN, scene=scene, num_dreams=1, seed=seed, **choices)["text"] for seed in seeds]


def test_words_are_sampled_by_temperature_and_seed(blind):
    assert len(set(texts(blind, range(3)))) == 1  # greedy
    warm = texts(blind, range(3), temperature=1.5)
    assert warm == texts(blind, range(3), temperature=1.5) and len(set(warm)) == 3
    assert texts(blind, range(2), temperature=1.5, top_p=1e-6) == texts(blind, range(2))
    assert texts(blind, [0], temperature=0.0) == texts(blind, [0])


def test_an_answer_is_no_longer_than_allowed(blind):
    [whole], [short] = texts(blind, [0]), texts(blind, [0], max_length=2)
    ids = blind.text.encode(whole, 64).tolist()
    assert len([i for i in ids if i]) > 2
    assert len(short) < len(whole)


def test_a_picture_is_dreamed_about_like_the_scene_that_it_shows(blind, scene, tmp_path):
    frame = scene.frame(scene.start)
    Image.fromarray(frame).save(tmp_path / "board.png")
    checked = generate(blind, PLAN, scene=scene, seed=2)
    for images in (frame, [Image.fromarray(frame)], torch.from_numpy(frame.copy()), tmp_path / "board.png"):
        result = generate(blind, PLAN, images=images, seed=2)
        same_dreams(result, checked)
        assert (result["text"], result["confidence"]) == (checked["text"], checked["confidence"])
        assert result["rewards"] is None and result["verdict"] is None and result["warnings"] == []
        assert all(t.true_result is None and t.faithful is None for d in result["dreams"] for t in d.triplets)


def test_an_unfamiliar_picture_is_said_to_be_one(blind):
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    result = generate(blind, PLAN, images=noise)
    assert "unlike any that this model was trained on" in result["warnings"][0] and result["confidence"] == 0


def test_a_prompt_that_asks_nothing_is_answered_without_confidence(blind, scene):
    result = generate(blind, "Who are you?", scene=scene)
    assert result["warnings"] == ["the prompt asks nothing that this model was trained on"]
    assert result["confidence"] == 0 and result["verdict"] is None


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"output_mode": "video"}, r'output_mode \("video"\) must be one of text, image, both'),
        ({"num_dreams": 0}, r"num_dreams \(0\) must be between 1 and 1024"),
        ({"max_length": 0}, r"max_length \(0\) must be between 1 and"),
        ({"temperature": -1.0}, r"temperature \(-1.0\) must be between 0 and"),
        ({"temperature": float("nan")}, r"temperature \(nan\) must be between 0 and"),
        ({"top_p": 1.5}, r"top_p \(1.5\) must be between 0 and 1"),
        ({"prompt": "right " * 40}, r"^prompt: .*; shorten it$"),
        ({"images": "no/such.png"}, "no/such.png cannot be read as a picture"),
        (
            {"images": [np.zeros((32, 32, 3), np.uint8)] * 2},
            "2 images were given, but this model reads one; train with",
        ),
    ],
)
def test_mistakes_are_one_line(blind, choices, message):
    with pytest.raises(UserError, match=message) as caught:
        generate(blind, **choices)
    assert "\n" not in str(caught.value)


def test_a_picture_and_a_scene_contradict_each_other(blind, scene):
    with pytest.raises(UserError, match="images and scene contradict each other"):
        generate(blind, PLAN, scene=scene, images=scene.frame(0))
    with pytest.raises(WorldError, match="both sides must be multiples of 16"):
        generate(blind, PLAN, images=np.zeros((20, 32, 3), np.uint8))


def test_further_pictures_are_read_in_their_order(seeing, scene):
    boards = [scene.frame(0), scene.frame(5), scene.frame(10)]
    shown = [[0], [0, 1], [0, 2], [0, 1, 2], [0, 2, 1]]
    values = [
        [d.value for d in generate(seeing, PLAN, images=[boards[i] for i in which], num_dreams=2)["dreams"]]
        for which in shown
    ]
    assert len({tuple(v) for v in values}) == len(shown)
    again = generate(seeing, PLAN, images=[boards[0], boards[1]], num_dreams=2)
    assert [d.value for d in again["dreams"]] == values[1]


def test_watching_changes_nothing(blind, scene, capsys):
    quiet = generate(blind, PLAN, scene=scene, seed=3)
    watched = generate(blind, PLAN, scene=scene, seed=3, watch_dreams=True)
    same_dreams(watched, quiet)
    assert watched["text"] == quiet["text"] and capsys.readouterr().out != ""


@pytest.fixture(scope="module")
def directory(blind, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "model"
    save_pretrained(blind, directory)
    return directory


def test_what_the_command_prints_is_plain(blind, directory, scene, tmp_path):
    plain = generate_command(directory, PLAN, "frozen_lake", BOARD, None, tmp_path / "out", output_mode="both", seed=4)
    result = generate(blind, PLAN, scene=scene, seed=4, output_mode="both")
    assert json.loads(json.dumps(plain)) == plain
    assert plain["output"] == result["text"] and plain["question"] == PLAN and plain["focus"] == result["focus"]
    assert plain["verdict"] == "not a plan that can be followed, so it counts as wrong"
    actions = [[step["action"] for step in dream] for dream in plain["dreams"]]
    assert actions == [list(dream.actions) for dream in result["dreams"]]
    assert plain["graph_data"] == {k: result["graph_data"][k] for k in ("num_nodes", "num_edges")}
    names = ["dreams.png", "dreams.gif", "answer.png", "graph.png"]
    assert plain["saved"] == [str(tmp_path / "out" / name) for name in names]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out" / "answer.png")), np.asarray(result["image"]))


def test_the_command_line_from_end_to_end(blind, directory, scene, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene.frame(0)).save("board.png")
    words = ["generate", str(directory), PLAN, "--image", "board.png", "--dreams", "2", "--max-length", "3"]
    assert main([*words, "--temperature", "1.5", "--top-p", "0.9", "--seed", "5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    choices = {"num_dreams": 2, "max_length": 3, "temperature": 1.5, "top_p": 0.9, "seed": 5}
    assert found["output"] == generate(blind, PLAN, images="board.png", **choices)["text"]
    assert found["rewards"] is None and found["verdict"] is None and len(found["dreams"]) == 2
    assert main([*words, "--image", "board.png"]) == 2
    assert "2 images were given, but this model reads one" in capsys.readouterr().err
