import pytest
from annotated import CELL, GenomeFiles, image_of, small_world, write_image

from envs.annotations import BadRecord
from envs.questions import stream
from envs.world import QuestionKind, Split, WorldError
from envs.worlds.scene_graphs import SceneGraph


@pytest.mark.parametrize(
    "options, problem",
    [
        ({}, '"image_id" is missing; give the id of an image, {"image_id": 2317993}'),
        ({"image": 1}, 'unknown option "image"; scene_graph takes {"image_id": 2317993}'),
        ({"image_id": 1, "seed": 1}, 'unknown option "seed"'),
        ({"image_id": "1"}, '"image_id" must be a whole number as in .*, got "1"'),
        ({"image_id": True}, '"image_id" must be a whole number'),
        ({"image_id": None}, "got null"),
        ({"image_id": 999}, r'"image_id" \(999\) is no image with a relation in the vocabulary; 1 is one'),
        ({"image_id": 1, "size": 9}, r"size \(9\) must be between 4 and 8"),
        ({"image_id": 1, "size": 5.5}, '"size" must be a whole number'),
    ],
)
def test_bad_options_are_one_clear_line(graph_world, options, problem):
    with pytest.raises(WorldError, match=problem) as caught:
        graph_world.scene(options)
    assert "\n" not in str(caught.value)


def test_a_world_without_its_files(tmp_path, monkeypatch, genome_root):
    monkeypatch.delenv("DREAMRL_SCENE_GRAPHS", raising=False)
    with pytest.raises(WorldError, match="give their directory as root or in DREAMRL_SCENE_GRAPHS"):
        SceneGraph()
    with pytest.raises(WorldError, match="relationships.json is missing"):
        SceneGraph(tmp_path)
    monkeypatch.setenv("DREAMRL_SCENE_GRAPHS", str(genome_root))
    assert SceneGraph().actions
    for wrong in ({"num_names": 0}, {"num_predicates": 200}, {"patch_size": 4}):
        with pytest.raises(WorldError, match=next(iter(wrong))):
            SceneGraph(genome_root, **wrong)
    with pytest.raises(WorldError, match="holds no relation that can be asked about: 0 records used"):
        small_world(tmp_path, {"a": ("dog", 0, 0, 9, 9), "b": ("car", 50, 0, 9, 9)}, [("a", "3 of", "b")])


def test_scripts_that_no_question_is_about(graph_world):
    scene = graph_world.scene({"image_id": 1})
    names = len(graph_world.words.names)
    for script in [(0,), (0, 1), (names, names), (0, names, names, names)]:
        with pytest.raises(WorldError, match="no question is about look at|no question is about"):
            graph_world.ask(scene, QuestionKind.PREDICT, stream(1), script)
    question = graph_world.ask(graph_world.sample_scene(stream(2), Split.TEST, 8), QuestionKind.PLAN, stream(1))
    assert question.kind is QuestionKind.PREDICT and question.script


def test_bad_records_and_images_are_raised_or_counted(tmp_path, annotations, monkeypatch):
    files = GenomeFiles(tmp_path)
    for number in range(1, 31):
        files.add(number, *annotations[number])
    files.relationships[0]["relationships"][0]["predicate"] = ""
    root = files.write()
    with pytest.raises(BadRecord, match='image 1, relationship .*"predicate" is empty'):
        SceneGraph(root)
    with pytest.warns(UserWarning, match=r"relationships.json: .*; 1 skipped \(1 empty text\)"):
        world = SceneGraph(root, skip_bad=True)
    assert world.report.skipped == {"empty text": 1}
    monkeypatch.setenv("DREAMRL_SCENE_GRAPHS_SKIP_BAD", "1")
    with pytest.warns(UserWarning, match="1 empty text"):
        strict = SceneGraph(root)
    monkeypatch.setenv("DREAMRL_SCENE_GRAPHS_SKIP_BAD", "yes")
    with pytest.raises(WorldError, match=r'DREAMRL_SCENE_GRAPHS_SKIP_BAD \("yes"\) must be 0 or 1'):
        SceneGraph(root)
    for number in range(1, 16):
        (root / "VG_100K" / f"{number}.jpg").unlink()
    write_image(root / "VG_100K" / "16.jpg", image_of([], 100, 100))
    with pytest.warns(UserWarning, match="an image is left out: .*relationships.json: image"):
        seen = {world.sample_scene(stream(7, i), Split.TRAIN, 8).image.id for i in range(200)}
    assert seen and min(seen) > 16
    lost = sum(len(table) for table in world.graphs.relations[:15])
    assert world.report.skipped["image file missing"] == lost
    assert world.report.skipped["image of another size"] == len(world.graphs.relations[15])
    strict.report.skip_bad = False
    with pytest.raises(BadRecord, match="image .*which cannot be read|not 320x240"):
        for i in range(200):
            strict.sample_scene(stream(7, i), Split.TRAIN, 8)


def test_a_split_that_no_image_is_of(tmp_path):
    things = {"dog": ("dog", 0, 0, CELL, CELL), "car": ("car", CELL, 0, CELL, CELL)}
    world, _ = small_world(tmp_path, things, [("dog", "near", "car")])
    failures = 0
    for split in Split:
        try:
            world.sample_scene(stream(1), split, 8)
        except WorldError as error:
            failures += "no scene of split" in str(error) and "among 1 images, 0 of them broken" in str(error)
    assert failures == 2
    with pytest.raises(WorldError, match=r"size \(3\) must be between 4 and 8"):
        world.sample_scene(stream(1), Split.TRAIN, 3)
