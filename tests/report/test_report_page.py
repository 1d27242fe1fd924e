"""Reports and comparisons of runs made by hand: complete, alone in the world, the same each time."""

import base64
import hashlib
import json
import re

import numpy as np
import pytest
from pages import parsed, question, save_run
from PIL import Image

from dreamrl.config import WorldConfig
from dreamrl.errors import UserError
from dreamrl.imagine import answer, edges_of, imagine
from dreamrl.report import page as page_module
from dreamrl.report.compare import disagreements_first, write_comparison
from dreamrl.report.page import fitted, write_report
from dreamrl.report.questions import Exam, differences, failures_first, load_run, pool, reason, right_answer
from dreamrl.report.run_data import check_export, check_output, read_run
from envs.reasoning_batch import Scores

REPORT = {"questions": 3, "dreams": 2}


@pytest.fixture(scope="module")
def run(make_loaded, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "first<b>", make_loaded())


@pytest.fixture(scope="module")
def other(make_loaded, tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("runs") / "second", make_loaded(seed=4), seed=1)


@pytest.fixture(scope="module")
def exam(run):
    record = read_run(run)
    loaded = load_run(record)
    return Exam(record, loaded, pool(loaded, 3, loaded.world.sizes, 0), 2, 0)


@pytest.fixture(scope="module")
def report(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    written = write_report(run, out / "report.html", **REPORT, export=out / "export")
    return out, written, (out / "report.html").read_text()


@pytest.fixture(scope="module")
def comparison(run, other, tmp_path_factory):
    file = tmp_path_factory.mktemp("out") / "compare.html"
    return write_comparison(run, other, file, **REPORT), file.read_text()


def self_contained(text):
    """The page is well formed, refers to nothing outside, and to nothing inside that is not there."""
    page = parsed(text)
    ids = [e.attributes["id"] for e in page.walk() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    for element in page.walk():
        for key in ("href", "src", "action"):
            target = element.attributes.get(key, "#")
            assert target.startswith("data:image/png;base64,") or target == "#" or target[1:] in ids, target
        if element.attributes.get("role") == "img":
            assert element.attributes["aria-label"]
    used = set(re.findall(r"url\(#([\w-]+)\)", text))
    assert used <= set(ids)
    assert not re.search(r"@import|https?://|url\((?!#)", text)
    return page


def test_a_report_stands_alone_and_has_every_section(report):
    _, written, text = report
    page = self_contained(text)
    assert [s.attributes["id"] for s in page.one("main").children] == [
        "results",
        "learning",
        "rewards",
        "experts",
        "dreams",
        "settings",
    ]
    assert page.one("h1").text == "first<b>" and "embedding_dim: 16" in page.one("pre").text
    assert len(page.all("details", "question")) == written["questions"] == 3
    assert len(text.encode()) < page_module.MOST_BYTES
    assert "light dark" in page.one("style").text and "prefers-color-scheme" in page.one("style").text


def test_a_report_is_the_same_each_time(run, report, tmp_path):
    write_report(run, tmp_path / "again.html", **REPORT)
    assert (tmp_path / "again.html").read_text() == report[2]


def test_only_the_page_s_own_script_may_run(report):
    page = parsed(report[2])
    (policy,) = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    digest = base64.b64encode(hashlib.sha256(page.one("script").text.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_wrong_answers_come_first_and_the_surest_of_them(exam):
    exact, sure = exam.result.exact, exam.result.confidence
    order = failures_first(exam, len(exam.questions))
    assert sorted(order) == list(range(len(exam.questions)))
    wrong = [n for n in order if not exact[n]]
    assert order[: len(wrong)] == wrong
    assert all(sure[a] >= sure[b] - 1e-6 for a, b in zip(wrong, wrong[1:], strict=False))


def test_a_third_is_kept_for_exact_answers():
    class Result:
        exact = np.array([0.0, 0, 0, 0, 1, 1, 1])
        confidence = np.array([0.1, 0.9, 0.5, 0.5, 1, 1, 1])

    class Asked:
        result, true_pictures = Result, [True] * 5 + [False, True]

    assert failures_first(Asked, 3) == [1, 2, 5]
    assert failures_first(Asked, 7) == [1, 2, 3, 0, 5, 4, 6]


def test_a_question_s_edges_are_those_of_reading_it_alone(exam):
    loaded = exam.loaded
    together = imagine(loaded, exam.questions[:3], 2, 0, loaded.run.eval.temperature)
    for index in range(3):
        alone = imagine(loaded, [exam.questions[index]], 2, 0, loaded.run.eval.temperature, first=index)
        assert (alone.batch.actions[0] == together.batch.actions[index]).all()
        found = edges_of(answer(loaded, together, 2).reading, index)
        expected = answer(loaded, alone, 2).reading.edges
        assert found.edge_index.tolist() == expected.edge_index.tolist()
        assert found.weight.tolist() == pytest.approx(expected.weight.tolist(), abs=1e-5)


def test_shown_questions_are_what_was_answered(exam):
    shown = exam.show([5, 2])
    assert [s.number for s in shown] == [5, 2]
    for s in shown:
        asked = exam.questions[s.number]
        assert s.question == asked.text and s.verdict == exam.loaded.world.verify(asked, s.answer)
        assert s.confidence == pytest.approx(float(exam.result.confidence[s.number]), abs=1e-5)
        assert s.graph["num_nodes"] == sum(len(d.triplets) for d in s.dreams)
        assert (s.false_pictures == 0) <= exam.true_pictures[s.number]


def test_an_edited_patch_is_the_one_that_differs(exam):
    loaded, asked = exam.loaded, exam.questions[0]
    batch = imagine(loaded, [asked], 2, 0, loaded.run.eval.temperature).batch
    rows, columns = asked.scene.grid
    for step, state in enumerate(batch.states[0][1]):
        batch.frames[0, 1, step, : rows * columns] = loaded.model.codec.encode(asked.scene.frame(state))
    assert not any(differences(batch, 0, 1))
    batch.frames[0, 1, 1, columns + 2] += 1
    assert differences(batch, 0, 1)[0] == ((1, 2),)


def test_steps_differ_where_the_simulator_found_them_false(exam):
    found = [
        (bool(places), t.faithful)
        for s in exam.show(range(6))
        for d, places_of in zip(s.dreams, s.differs, strict=True)
        for t, places in zip(d.triplets, places_of, strict=True)
    ]
    assert {pair for pair in found} <= {(True, False), (False, True)}


def test_the_right_answer_is_one(exam):
    world = exam.loaded.world
    for asked in exam.questions:
        assert world.verify(asked, right_answer(world, asked)).exact


RIGHT, TRUE = (Scores(correctness=c, exact=[True, True], believed=[True, True]) for c in (1.0, 0.0))
FALSE = Scores(exact=[True, False], believed=[True, True])


@pytest.mark.parametrize(
    ("scores", "focus", "expected"),
    [
        ([TRUE, RIGHT], 1, "misworded"),
        ([TRUE, RIGHT], 0, "unread"),
        ([RIGHT, FALSE], None, "unread"),
        ([TRUE, FALSE], 1, "false"),
        ([TRUE, FALSE], 0, "astray"),
        ([TRUE, FALSE], None, "unsure"),
    ],
)
def test_why_an_answer_is_wrong(scores, focus, expected):
    assert reason(scores, focus) == expected


def test_exported_dreams_are_those_of_the_report(report):
    out, written, text = report
    data = json.loads((out / "export" / "report.json").read_text())
    places = [details.attributes["id"] for details in parsed(text).all("details", "question")]
    assert [f"q{entry['number']}" for entry in data["questions"]] == places
    assert data["runs"][0]["metrics"]["ppo/exact_match"] == {
        "steps": [1, 2, 3],
        "values": [0.2, 0.4, 0.6000000000000001],
    }
    names = {file.name for file in (out / "export").iterdir()}
    assert names == {name for entry in data["questions"] for name in entry["files"]} | {"report.json"}
    assert len(names) == written["exported"] == 7
    for entry in data["questions"]:
        longest = max(len(dream["steps"]) for dream in entry["dreams"])
        with Image.open(out / "export" / entry["files"][1]) as animation:
            assert 1 <= animation.n_frames <= longest + 1
        for dream in entry["dreams"]:
            for step in dream["steps"]:
                assert sum(step["experts"]) == pytest.approx(1, abs=1e-3)


def test_a_comparison_stands_alone_and_shows_both(comparison):
    written, text = comparison
    page = self_contained(text)
    assert page.one("h1").words() == "first<b> and second"
    assert list(written["exact_match"]) == ["first<b>", "second"]
    for details in page.all("details", "question"):
        assert len(details.all("div", "answer")) == 2
    chart = next(f for f in page.all("figure") if f.one("h3").text == "PPO: exact match")
    assert len(chart.all("polyline", "line")) == len(chart.all("polygon", "band")) == 2
    settings = page.all("section")[-1]
    assert [[c.words() for c in row.children] for row in settings.one("tbody").all("tr")] == [["seed", "3", "4"]]


def test_differences_are_second_minus_first(comparison):
    rows = {r.children[0].words(): [c.words() for c in r.children[1:]] for r in parsed(comparison[1]).all("tr")}
    assert rows["faithfulness at the end"] == ["0.600", "0.650", "+0.050"]
    assert rows["MaxVio at the end"] == ["0.100", "0.100", "+0.000"]


def test_disagreements_come_first_in_turns():
    a, b = np.array([1, 1, 0, 1, 0, 1, 1], bool), np.array([1, 0, 1, 0, 0, 0, 1], bool)
    assert disagreements_first(a, b, 7) == [1, 2, 3, 5, 4, 0, 6]
    assert disagreements_first(a, b, 2) == [1, 2]


def test_a_page_that_is_too_large_loses_colours_then_questions(monkeypatch):
    monkeypatch.setattr(page_module, "MOST_BYTES", 250)
    seen = []

    def build(shown, sprites):
        seen.append((len(shown), sprites.colours))
        return "x" * (60 * len(shown) + (0 if sprites.colours else 1000))

    text, shown = fitted(build, [question(number=n) for n in range(10)])
    assert len(text) <= 250 and [s.number for s in shown] == [0, 1, 2]
    assert seen[:2] == [(10, 0), (10, 64)]


def test_several_seeds_become_one_report(run, other, make_loaded, tmp_path):
    with pytest.raises(UserError, match="differs from .* in model; give seeds of one run"):
        third = save_run(tmp_path / "third", make_loaded(model={"num_experts": 2}))
        write_report(run, tmp_path / "no.html", others=[third], **REPORT)
    write_report(run, tmp_path / "both.html", others=[other], **REPORT)
    text = (tmp_path / "both.html").read_text()
    page = self_contained(text)
    chart = next(f for f in page.all("figure") if f.one("h3").text == "Answers during PPO")
    assert len(chart.all("polyline", "faint")) == 4 and "range" in page.words()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "config.yaml").unlink(), "config.yaml is missing"),
        (lambda d: (d / "config.yaml").write_text("ppo: {lrr: 1}"), 'did you mean "ppo.lr"'),
        (lambda d: (d / "metrics.jsonl").unlink(), "metrics.jsonl is missing"),
        (lambda d: (d / "metrics.jsonl").write_text('{"stage": "ppo", "step": 1}\n{"st\n'), "line 2 is not JSON"),
        (lambda d: (d / "metrics.jsonl").write_text('{"stage": "ppo", "step": 1, "x": "y"}\n'), "line 1 must hold"),
        (lambda d: (d / "metrics.jsonl").write_bytes(b"\xff\n"), "is not UTF-8"),
        (lambda d: (d / "model").rename(d / "gone"), "--resume"),
        (lambda d: (d / "model" / "model.safetensors").write_bytes(b"x"), "damaged"),
        (lambda d: (d / "summary.json").write_text("{"), "summary.json is not JSON"),
        (lambda d: (d / "summary.json").write_text("{}"), 'summary.json has no "details"'),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(loaded, tmp_path, spoil, message):
    directory = save_run(tmp_path / "run", loaded)
    spoil(directory)
    with pytest.raises(ValueError) as error:
        read_run(directory)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_model_or_nothing_is_no_run(loaded, tmp_path):
    directory = save_run(tmp_path / "run", loaded)
    for path, message in ((directory / "model", "is a model"), (tmp_path / "x", "does not exist")):
        with pytest.raises(UserError, match=message):
            read_run(path)


def test_a_last_line_without_its_end_is_left_out(loaded, tmp_path):
    directory = save_run(tmp_path / "run", loaded)
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "st')
    assert len(read_run(directory).records) == 5


def test_nothing_is_overwritten_unasked(tmp_path):
    file = tmp_path / "report.html"
    check_output(file, overwrite=False)
    file.write_text("mine")
    with pytest.raises(UserError, match="pass --overwrite"):
        check_output(file, overwrite=False)
    check_output(file, overwrite=True)
    with pytest.raises(UserError, match="is a directory"):
        check_output(tmp_path, overwrite=True)
    with pytest.raises(UserError, match="not an empty directory"):
        check_export(tmp_path)


def test_only_different_runs_of_one_world_are_compared(run, make_loaded, tmp_path):
    with pytest.raises(UserError, match="are the same run"):
        write_comparison(run, run, tmp_path / "x.html")
    elsewhere = save_run(tmp_path / "falling", make_loaded(world=WorldConfig(name="minigrid")))
    with pytest.raises(UserError, match="compare two runs of the same world"):
        write_comparison(run, elsewhere, tmp_path / "x.html")
