import pytest
from annotated import CELL, GenomeFiles, random_graph, small_world

from dreamrl.nn.text import TextTokenizer
from envs.annotations.graph_words import Words, be, follows_is
from envs.annotations.graphs import plain_predicate
from envs.questions import stream
from envs.world import PictureScene, QuestionKind, Split, roll
from envs.worlds.scene_graphs import SceneGraph


@pytest.fixture(scope="module")
def annotations():
    """Image id -> (things, relations)."""
    rng = stream(3, 1)
    return {number: random_graph(rng) for number in range(1, 121)}


@pytest.fixture(scope="module")
def root(tmp_path_factory, annotations):
    files = GenomeFiles(tmp_path_factory.mktemp("vg"))
    for number, (things, relations) in annotations.items():
        files.add(number, things, relations)
    return files.write()


@pytest.fixture(scope="module")
def world(root):
    return SceneGraph(root)


def drawn(world, count, split=Split.TRAIN, length=8):
    for index in range(count):
        rng = stream(21, index)
        yield world.draw(world.sample_scene(rng, split, 8), True, length, rng)


@pytest.mark.parametrize(
    "predicate, after_is",
    [
        ("next to", True),
        ("on", True),
        ("riding", True),
        ("parked on", True),
        ("made of", True),
        ("wears", False),
        ("has", False),
    ],
)
def test_predicates_are_put_into_sentences(predicate, after_is):
    assert follows_is(predicate) is after_is
    words = Words(("man", "shoes", "grass", "people"), (predicate, "behind"))
    verb = f"is {predicate}" if after_is else predicate
    assert words.question(0, (0,), 1) == f"The man {verb} what?"
    assert words.question(0, (0, 1), 0) == f"The man {verb} something. What is that thing behind?"
    assert words.parse(f"the MAN {verb}  what") == (0, (0,))
    assert [be(n) for n in words.names] == ["is", "are", "is", "are"]
    assert words.question(1, (1,), 0) == "What are the shoes behind?"


@pytest.mark.parametrize(
    "text, plain",
    [
        ("on", "on"),
        ("is on", "on"),
        ("are in front of", "in front of"),
        ("wearing a", "wearing"),
        ("is", "is"),
        ("on the", "on"),
    ],
)
def test_predicates_that_mean_the_same(text, plain):
    assert plain_predicate(text) == plain


def test_texts_are_short_and_in_the_corpus(world):
    corpus = world.corpus()
    text = TextTokenizer.train(corpus)
    known = {word.strip(".?") for sentence in corpus for word in sentence.lower().split()}
    for question in drawn(world, 200):
        assert {w.strip(".?") for w in question.text.lower().split()} <= known
        text.encode(question.text, 28)
        assert (answer := world.tell(question, roll(question.scene, question.script))) in corpus
        text.encode(answer, 24, end=True)


def test_questions_are_recognised_from_their_text_alone(world):
    texts = set()
    for question in drawn(world, 150):
        parts = world.words.parts(question.script)
        for paraphrase in range(len(world.words.templates(parts[1]))):
            text = world.words.question(*parts, paraphrase)
            found = world.interpret(f"  {text.upper()} ", question.scene)
            assert (found.kind, found.script, found.topic) == (QuestionKind.PREDICT, question.script, question.topic)
            texts.add(text)
        found = world.interpret(question.text, PictureScene(question.scene.picture, 16))
        assert found is not None and found.script == question.script
    assert len(texts) > 200
    scene = world.scene({"image_id": 1})
    for text in ("", "What is the dog?", "What is the unicorn on?", "What is the dog next to? And the car?", "riding"):
        assert world.interpret(text, scene) is None


def test_what_the_annotations_do_not_answer_is_not_taken_for_a_question(tmp_path):
    things = {"dog": ("dog", 0, 0, CELL, CELL), "car": ("car", CELL, 0, CELL, CELL)}
    world, scene = small_world(tmp_path, things, [("dog", "near", "car")])
    assert world.interpret("What is the dog near?", scene).script == (world.actions.index("look at the dog"), 2)
    assert world.interpret("What is the car near?", scene) is None
    assert world.interpret("The dog is near something. What is that thing near?", scene) is None
