"""The published task: plans on FrozenLake boards 3x3 to 6x6 from pixels, and on larger ones than any trained on.

Trained as in Visual Planning (Xu et al. 2025, arXiv:2505.11409): random play first, then PPO on at most 1,000 boards
of each size. Every model is measured on fresh boards, never trained on, with the strict verifier: legal, successful,
of optimal length.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.ablation.variants import at_budget
from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.evaluate import evaluate, held_out, random_play_exact
from dreamrl.files import write_atomically
from dreamrl.judge import Judge
from dreamrl.printing import markdown_table
from dreamrl.process import settle
from dreamrl.saving import load_pretrained
from dreamrl.settings import load_settings, read_yaml, write_yaml
from dreamrl.statistics import bootstrap_interval
from dreamrl.terminal import StageProgress, Stages

SIZES = (3, 4, 5, 6, 7, 8)
INSIDE = (3, 4, 5, 6)
"""Sizes that are trained on."""
PUBLISHED = {"3": 0.976, "4": 0.956, "5": 0.908, "6": 0.824, "3-6": 0.916, "7": 0.204}
"""Exact match of the 7B model of arXiv:2505.11409 (VPRL), by size; 7x7 is out of its distribution, 8x8 not reported."""
BOARDS_SEED = 0


def bench(
    out: Path = Path("runs/bench-frozen-lake"),
    preset: str = "frozen-lake",
    seeds: int = 1,
    budget: float = 1.0,
    items: int = 200,
    dreams: tuple[int, ...] = (1, 4, 16),
    ray: bool = True,
) -> dict[str, Any]:
    """Train, measure by size, report; goes on where it was stopped.

    Args:
        out: directory of everything; the report is ``frozen_lake.md`` and ``.json`` there, curves ``curve.png``.
        preset: settings to train with.
        seeds: seeds 0 to seeds - 1, one training each.
        budget: share of the preset's updates and iterations.
        items: held-out boards of each size.
        dreams: numbers of dreams to answer with.
        ray: train on Ray; false: in this process alone.

    Returns:
        the report as plain JSON values.
    """
    if seeds < 1 or items < 1 or budget <= 0:
        raise UserError(f"seeds ({seeds}) and items ({items}) must be >= 1, budget ({budget:g}) > 0")
    settle()
    results = [_seed(out / f"seed{seed}", preset, seed, budget, items, dreams, ray) for seed in range(seeds)]
    report = summarise(results)
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "frozen_lake.json", json.dumps(report, indent=1) + "\n")
    write_atomically(out / "frozen_lake.md", markdown(report))
    draw_curves([out / f"seed{seed}" / "metrics.jsonl" for seed in range(seeds)], out / "curve.png")
    print(markdown(report))
    return report


def _seed(
    out: Path, preset: str, seed: int, budget: float, items: int, dreams: Sequence[int], ray: bool
) -> dict[str, Any]:
    """One training with its measurements; read back if they are there."""
    config, done = out / "config.yaml", out / "measured.json"
    settings = at_budget(load_settings(preset, seed=seed), budget)
    if config.exists() and read_yaml(config) != settings:
        raise UserError(f"{out} holds a training with other settings; give another out=DIR")
    if not done.exists():
        train(settings, out, ray)
        write_atomically(done, json.dumps(measure(out, items, dreams), indent=1) + "\n")
    return json.loads(done.read_text())


def train(run: RunConfig, out: Path, ray: bool) -> None:
    """Train into ``out``, or go on with what is there."""
    if ray:
        from dreamrl.run import train as train_on_ray

        train_on_ray(run, out, "local", ("pretrain", "ppo"), (out / "config.yaml").exists(), None)
        return
    from dreamrl.plain import train_plain

    out.mkdir(parents=True, exist_ok=True)
    write_yaml(run, out / "config.yaml")
    shown = {"pretrain": ("loss", "pretrain/loss/total"), "ppo": ("em", "ppo/exact_match")}
    with Stages({"pretrain": run.pretrain.steps, "ppo": run.ppo.iterations}) as stages:

        def show(stage: str, step: int, values: Mapping[str, float]) -> None:
            label, metric = shown[stage]
            stages(stage, step, **{label: values[metric]})

        train_plain(run, out, show)


def measure(out: Path, items: int, dreams: Sequence[int]) -> dict[str, Any]:
    """Exact match of the pretrained and the final model by size and number of dreams."""
    pretrained, final = (load_pretrained(out / name, trusted=True) for name in ("pretrained", "model"))
    judge = Judge(pretrained.model)
    found: dict[str, Any] = {
        "parameters": sum(p.numel() for p in final.model.parameters()),
        "settings": {"steps": final.run.pretrain.steps, "iterations": final.run.ppo.iterations},
        "seed": final.run.seed,
        "exact": {"random": {}, "pretrained": {}, "ppo": {}},
        "frames": {"pretrained": {}, "ppo": {}},
    }
    with StageProgress("eval", len(SIZES) * items * 2) as bar:
        for size in SIZES:
            questions = held_out(final.world, (size,), items, BOARDS_SEED, length=final.run.model.dream_length)
            exact = random_play_exact(final.world, questions, final.run.model.dream_length, BOARDS_SEED)
            found["exact"]["random"][str(size)] = {"-": exact.tolist()}
            for name, loaded in (("pretrained", pretrained), ("ppo", final)):
                results = evaluate(loaded, questions, dreams, BOARDS_SEED, judge, counter(bar))
                found["exact"][name][str(size)] = {str(n): r.exact.tolist() for n, r in results.items()}
                found["frames"][name][str(size)] = {str(n): r.exact_frame for n, r in results.items()}
    return found


def counter(bar: StageProgress) -> Callable[[int], None]:
    """What :func:`evaluate` calls with the number of questions done, so that ``bar`` goes on from where it is."""
    before = bar.done
    return lambda done: bar.advance(before + done - bar.done)


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over boards and seeds with 95% intervals (bootstrap over boards of all seeds), by model, dreams, size."""
    rows = []
    for name in ("random", "pretrained", "ppo"):
        exact = [result["exact"][name] for result in results]
        for count in exact[0][str(SIZES[0])]:
            by_size = {str(s): np.concatenate([e[str(s)][count] for e in exact]) for s in SIZES}
            by_size[inside()] = np.concatenate([by_size[str(s)] for s in INSIDE])
            entry = {
                size: {"mean": float(v.mean()), "ci": list(bootstrap_interval(v, 1000, seed=0))}
                for size, v in by_size.items()
            }
            rows.append({"model": name, "dreams": count, "exact_match": entry})
    frames = {
        size: float(np.mean([np.mean(list(r["frames"]["ppo"][size].values())) for r in results]))
        for size in map(str, SIZES)
    }
    first = results[0]
    about = {"parameters": first["parameters"], "settings": first["settings"], "seeds": [r["seed"] for r in results]}
    return about | {"rows": rows, "exact_frame": frames, "published": PUBLISHED}


def markdown(report: dict[str, Any]) -> str:
    """The report as a table."""
    columns = [inside(), *map(str, SIZES)]
    rows = [
        [row["model"], row["dreams"], *(_cell(row["exact_match"][column]) for column in columns)]
        for row in report["rows"]
    ]
    rows.append(["VPRL 7B (published)", "-", *(f"{PUBLISHED[c]:.3f}" if c in PUBLISHED else "-" for c in columns)])
    rows.append(["ppo: dreamed frames exact", "-", "-", *(f"{report['exact_frame'][str(s)]:.3f}" for s in SIZES)])
    head = ["model", "dreams", inside(), *(f"{s}x{s}" for s in SIZES)]
    settings, seeds = report["settings"], ", ".join(map(str, report["seeds"]))
    about = (
        f"{report['parameters']:,} parameters; {settings['steps']} updates of pretraining, {settings['iterations']} "
        f"iterations of PPO; seeds {seeds}. Exact match with its 95% interval; 7x7 and 8x8 were never trained on."
    )
    return "\n".join(["# FrozenLake", "", about, "", *markdown_table(head, rows)]) + "\n"


def inside() -> str:
    """Name of the column for all sizes trained on."""
    return f"{INSIDE[0]}-{INSIDE[-1]}"


def _cell(entry: dict[str, Any]) -> str:
    low, high = entry["ci"]
    return f"{entry['mean']:.3f} [{low:.2f}, {high:.2f}]"


def draw_curves(files: Sequence[Path], path: Path) -> None:
    """Exact match of sampled answers against episodes of PPO, a line for each seed, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for seed, file in enumerate(files):
        records = [json.loads(line) for line in file.read_text().splitlines()]
        points = [(r["ppo/episodes"], r["ppo/exact_match"]) for r in records if "ppo/exact_match" in r]
        axes.plot(*zip(*points, strict=True), label=f"seed {seed}")
    axes.set(xlabel="PPO episodes", ylabel="exact match (training boards, sampled)", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
