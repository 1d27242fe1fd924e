"""The end of a run: held-out evaluation of every stage, pictures of dreams, summary.json and a table."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.config import RunConfig
from dreamrl.device import for_answers
from dreamrl.evaluate import Result, evaluate, held_out, random_play_exact, summarise
from dreamrl.files import write_atomically
from dreamrl.filmstrip import animate, filmstrip, save_png
from dreamrl.generate import to_dreams, verdict_text
from dreamrl.imagine import Imagined, answer
from dreamrl.judge import Judge
from dreamrl.metrics import MetricsWriter
from dreamrl.saving import Loaded, load_pretrained, new_model
from dreamrl.statistics import bootstrap_interval
from dreamrl.stop import StopRequest
from dreamrl.terminal import StageProgress, result_table

EVAL_SEED = 0
FILMSTRIPS = 8
"""Questions whose dreams are drawn: the first ones, as they come."""


def write_summary(run: RunConfig, out: Path, seconds: dict[str, float], stop: StopRequest) -> dict[str, Any]:
    """Evaluate random play, the untrained, the pretrained and the final model on the same held-out boards."""
    final, pretrained = (load_pretrained(out / name, trusted=True) for name in ("model", "pretrained"))
    judge, started = Judge(pretrained.model), time.perf_counter()
    for model in (final.model, pretrained.model):
        model.to(for_answers(run))
    questions = held_out(final.world, final.world.sizes, run.eval.num_items, EVAL_SEED)
    few = tuple(n for n in run.eval.dreams if n <= run.model.num_dream_sequences) or run.eval.dreams[:1]
    untrained = new_model(run)
    untrained.model.codec.load_state_dict(pretrained.model.codec.state_dict())  # so that its pictures can be judged
    untrained.model.to(for_answers(run))
    plan: list[tuple[str, Loaded, tuple[int, ...]]] = [
        ("untrained", untrained, (max(few),)),
        ("pretrained", pretrained, few),
        ("ppo", final, run.eval.dreams),
    ]
    results: dict[str, dict[int, Result]] = {}
    with StageProgress("eval", len(plan) * len(questions)) as progress:
        for name, loaded, counts in plan:
            seen = [0]

            def advance(done: int, seen: list[int] = seen) -> None:
                progress.advance(done - seen[0])
                seen[0] = done
                if stop.asked:
                    raise KeyboardInterrupt

            keep = _Filmstrips(loaded, out / "dreams") if name == "ppo" else lambda imagined, first: None
            results[name] = evaluate(loaded, questions, counts, EVAL_SEED, judge, advance, keep)
    random = random_play_exact(final.world, questions, run.model.dream_length, EVAL_SEED)
    spent = seconds | {"eval": round(seconds.get("eval", 0.0) + time.perf_counter() - started, 2)}
    summary = _summary(run, out, final, results, random, spent)
    write_atomically(out / "summary.json", json.dumps(summary, indent=1) + "\n")
    _table(run, results, random)
    return summary


def _summary(
    run: RunConfig,
    out: Path,
    final: Loaded,
    results: dict[str, dict[int, Result]],
    random: np.ndarray,
    seconds: dict[str, float],
) -> dict[str, Any]:
    exact = {"random": float(random.mean()), "untrained": float(next(iter(results["untrained"].values())).exact.mean())}
    details = {}
    for name in ("pretrained", "ppo"):
        for count, result in results[name].items():
            exact[f"{name}_{count}"] = float(result.exact.mean())
            details[f"{name}_{count}"] = summarise(result, count, run.eval.bootstrap)
    counts = _last_counts(out)
    writer = MetricsWriter(out, resume=True)
    writer.truncate_after("eval", -1)
    frames = {name: results[name][max(results[name])].exact_frame for name in ("pretrained", "ppo")}
    writer.write(0, "eval", {f"eval/exact_match/{k}": v for k, v in exact.items()})
    writer.close()
    return {
        "world": run.world.name,
        "seed": run.seed,
        "preset": run.preset,
        "parameters": sum(p.numel() for p in final.model.parameters()),
        "seconds": seconds,
        "exact_match": exact,
        "exact_frame": frames,
        "episodes": counts["episodes"],
        "env_steps": counts["env_steps"],
        "details": details,
    }


def _last_counts(out: Path) -> dict[str, int]:
    """Episodes and env steps of PPO, from its metrics."""
    counts = {"episodes": 0, "env_steps": 0}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        values = record.get("values", record)
        for name in counts:
            if f"ppo/{name}" in values:
                counts[name] = int(values[f"ppo/{name}"])
    return counts


class _Filmstrips:
    """Draws the dreams of the first questions while they are evaluated."""

    def __init__(self, loaded: Loaded, directory: Path):
        self.loaded, self.directory = loaded, directory
        directory.mkdir(exist_ok=True)

    def __call__(self, imagined: Imagined, first: int) -> None:
        if first > 0:
            return
        count = min(self.loaded.run.model.num_dream_sequences, imagined.batch.dreams)
        answers = answer(self.loaded, imagined, count)
        patch = self.loaded.world.patch_size
        for index in range(min(FILMSTRIPS, len(imagined.batch.questions))):
            question, text = imagined.batch.questions[index], answers.texts[index]
            dreams = to_dreams(self.loaded, imagined, index, answers, checked=True)[:count]
            words = (question.text, text, verdict_text(self.loaded.world.verify(question, text)))
            save_png(filmstrip(dreams, *words, patch_size=patch), self.directory / f"question-{index + 1}.png")
            if index == 0:
                animate(dreams, *words, self.directory / "question-1.gif", patch_size=patch)


def _table(run: RunConfig, results: dict[str, dict[int, Result]], random: np.ndarray) -> None:
    low, high = bootstrap_interval(random, run.eval.bootstrap, seed=0)
    rows = [("random play", "-", f"{random.mean():.3f}", f"[{low:.3f}, {high:.3f}]", "-", "-")]
    for name, by_count in results.items():
        for count, result in by_count.items():
            numbers = summarise(result, count, run.eval.bootstrap)
            low, high = numbers["exact_match_ci"]
            interval, progress = f"[{low:.3f}, {high:.3f}]", f"{numbers['progress_rate']:.3f}"
            frame = f"{result.exact_frame:.3f}"
            rows.append((name, str(count), f"{numbers['exact_match']:.3f}", interval, progress, frame))
    result_table(rows, ("model", "dreams", "exact match", "95% interval", "progress rate", "exact frames"))
