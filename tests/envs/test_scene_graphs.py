import itertools
from collections import Counter

import numpy as np
import pytest
from annotated import CELL, COLOURS, GenomeFiles, drawn, small_world

from envs.annotations.graph_scene import patches_of
from envs.annotations.graphs import plain_predicate
from envs.annotations.records import ImageInfo
from envs.conformance import check_world
from envs.questions import stream
from envs.world import Split, WorldError, random_play, roll
from envs.worlds.scene_graphs import SceneGraph


def follow(graph, labels, action):
    """What ``action`` (in words) lights, by going through the annotations."""
    things, relations = graph
    if action.startswith("look at the "):
        found = {label for label in things if things[label][0] == action.removeprefix("look at the ")}
        found &= {label for r in relations for label in (r[0], r[2])}  # only what relations mention is known
    else:
        found = {o for s, p, o in relations if s in labels and plain_predicate(p.lower()) == action}
    return found or labels


def picture_of(scene, things, labels):
    """The start's picture with the cells of ``labels`` lit."""
    start = scene.frame(scene.start)
    lit = np.zeros(start.shape[:2], bool)
    for label in labels:
        row, column = things[label][2] // CELL * 32, things[label][1] // CELL * 32
        lit[row : row + 32, column : column + 32] = True
    return np.where(lit[:, :, None], start, start.astype(int) * 4 // 10) if labels else start


def test_actions_are_names_and_predicates_most_frequent_first(graph_world, annotations):
    names, predicates = Counter(), Counter()
    for things, relations in annotations.values():
        for subject, predicate, target in relations:
            names.update((things[subject][0], things[target][0]))
            predicates[predicate.lower().removeprefix("is ").removesuffix(" a")] += 1
    by_count = [sorted(c, key=lambda w: (-c[w], w)) for c in (names, predicates)]
    assert list(graph_world.actions) == [f"look at the {n}" for n in by_count[0]] + by_count[1]
    assert len(set(graph_world.actions)) == len(graph_world.actions) and not any("," in a for a in graph_world.actions)


def test_the_light_goes_where_the_annotations_say(graph_world, annotations):
    moved = 0
    for number in range(1, 41):
        graph = annotations[number]
        scene = graph_world.scene({"image_id": number})
        assert scene.grid == (6, 8) and scene.frame(scene.start).shape == (96, 128, 3)
        for seed in range(4):
            state, labels = scene.start, set()
            for action in random_play(scene, len(graph_world.actions), 8, stream(number, seed)).actions:
                before = state
                state, _ = scene.step(state, action)
                labels = follow(graph, labels, graph_world.actions[action])
                moved += state != before
                assert (scene.frame(state) == picture_of(scene, graph[0], labels)).all()
                assert hash(state) is not None
    assert moved > 500


def test_the_start_shows_the_image(graph_world, annotations):
    things, _ = annotations[5]
    frame = graph_world.scene({"image_id": 5}).frame(())
    for name, x, y, *_ in things.values():
        middle = frame[y * 96 // 240 + 6 : y * 96 // 240 + 26, x * 96 // 240 + 6 : x * 96 // 240 + 26]
        assert np.abs(middle.astype(int) - COLOURS[name]).max() < 12


def test_all_frames_of_a_scene_are_made_of_its_patches_lit_or_dimmed(graph_world):
    rng = stream(8)
    for _ in range(30):
        scene = graph_world.sample_scene(rng, Split.TRAIN, 8)
        patches = set()
        for _ in range(10):
            for state in random_play(scene, len(graph_world.actions), 8, rng).states:
                frame = scene.frame(state).reshape(6, 16, 8, 16, 3).swapaxes(1, 2).reshape(48, -1)
                patches |= {patch.tobytes() for patch in frame}
        assert len(patches) <= 2 * 48


def test_answers_are_what_the_annotations_say_and_nothing_else_is_right(graph_world, annotations):
    topics = Counter()
    for question in drawn(graph_world, 400):
        graph = annotations[question.scene.image.id]
        labels = set()
        for step, action in enumerate(question.script):
            labels = follow(graph, labels, graph_world.actions[action])
            assert step == len(question.script) - 1 or len(labels) == 1  # "the" dog, "that" thing
        (name,) = {graph[0][label][0] for label in labels}
        truth = graph_world.tell(question, roll(question.scene, question.script))
        assert truth == f"the {name}"
        for answer in (truth, f"A {name}.", f" {name.upper()}"):
            assert graph_world.verify(question, answer).exact
        for answer in ("", "nothing", "the", f"{truth} and the sky", *(f"the {n}" for n in COLOURS if n != name)):
            assert not graph_world.verify(question, answer).exact
        assert not graph_world.verify(question, "").valid
        topics[question.topic, len(question.script)] += 1
        words = [graph_world.actions[a].removeprefix("look at the ") for a in question.script]
        assert [w for w in words if w not in question.text] == []
        assert name not in question.text.lower().replace("that", "").split() or name == words[0]
    assert set(topics) == {("relation", 2), ("chain", 3)} and min(topics.values()) > 100


def test_dreams_on_script_support_the_answer(graph_world):
    question = next(q for q in drawn(graph_world, 20) if q.topic == "chain")
    on, off = roll(question.scene, question.script), roll(question.scene, question.script[:1] * 3)
    assert graph_world.true_answer(question, [off, on, off]) == ([1], graph_world.tell(question, on))
    assert graph_world.tell(question, off) == "nothing"
    assert graph_world.wordings("the car") == ["the car"]


def test_no_constant_answer_is_right_often(graph_world):
    counts = {"relation": Counter(), "chain": Counter()}
    for question in drawn(graph_world, 2000):
        counts[question.topic][graph_world.tell(question, roll(question.scene, question.script))] += 1
    for found in counts.values():
        assert len(found) == len(COLOURS)
        assert found.most_common(1)[0][1] / found.total() < 0.2  # 1/8 if it were even


def test_short_dreams_are_asked_about_one_relation(graph_world):
    assert {q.topic for q in drawn(graph_world, 60, length=2)} == {"relation"}
    with pytest.raises(WorldError, match="a dream of 1 step is too short"):
        next(drawn(graph_world, 1, length=1))


def asked(scene, world):
    """What can be asked, in words."""
    names, predicates = world.words.names, world.words.predicates
    found = [*scene.relations, *scene.chains]
    return {(names[a.subject], *(predicates[p] for p in a.predicates), names[a.answer]) for a in found}


def test_only_what_is_clear_is_asked(tmp_path):
    things = {
        "man": ("man", 0, 0, CELL, CELL),
        "dog": ("dog", CELL, 0, CELL, CELL),
        "car": ("car", 2 * CELL, 0, CELL, CELL),
        "tree": ("tree", 3 * CELL, 0, CELL, CELL),
        "other tree": ("tree", 0, CELL, CELL, CELL),
        "street": ("street", 0, 0, 320, 240),  # covers everything
        "hat": ("hat", 4, 0, CELL, CELL - 5),  # cannot be told from the man
    }
    relations = [
        ("man", "near", "dog"),
        ("man", "near", "car"),  # two answers
        ("man", "behind", "tree"),
        ("man", "behind", "other tree"),  # one answer
        ("tree", "under", "car"),  # which tree?
        ("dog", "in", "car"),
        ("car", "under", "tree"),
        ("tree", "by", "dog"),
        ("car", "by", "dog"),  # back to the dog from the car
        ("dog", "on", "street"),
        ("dog", "on", "car"),  # two, of which one cannot be shown
        ("man", "wears", "hat"),
        ("hat", "over", "dog"),
    ]
    world, scene = small_world(tmp_path, things, relations)
    assert asked(scene, world) == {
        ("man", "behind", "tree"),
        ("dog", "in", "car"),
        ("car", "under", "tree"),
        ("car", "by", "dog"),
        ("dog", "in", "under", "tree"),
        ("car", "under", "by", "dog"),
    }
    assert len(scene.masks) == 5


def test_a_rare_answer_makes_the_frequent_one_unclear(tmp_path):
    things = {n: (n, i * CELL, 0, CELL, CELL) for i, n in enumerate(("dog", "car", "tree"))}
    relations = [("dog", "near", "car"), ("dog", "in", "car"), ("dog", "near", "tree")]
    world, scene = small_world(tmp_path / "two", things, relations, num_names=2)
    assert world.words.names == ("dog", "car") and asked(scene, world) == {("dog", "in", "car")}
    assert str(world.report) == "2 records used; 1 left out (1 rare or long word)"
    world, scene = small_world(tmp_path / "all", things, [*relations, relations[0]])
    assert asked(scene, world) == {("dog", "in", "car")} and world.report.left_out == {"repetition": 1}


def test_a_name_that_something_hidden_has_too_is_not_asked_about(tmp_path):
    things = {
        "dog": ("dog", 0, 0, CELL, CELL),
        "car": ("car", CELL, 0, CELL, CELL),
        "man": ("man", 0, CELL, CELL, CELL),
        "other dog": ("dog", 0, CELL, CELL, CELL - 5),  # under the man
    }
    relations = [("dog", "in", "car"), ("man", "near", "car"), ("other dog", "in", "car"), ("car", "on", "car")]
    world, scene = small_world(tmp_path, things, relations)
    assert asked(scene, world) == {("man", "near", "car")}
    assert str(world.report) == "3 records used; 1 left out (1 relation with itself)"


def test_rare_answers_are_drawn_as_often_as_frequent_ones(tmp_path):
    files = GenomeFiles(tmp_path)
    places = {name: (name, i % 4 * CELL, i // 4 * CELL, CELL, CELL) for i, name in enumerate(COLOURS)}
    for number in range(1, 61):
        rare = ("man", "in", "house") if number % 10 == 0 else ("man", "in", "tree")
        files.add(number, places, [("man", "near", "car"), ("dog", "near", "car"), rare], width=300 + number)
    world = SceneGraph(files.write())
    counts = Counter(world.tell(q, roll(q.scene, q.script)) for q in drawn(world, 900))
    assert counts.keys() == {"the car", "the tree", "the house"}  # annotated 120, 54 and 6 times
    assert all(0.2 < n / 900 < 0.47 for n in counts.values()), counts


def test_patches_by_hand():
    image = ImageInfo(1, 320, 240, "1.jpg")
    assert np.argwhere(patches_of([80, 0, 120, 40], image, (6, 8))).tolist() == [[0, 2]]
    assert np.argwhere(patches_of([30, 0, 90, 40], image, (6, 8))).tolist() == [[0, 0], [0, 1], [0, 2]]
    assert np.argwhere(patches_of([31, 0, 89, 40], image, (6, 8))).tolist() == [[0, 1]]
    assert np.argwhere(patches_of([158, 199, 161, 203], image, (6, 8))).tolist() == [[5, 3]]  # smaller than a patch
    assert patches_of([0, 0, 320, 240], image, (6, 8)).all()


@pytest.mark.parametrize(
    "width, height, size, grid",
    [(320, 240, 8, (6, 8)), (240, 320, 4, (4, 3)), (300, 300, 8, (8, 8)), (900, 60, 8, (1, 8))],
)
def test_pictures_keep_their_proportions(tmp_path, width, height, size, grid):
    files = GenomeFiles(tmp_path)
    files.add(
        9, {"a": ("dog", 0, 0, 50, 50), "b": ("car", 150, 10, 50, 50)}, [("a", "near", "b")], width=width, height=height
    )
    world = SceneGraph(files.write(), patch_size=8)
    scene = world.scene({"image_id": 9, "size": size})
    assert scene.grid == grid and scene.frame(()).shape == (8 * grid[0], 8 * grid[1], 3)
    assert world.grid_at(size) == (size, size)


def test_the_world_holds_to_the_interface(genome_root):
    world = SceneGraph(genome_root)
    world.sizes = (4, 6, 8)
    assert [finding for finding in check_world(world) if not finding.ok] == []


def test_splits_are_disjoint_and_scenes_reproducible(graph_world, genome_root):
    found = {split: [graph_world.sample_scene(stream(5, i), split, 8) for i in range(60)] for split in Split}
    again = SceneGraph(genome_root)
    for split in Split:
        assert [s.key for s in found[split]] == [again.sample_scene(stream(5, i), split, 8).key for i in range(60)]
    keys = {split: {s.key for s in scenes} for split, scenes in found.items()}
    for a, b in itertools.combinations(Split, 2):
        assert not keys[a] & keys[b]
    assert len(keys[Split.TRAIN]) > 25 and all(keys.values())
    numbers = {split: {s.image.id for s in scenes} for split, scenes in found.items()}
    small = {split: {graph_world.sample_scene(stream(6, i), split, 5).image.id for i in range(60)} for split in Split}
    assert not numbers[Split.TRAIN] & small[Split.TEST] and not numbers[Split.TEST] & small[Split.TRAIN]
