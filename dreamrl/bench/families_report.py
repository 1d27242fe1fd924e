"""The statistics and the report of ``dreamrl bench families``: plain numbers in, JSON, Markdown and a picture out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.printing import markdown_table
from dreamrl.statistics import bootstrap_interval

MODELS = ("constant", "baseline", "pretrained", "ppo")
RESAMPLES = 2000
BETTER, SAME, WORSE = "better", "**no better**", "**worse**"
"""Verdicts on a difference whose 95% interval lies above, around or below 0."""
SHUFFLE_SEED = 0


def mutual_information(usage: np.ndarray, labels: np.ndarray) -> float:
    """Bits that an expert tells of the family of the question whose dreams it was used in.

    I(F; E) = sum_fe p(f, e) log2(p(f, e) / (p(f) p(e))), where a question is drawn uniformly and one of its experts
    by the question's own usage.

    Args:
        usage: (Q, E) share of each expert in each question; rows sum to 1.
        labels: (Q,) families as whole numbers from 0 on.
    """
    members = np.eye(int(labels.max()) + 1)[labels]  # (Q, F)
    joint = members.T @ usage / len(usage)
    outer = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log2(joint[there] / outer[there])).sum())


def information(usage: np.ndarray, labels: np.ndarray, shuffles: int) -> dict[str, float]:
    """The mutual information, and what it is when families are dealt out to the questions at random.

    A question keeps all its dream steps together: they are no independent draws.

    Returns:
        ``bits``; ``shuffled_mean`` and ``shuffled_95`` (quantile) of ``shuffles`` shuffled labellings; ``p``, the
        share of labellings, this one included, with as many bits or more.
    """
    bits, rng = mutual_information(usage, labels), np.random.default_rng(SHUFFLE_SEED)
    shuffled = np.array([mutual_information(usage, rng.permutation(labels)) for _ in range(shuffles)])
    return {
        "bits": bits,
        "shuffled_mean": float(shuffled.mean()),
        "shuffled_95": float(np.quantile(shuffled, 0.95)),
        "p": float((1 + (shuffled >= bits - 1e-12).sum()) / (1 + shuffles)),
    }


def mean_interval(values: np.ndarray) -> dict[str, Any]:
    """Mean with its 95% bootstrap interval."""
    return {"mean": float(values.mean()), "ci": list(bootstrap_interval(values, RESAMPLES, seed=0))}


def verdict(difference: dict[str, Any]) -> str:
    """What a difference says."""
    low, high = difference["ci"]
    return BETTER if low > 0 else WORSE if high < 0 else SAME


def pooled(by_world: dict[str, list], families: dict[str, str]) -> dict[str, np.ndarray]:
    """What is known of the questions of each world, by family; questions in the order of the worlds."""
    names = dict.fromkeys(families.values())
    return {name: np.concatenate([by_world[w] for w, own in families.items() if own == name]) for name in names}


def summarise(results: Sequence[dict[str, Any]], families: dict[str, str], shuffles: int) -> dict[str, Any]:
    """The report from what was measured of each seed; ``families`` by world.

    Accuracy pools the questions of all seeds. What is said of single experts stays apart by seed, because their
    numbers mean nothing across trainings.
    """
    first = results[0]
    topics = {f"{world}: {name}" for world, own in first["topics"].items() for name in own}
    report: dict[str, Any] = {name: first[name] for name in ("parameters", "settings")}
    report |= {"seeds": [r["seed"] for r in results], "families": families, "shuffles": shuffles}
    report["questions"] = {world: len(own) for world, own in first["topics"].items()}
    by_family, by_topic = ({model: {} for model in MODELS} for _ in range(2))
    for model in MODELS:
        exact = [(r[model]["exact"], r["topics"]) for r in results]
        for name in families.values():
            by_family[model][name] = np.concatenate([pooled(own, families)[name] for own, _ in exact])
        for name in sorted(topics):
            by_topic[model][name] = np.concatenate([_of_topic(*own, name) for own in exact])
    report["by_family"], report["by_topic"] = accuracy(by_family), accuracy(by_topic)
    report["pictures"] = {world: _pictures(results, world) for world in families}
    report["constant_answers"] = first["constant"]["answers"]
    report["experts"] = [experts(result, families, shuffles) for result in results]
    return report


def _of_topic(exact: dict[str, list[float]], topics: dict[str, list[str]], name: str) -> np.ndarray:
    """Exactness of the answers to the questions of one topic, named "world: topic"."""
    world, _, wanted = name.partition(": ")
    return np.array([e for e, own in zip(exact[world], topics[world], strict=True) if own == wanted])


def accuracy(exact: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """By group: exact match of each model, and what the trained one has more than the others, paired by question."""
    out = {}
    for group, ours in exact["ppo"].items():
        found: dict[str, Any] = {model: mean_interval(exact[model][group]) for model in MODELS}
        for other in MODELS[:-1]:
            difference = mean_interval(ours - exact[other][group])
            found[f"ppo_minus_{other}"] = difference | {"verdict": verdict(difference)}
        out[group] = found | {"questions": len(ours)}
    return out


def _pictures(results: Sequence[dict[str, Any]], world: str) -> dict[str, float]:
    """How well the pictures of ``world`` are coded, dreamed and drawn; means over seeds."""
    values = {f"codec_{name}": [r["codec"][world][name] for r in results] for name in ("redrawn", "apart")}
    values |= {f"dreamed_{model}": [r[model]["frames"][world] for r in results] for model in ("pretrained", "ppo")}
    values["drawn_ppo"] = [r["ppo"]["pictures"][world] for r in results]
    return {name: float(np.mean(own)) for name, own in values.items()}


def experts(result: dict[str, Any], families: dict[str, str], shuffles: int) -> dict[str, Any]:
    """Of one seed: usage of the experts by family, mutual information, and what is lost without each of them."""
    usage = pooled(result["ppo"]["usage"], families)
    labels = np.concatenate([np.full(len(own), number) for number, own in enumerate(usage.values())])
    complete = pooled(result["ppo"]["exact"], families)
    left_out = []
    for alone in result["without"]:
        exact = pooled(alone["exact"], families)
        loss = {world: value - result["ppo"]["loss"][world] for world, value in alone["loss"].items()}
        more = {name: float(np.mean([loss[w] for w, own in families.items() if own == name])) for name in usage}
        less = {name: mean_interval(exact[name] - complete[name]) for name in usage}
        left_out.append({"exact_match": less, "loss": more})
    return {
        "seed": result["seed"],
        "usage": {name: own.mean(axis=0).tolist() for name, own in usage.items()},
        "information": information(np.concatenate(list(usage.values())), labels, shuffles),
        "without": left_out,
    }


def markdown(report: dict[str, Any]) -> str:
    """The report as tables."""
    settings, size = report["settings"], report["parameters"]
    worlds = ", ".join(f"{world} ({family})" for world, family in report["families"].items())
    about = (
        f"One model of {size['model']:,} parameters that dreams, and a baseline of {size['baseline']:,} that does not; "
        f"both trained on all of {worlds}: {settings['steps']} updates of pretraining, {settings['iterations']} "
        f"iterations of PPO; seeds {', '.join(map(str, report['seeds']))}. Questions are held out. Exact match with 4 "
        "dreams (baseline: the most frequent of 4 answers), its 95% interval by bootstrap. constant: the answer to "
        "each topic that is right most often in training. A verdict is on ppo minus constant, paired by question."
    )
    head = ["questions", *MODELS, "ppo - constant", "than a constant answer", "than the baseline"]
    lines = ["# Families", "", about, "", *markdown_table(["family", *head], _accuracy_rows(report["by_family"]))]
    lines += ["", *markdown_table(["topic", *head], _accuracy_rows(report["by_topic"]))]
    lines += ["", "## Pictures", "", *_picture_lines(report)]
    for own in report["experts"]:
        lines += ["", f"## Experts, seed {own['seed']}", "", *_expert_lines(own)]
    return "\n".join(lines) + "\n"


def _accuracy_rows(groups: dict[str, Any]) -> list[list[str]]:
    rows = []
    for group, found in groups.items():
        cells = [_cell(found[model]) for model in MODELS]
        cells.append(_cell(found["ppo_minus_constant"], "+"))
        cells += [found[f"ppo_minus_{other}"]["verdict"] for other in ("constant", "baseline")]
        rows.append([group, str(found["questions"]), *cells])
    return rows


def _picture_lines(report: dict[str, Any]) -> list[str]:
    names = next(iter(report["pictures"].values()))
    rows = [[world, *(f"{value:.3f}" for value in own.values())] for world, own in report["pictures"].items()]
    text = (
        "codec redrawn: frames that look the same after coding; apart: distinct patches whose code no other has. "
        "dreamed: frames that equal the simulator's, code by code, in dreams on their own pictures. drawn: answers "
        "drawn as a picture that show what the simulator shows."
    )
    return [text, "", *markdown_table(["world", *(name.replace("_", " ") for name in names)], rows)]


def _expert_lines(own: dict[str, Any]) -> list[str]:
    """Usage, information and what is lost without each expert."""
    count, found = len(own["without"]), own["information"]
    head = [f"expert {e}" for e in range(count)]
    lines = ["Share of the routed weight, by family:", ""]
    lines += markdown_table(
        ["family", *head], [[name, *(f"{v:.3f}" for v in row)] for name, row in own["usage"].items()]
    )
    sure = "more than chance" if found["bits"] > found["shuffled_95"] else "**no more than chance**"
    lines += [
        "",
        f"Mutual information of family and expert: {found['bits']:.3f} bits; with the families of the questions "
        f"shuffled {found['shuffled_mean']:.4f} on average, 95% quantile {found['shuffled_95']:.4f} "
        f"(p = {found['p']:.4f}): {sure}.",
        "",
        "Without one expert, minus the complete model: exact match, and loss on held-out random play in nats.",
        "",
    ]
    names = list(own["usage"])
    rows = [
        [label, *(_cell(left["exact_match"][n], "+") for n in names), *(f"{left['loss'][n]:+.3f}" for n in names)]
        for label, left in zip(head, own["without"], strict=True)
    ]
    return lines + markdown_table(["without", *(f"{n} EM" for n in names), *(f"{n} loss" for n in names)], rows)


def _cell(entry: dict[str, Any], sign: str = "") -> str:
    low, high = entry["ci"]
    return f"{entry['mean']:{sign}.3f} [{low:.2f}, {high:.2f}]"


def draw_usage(report: dict[str, Any], path: Path) -> None:
    """Usage of the experts by family as a heat map, one panel a seed, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    seeds = report["experts"]
    figure, panels = pyplot.subplots(
        1, len(seeds), figsize=(4.5 * len(seeds), 3.2), layout="constrained", squeeze=False
    )
    image = None
    for axes, own in zip(panels[0], seeds, strict=True):
        usage = np.array(list(own["usage"].values()))  # (F, E)
        image = axes.imshow(usage, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(usage.shape[1]))
        axes.set_yticks(range(len(usage)), list(own["usage"]))
        axes.set(xlabel="expert", title=f"seed {own['seed']}: {own['information']['bits']:.2f} bits")
        for (row, column), share in np.ndenumerate(usage):
            colour = "white" if share > 0.5 else "black"
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", color=colour)
    assert image is not None
    figure.colorbar(image, ax=panels[0].tolist(), label="share of routed weight")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
