"""Curves as SVG: where points lie, which band they have, what is told of them; curves of one run and of several."""

import dataclasses
import json

import numpy as np
import pytest
from pages import metrics, parsed

from dreamrl.config import RunConfig
from dreamrl.report import curves
from dreamrl.report.bands import wilson
from dreamrl.report.chart import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Line,
    line_chart,
    share_chart,
    short,
    thinned,
    ticks,
)
from dreamrl.report.intervals import Row, interval_chart
from dreamrl.report.run_data import RunRecord


@pytest.fixture
def record(tmp_path):
    def make(seed=0, episodes=(8, 16, 24)):
        lines = metrics(seed, episodes).splitlines()
        return RunRecord(
            directory=tmp_path,
            name=f"seed{seed}",
            config=RunConfig(seed=seed),
            config_text="",
            records=tuple(map(json.loads, lines)),
            summary=None,
        )

    return make


def corners(element):
    return [tuple(map(float, pair.split(","))) for pair in element.attributes["points"].split()]


def test_points_lie_where_the_axes_say():
    chart = parsed(line_chart("title", [Line(name="a", x=(1, 3), y=(0.0, 0.5))], y=(0, 1)))
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    assert corners(chart.one("polyline")) == [(LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, middle)]


def test_a_band_goes_up_there_and_down_back():
    line = Line(name="a", x=(0, 1), y=(0.5, 0.5), low=(0.0, 0.25), high=(1.0, 0.75))
    points = corners(parsed(line_chart("title", [line], y=(0, 1))).one("polygon", "band"))
    height = HEIGHT - TOP - BOTTOM
    assert [x for x, _ in points] == [LEFT, WIDTH - RIGHT, WIDTH - RIGHT, LEFT]
    assert [y for _, y in points] == pytest.approx([TOP, TOP + height / 4, TOP + 3 * height / 4, TOP + height])


def test_each_step_tells_its_values():
    lines = [Line(name="a<b", x=(1, 2), y=(0.5, 0.25), low=(0.4, 0.2), high=(0.6, 0.3)), Line(name="c", x=(2,), y=(7,))]
    chart = parsed(line_chart("title", lines, unit="update"))
    assert [hit.one("title").text for hit in chart.all("g", "hit")] == [
        "update 1: a<b 0.5 [0.4, 0.6]",
        "update 2: a<b 0.25 [0.2, 0.3]; c 7",
    ]
    assert "a<b from 0.5 at update 1 to 0.25 at update 2" in chart.one("svg").attributes["aria-label"]


@pytest.mark.parametrize(("values", "logarithmic"), [((30.0, 2.0), True), ((30.0, 4.0), False), ((30.0, -1.0), False)])
def test_an_axis_is_logarithmic_where_that_helps(values, logarithmic):
    chart = parsed(line_chart("loss", [Line(name="a", x=(1, 2), y=values)], allow_log=True))
    assert ("logarithmic" in chart.words()) is logarithmic


def test_areas_fill_the_plot():
    chart = parsed(share_chart("experts", ["a", "b"], [1, 2], [[0.25, 0.75], [1.0, 0.0]]))
    heights = [[y for _, y in corners(area)] for area in chart.all("polygon", "area")]
    bottom, height = HEIGHT - BOTTOM, HEIGHT - TOP - BOTTOM
    assert heights[0] == pytest.approx([bottom - height / 4, TOP, bottom, bottom])
    assert heights[1] == pytest.approx([TOP, TOP, TOP, bottom - height / 4])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (-0.3, 0.21, [-0.2, 0, 0.2]), (5, 5, [5]), (0, 300, [0, 100, 200, 300])],
)
def test_ticks_are_round(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.957, "0.957"), (-12.0, "-12"), (1500, "1500"), (30447, "30.4k"), (3e-4, "3e-04"), (2e7, "2e+07")],
)
def test_values_are_short(value, text):
    assert short(value) == text


def test_an_interval_is_wilsons():
    chart = parsed(
        interval_chart("title", [Row(name="all", share=0.5, count=8), Row(name="none", share=0, count=8)], "")
    )
    low, high = wilson(0.5, 8)
    line = chart.all("line", "whisker")[0].attributes
    dots = [float(dot.attributes["cx"]) for dot in chart.all("circle")]
    width = 2 * (dots[0] - dots[1])
    assert float(line["x1"]) == pytest.approx(dots[1] + low * width, abs=0.01)
    assert float(line["x2"]) == pytest.approx(dots[1] + high * width, abs=0.01)
    assert chart.all("title")[0].text == f"all: 0.500 [{low:.3f}, {high:.3f}] of 8 questions"


def test_one_run_has_bands_over_the_questions_of_each_update(record):
    (line,) = curves.lines([record(episodes=(8, 24, 32))], "ppo/exact_match")
    bands = [wilson(value, count) for value, count in zip((0.2, 0.4, 0.6), (8, 16, 8), strict=True)]
    assert np.column_stack([line.low, line.high]) == pytest.approx(np.array(bands))


def test_what_is_no_share_has_no_band(record):
    (line,) = curves.lines([record()], "ppo/progress")
    assert line.low == () and line.y == pytest.approx((-0.2, -0.1, 0.0))
    assert curves.lines([record()], "ppo/grad_norm") == []


def test_several_runs_become_their_mean_over_the_steps_that_all_have(record):
    runs = [record(0), record(2, episodes=(8, 16))]
    first, second, mean = curves.lines(runs, "ppo/exact_match")
    assert (first.faint, second.faint, mean.faint) == (True, True, False)
    assert mean.x == (1, 2)
    assert mean.y == pytest.approx((0.25, 0.45))
    assert (mean.low, mean.high) == (pytest.approx((0.2, 0.4)), pytest.approx((0.3, 0.5)))


def test_captions_say_what_the_bands_are(record):
    assert "Wilson" in curves.band_note([record()])
    assert "range" in curves.band_note([record(0), record(1)])
    assert "Student" in curves.band_note([record(0), record(1), record(2)])


def test_a_weight_that_is_not_paid_is_0(record):
    run = record()
    model = dataclasses.replace(run.config.model, reward_components=("correctness",))
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, model=model))
    assert parsed(curves.rewards([run])[0]).one("h3").text == "Faithfulness, weight 0"


def test_every_metric_is_shown_once(record):
    run = record()
    others = parsed(curves.everything_else([run]))
    assert [title.text for title in others.all("h3")] == ["PPO: episodes"]
    assert [parsed(chart).one("h3").text for chart in curves.experts(run)] == [
        "Pretraining: experts in use",
        "Pretraining: MaxVio",
    ]


@pytest.mark.parametrize(("count", "most", "expected"), [(5, 5, [0, 1, 2, 3, 4]), (6, 5, [1, 3, 5]), (7, 3, [0, 3, 6])])
def test_long_runs_are_thinned_and_keep_their_end(count, most, expected):
    assert thinned(range(count), most) == expected


def test_a_very_long_run_makes_no_larger_chart():
    steps = tuple(range(5000))
    chart = line_chart("a", [Line(name="a", x=steps, y=steps, low=steps, high=steps)])
    assert len(chart) < 60_000 and parsed(chart).all("title")[-1].text.startswith("update 4999")
