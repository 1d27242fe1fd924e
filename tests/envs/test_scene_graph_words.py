import pytest
from annotated import CELL, drawn, small_world

from dreamrl.nn.text import TextTokenizer
from envs.annotations.graph_words import Words, be, follows_is
from envs.annotations.graphs import plain_predicate
from envs.world import PictureScene, QuestionKind, roll


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


def test_texts_are_short_and_in_the_corpus(graph_world):
    corpus = graph_world.corpus()
    text = TextTokenizer.train(corpus)
    known = {word.strip(".?") for sentence in corpus for word in sentence.lower().split()}
    for question in drawn(graph_world, 200):
        assert {w.strip(".?") for w in question.text.lower().split()} <= known
        text.encode(question.text, 28)
        assert (answer := graph_world.tell(question, roll(question.scene, question.script))) in corpus
        text.encode(answer, 24, end=True)


def test_questions_are_recognised_from_their_text_alone(graph_world):
    texts = set()
    for question in drawn(graph_world, 150):
        parts = graph_world.words.parts(question.script)
        for paraphrase in range(len(graph_world.words.templates(parts[1]))):
            text = graph_world.words.question(*parts, paraphrase)
            found = graph_world.interpret(f"  {text.upper()} ", question.scene)
            assert (found.kind, found.script, found.topic) == (QuestionKind.PREDICT, question.script, question.topic)
            texts.add(text)
        found = graph_world.interpret(question.text, PictureScene(question.scene.picture, 16))
        assert found is not None and found.script == question.script
    assert len(texts) > 200
    scene = graph_world.scene({"image_id": 1})
    for text in ("", "What is the dog?", "What is the unicorn on?", "What is the dog next to? And the car?", "riding"):
        assert graph_world.interpret(text, scene) is None


def test_what_the_annotations_do_not_answer_is_not_taken_for_a_question(tmp_path):
    things = {"dog": ("dog", 0, 0, CELL, CELL), "car": ("car", CELL, 0, CELL, CELL)}
    world, scene = small_world(tmp_path, things, [("dog", "near", "car")])
    assert world.interpret("What is the dog near?", scene).script == (world.actions.index("look at the dog"), 2)
    assert world.interpret("What is the car near?", scene) is None
    assert world.interpret("The dog is near something. What is that thing near?", scene) is None
