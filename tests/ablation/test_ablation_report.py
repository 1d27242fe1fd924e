"""Ablations: whether the table says what was measured."""

import math

import pytest

from dreamrl.ablation.report import markdown, summarise, verdict
from dreamrl.ablation.variants import VARIANTS


@pytest.mark.parametrize(
    ("difference", "half", "expected"),
    [
        (0.1, 0.05, "better"),
        (-0.1, 0.05, "worse"),
        (0.05, 0.1, "no difference at this budget"),
        (-0.05, 0.1, "no difference at this budget"),
        (0.0, 0.0, "no difference at this budget"),
        (0.5, None, "too few seeds for a verdict"),
    ],
)
def test_verdicts(difference, half, expected):
    assert verdict(difference, half) == expected


def result(variant, seed, exact, frame=0.5):
    return {
        "variant": variant,
        "seed": seed,
        "parameters": 1234567,
        "flops": 251_000_000,
        "seconds": {"pretrain": 100.0 + seed, "ppo": 200.0, "eval": 30.0},
        "cpu_seconds": {"pretrain": 90.0, "ppo": 190.0, "eval": 29.0},
        "exact_match": {"1": exact, "4": exact + 0.01},
        "progress_rate": {"1": exact, "4": exact},
        "valid": {"1": 1.0, "4": 1.0},
        "exact_frame": {"1": frame, "4": frame},
    }


def test_differences_are_paired_by_seed():
    """The default swings by 0.2 over the seeds and so does the variant, always 0.03 to 0.05 above it."""
    default = [result("default", s, e) for s, e in enumerate([0.5, 0.6, 0.7, 0.9])]
    variant = [result("memory", s, e) for s, e in enumerate([0.53, 0.65, 0.74])]
    baseline = [result("baseline-params", s, e, None) for s, e in enumerate([0.1, 0.5, 0.9])]
    found = summarise(variant + default + baseline, VARIANTS)
    assert list(found) == ["default", "baseline-params", "memory"]
    assert "difference" not in found["default"]
    assert found["default"]["exact_match"]["1"]["mean"] == pytest.approx(0.675)
    assert found["default"]["seconds"]["pretrain"] == pytest.approx(101.5)
    difference = found["memory"]["difference"]["4"]
    assert difference["values"] == pytest.approx([0.03, 0.05, 0.04])
    assert difference["mean"] == pytest.approx(0.04)
    assert difference["half_width"] == pytest.approx(4.303 * 0.01 / math.sqrt(3), rel=1e-3)
    assert difference["verdict"] == "better"
    assert found["baseline-params"]["difference"]["4"]["verdict"] == "no difference at this budget"
    assert found["baseline-params"]["exact_frame"] == {}


def test_the_table_shows_what_was_measured():
    settings = {
        "eval": {"dreams": [1, 4], "num_items": 600},
        "model": {"num_dream_sequences": 4, "dream_length": 8},
        "world": {"sizes": [3, 4]},
        "pretrain": {"steps": 180},
        "ppo": {"iterations": 13},
    }
    default = [result("default", s, e) for s, e in enumerate([0.5, 0.6, 0.7])]
    baseline = [result("baseline-params", s, e, None) for s, e in enumerate([0.1, 0.2, 0.3])]
    text = markdown({"budget": 0.5, "settings": settings}, summarise(default + baseline, VARIANTS))
    half = f"{4.303 * 0.1 / math.sqrt(3):.3f}"
    cells = f"| 1,234,567 | 251.0 | 101 s | 200 s | 0.600 ± {half} | 0.610 ± {half} | - | - |"
    assert f"| default | 3 {cells}" in text
    assert "| -0.400 ± 0.000 | worse |" in text
    assert "Budget 0.5: 180 updates of pretraining on random play, 13 iterations of PPO" in text
    assert "Verdicts: 1;" in text and "600 held-out boards, 3x3, 4x4" in text
    assert "| baseline-params | no dreams: image tokens straight to the answer, as many parameters | 0.200" in text
