"""Requests that dream together: each gets what it would get alone."""

import numpy as np
import pytest

from dreamrl.generate import generate, question_about
from dreamrl.imagine import Wording, imagine
from dreamrl.judge import Judge
from dreamrl.serving.results import result_of
from dreamrl.serving.together import Wish, answer_together, imagine_together
from envs.reasoning_batch import Phase

HEAT = 3.0


def wishes_for(loaded, seeds):
    """Requests that differ in everything: scene (so size), question, dreams, temperature of the words."""
    out = []
    for seed in seeds:
        question, _ = question_about(loaded, "", None, None, seed)
        wording = Wording(temperature=1.2 * (seed % 3 == 0), seed=seed)
        out.append(Wish(question=question, seed=seed, dreams=1 + seed % 4, temperature=HEAT, wording=wording))
    return out


@pytest.fixture(scope="module")
def judge(loaded):
    return Judge(loaded.model)


def test_each_request_gets_what_generate_gives_it_alone(loaded, judge):
    seeds = range(9)
    wishes = wishes_for(loaded, seeds)
    assert len({wish.question.scene.grid for wish in wishes}) > 1
    imagined = imagine_together(loaded, wishes, judge)
    answered = answer_together(loaded, imagined, wishes)
    assert sorted(answered) == list(seeds)
    for seed, wish in zip(seeds, wishes, strict=True):
        alone = generate(loaded, seed=seed, num_dreams=wish.dreams, temperature=wish.wording.temperature)
        ours = result_of(loaded, *answered[seed], warnings=[])
        assert (ours["text"], ours["question"], ours["focus"]) == (alone["text"], alone["question"], alone["focus"])
        assert ours["confidence"] == pytest.approx(alone["confidence"], abs=2e-4)
        assert len(ours["dreams"]) == wish.dreams
        for mine, dream in zip(ours["dreams"], alone["dreams"], strict=True):
            assert [s["action"] for s in mine["steps"]] == list(dream.actions)
            assert [s["faithful"] for s in mine["steps"]] == [t.faithful for t in dream.triplets]
            assert mine["value"] == pytest.approx(dream.value, abs=2e-4)
        for mine, reward in zip(ours["rewards"], alone["rewards"], strict=True):
            assert mine == pytest.approx(reward, abs=2e-4)
        for mine, edge in zip(ours["graph"]["edges"], alone["graph_data"]["edges"], strict=True):
            assert (mine["source"], mine["target"], mine["type"]) == (edge["source"], edge["target"], edge["type"])
            assert mine["weight"] == pytest.approx(edge["weight"], abs=2e-4)


def test_the_dreams_temperature_is_each_requests_own(loaded, judge):
    question, _ = question_about(loaded, "", None, None, 5)
    cold, warm = (Wish(question=question, seed=5, dreams=4, temperature=t) for t in (0.0, HEAT))
    batch = imagine_together(loaded, [cold, warm], judge).batch
    for index, temperature in enumerate((0.0, HEAT)):
        alone = imagine(loaded, [question], 4, 5, temperature).batch
        assert np.array_equal(batch.lengths[index], alone.lengths[0])
        assert np.array_equal(batch.actions[index], alone.actions[0])
        assert np.array_equal(batch.frames[index], alone.frames[0])
    assert (batch.actions[0] != batch.actions[1]).any()


def test_a_request_that_is_given_up_takes_no_further_step(loaded, judge):
    wishes = wishes_for(loaded, (1, 2, 5))
    whole = imagine_together(loaded, wishes, judge)
    longest = int(np.argmax(whole.batch.lengths.max(1)))
    assert whole.batch.lengths[longest].max() > 1
    steps = []
    imagined = imagine_together(
        loaded, wishes, judge, on_step=steps.append, given_up=lambda index: index == longest and len(steps) == 1
    )
    assert imagined.batch.lengths[longest].max() == 1 and imagined.batch.phase[longest] == Phase.OVER
    for index in {0, 1, 2} - {longest}:
        assert np.array_equal(imagined.batch.actions[index], whole.batch.actions[index])
    assert sorted(answer_together(loaded, imagined, wishes)) == sorted({0, 1, 2} - {longest})
