"""The results of an ablation as JSON and as a table: means over seeds, with intervals that few seeds allow.

Every number is of the same held-out boards. A variant is compared with the default seed by seed: both start from the
same seed's boards, questions and, where the shapes agree, initial weights, so part of the luck cancels out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamrl.errors import UserError
from dreamrl.files import write_atomically
from dreamrl.printing import markdown_table
from dreamrl.statistics import mean_interval
from dreamrl.terminal import format_seconds

DEFAULT = "default"
BETTER, WORSE, SAME = "better", "worse", "no difference at this budget"
NO_VERDICT = "too few seeds for a verdict"
NUMBERS = ("exact_match", "progress_rate", "valid", "exact_frame")
"""What is measured with each number of dreams."""


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The finished pieces in ``paths``."""
    results = []
    for path in paths:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is no finished piece of an ablation ({error}); delete it") from error
        if not isinstance(found, dict) or not {"variant", "seed", "settings", *NUMBERS} <= set(found):
            raise UserError(f"{path} is no finished piece of an ablation; delete it")
        results.append(found)
    return results


def verdict(difference: float, half: float | None) -> str:
    """What a paired difference to the default says."""
    if half is None:
        return NO_VERDICT
    return SAME if abs(difference) <= half else BETTER if difference > 0 else WORSE


def summarise(results: Sequence[dict[str, Any]], variants: dict[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """All ``results`` by variant, in the order of ``variants``, as plain JSON values."""
    by_variant: dict[str, dict[int, dict[str, Any]]] = {}
    for result in results:
        by_variant.setdefault(result["variant"], {})[result["seed"]] = result
    known = [name for name in variants if name in by_variant]
    default = by_variant.get(DEFAULT, {})
    return {name: summary_of(by_variant[name], default, *variants[name]) for name in known}


def summary_of(
    own: dict[int, dict[str, Any]], default: dict[int, dict[str, Any]], description: str, settings: list[str]
) -> dict[str, Any]:
    """One variant: its results by seed, those of the default by seed, what it is and its settings."""
    seeds = sorted(own)
    first = own[seeds[0]]
    out: dict[str, Any] = {"description": description, "overrides": settings, "seeds": seeds}
    out |= {name: first[name] for name in ("parameters", "flops")}
    for clock in ("seconds", "cpu_seconds"):
        out[clock] = {stage: float(np.mean([own[s][clock][stage] for s in seeds])) for stage in first[clock]}
    for name in NUMBERS:
        counts = [n for n, value in first[name].items() if value is not None]
        out[name] = {n: numbers([own[s][name][n] for s in seeds]) for n in counts}
    paired = [s for s in seeds if s in default]
    if paired and own is not default:
        counts = [n for n in first["exact_match"] if all(n in default[s]["exact_match"] for s in paired)]
        out["difference"] = {
            n: numbers([own[s]["exact_match"][n] - default[s]["exact_match"][n] for s in paired]) for n in counts
        }
        for entry in out["difference"].values():
            entry["verdict"] = verdict(entry["mean"], entry["half_width"])
    return out


def numbers(values: Sequence[float]) -> dict[str, Any]:
    """One value a seed, as JSON."""
    mean, half = mean_interval(values)
    return {"mean": mean, "half_width": half, "values": list(values)}


def write_report(out: Path, variants: dict[str, tuple[str, list[str]]]) -> None:
    """Write ``ablation.json`` and ``ablation.md`` anew from all finished pieces and the plan in ``out``."""
    record = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    summary = summarise(read_results(sorted((out / "pieces").glob("*.json"))), variants)
    write_atomically(out / "ablation.json", json.dumps(record | {"variants": summary}, indent=1) + "\n")
    write_atomically(out / "ablation.md", markdown(record, summary))


def markdown(record: dict[str, Any], summary: dict[str, Any]) -> str:
    """The report as Markdown: a caption, the table of what counts, one of the rest."""
    settings = record["settings"]
    counts = [str(n) for n in settings["eval"]["dreams"]]
    compared = compared_at(settings)
    head = ["variant", "seeds", "parameters", "MFLOPs", "pretrain", "PPO", *(f"EM@{n}" for n in counts)]
    rows = [table_row(name, own, counts, compared) for name, own in summary.items()]
    rest = [
        [name, own["description"], *(spread(own[number], compared) for number in ("progress_rate", "exact_frame"))]
        + [f"{own['cpu_seconds'][stage]:.0f} s" for stage in ("pretrain", "ppo")]
        for name, own in summary.items()
    ]
    lines = ["# Ablation", "", *caption(record, summary, compared), ""]
    lines += markdown_table([*head, f"EM@{compared} minus default", "verdict"], rows)
    more = summary.get(DEFAULT, {}).get("exact_match", {})
    if more:
        by_count = ", ".join(f"{n}: {spread(more, n)}" for n in sorted(more, key=int))
        lines += ["", f"Exact match of the default by number of dreams: {by_count}."]
    head = ["variant", "what it is", f"progress rate@{compared}", f"exact frames@{compared}", "pretrain CPU", "PPO CPU"]
    lines += ["", *markdown_table(head, rest)]
    return "\n".join(lines) + "\n"


def compared_at(settings: dict[str, Any]) -> str:
    """The number of dreams at which variants are compared: that of training, if it is measured, else the largest."""
    own, counts = settings["model"]["num_dream_sequences"], settings["eval"]["dreams"]
    return str(own if own in counts else max(counts))


def caption(record: dict[str, Any], summary: dict[str, Any], compared: str) -> list[str]:
    """What the numbers are and how far they can be trusted."""
    settings = record["settings"]
    sides = ", ".join(f"{side}x{side}" for side in trained_sizes(settings["world"]))
    verdicts = sum(
        own.get("difference", {}).get(compared, {}).get("half_width") is not None for own in summary.values()
    )
    return [
        f"Budget {record['budget']:g}: {settings['pretrain']['steps']} updates of pretraining on random play, "
        f"{settings['ppo']['iterations']} iterations of PPO (where a variant does not say otherwise). "
        f"{settings['eval']['num_items']} held-out boards, {sides}, the same for all. EM@n: exact match with n dreams "
        "(of a baseline: the most frequent of n answers), mean over seeds ± half the width of its 95% interval "
        "(Student's t over seeds). The last columns: difference to the default, paired by seed, with its 95% interval; "
        "better or worse where it does not hold 0. "
        f"Verdicts: {verdicts}; of variants that change nothing, one in 20 would get better or worse by chance.",
        "",
        f"MFLOPs: of one answer about a 4x4 board with {settings['model']['num_dream_sequences']} dreams of "
        f"{settings['model']['dream_length']} steps. Seconds are wall time on one thread, work repeated after a kill "
        "included; variants that differ only in PPO share their pretraining. CPU seconds depend less on what else "
        "the machine does.",
    ]


def trained_sizes(world: dict[str, Any]) -> tuple[int, ...]:
    """Sizes of the scenes; a world's own choice is not written down in the settings."""
    from envs.registry import make_world

    return tuple(world["sizes"]) or make_world(world["name"], worlds=world["worlds"]).sizes


def table_row(name: str, own: dict[str, Any], counts: Sequence[str], compared: str) -> list[str]:
    """One variant in the table."""
    seconds = (f"{own['seconds'].get(stage, 0.0):.0f} s" for stage in ("pretrain", "ppo"))
    cells = [name, str(len(own["seeds"])), f"{own['parameters']:,}", f"{own['flops'] / 1e6:.1f}", *seconds]
    cells += [spread(own["exact_match"], n) for n in counts]
    difference = own.get("difference", {})
    return [*cells, spread(difference, compared, "+"), difference.get(compared, {}).get("verdict", "-")]


def spread(entries: dict[str, Any], count: str, sign: str = "") -> str:
    """``0.912 +- 0.014`` from the entry for ``count`` dreams; a dash where there is none."""
    if count not in entries:
        return "-"
    entry = entries[count]
    half = "" if entry["half_width"] is None else f" ± {entry['half_width']:.3f}"
    return f"{entry['mean']:{sign}.3f}{half}"


def result_line(result: dict[str, Any]) -> str:
    """A finished piece in a few words."""
    counts = list(result["exact_match"])
    exact = " / ".join(f"{result['exact_match'][n]:.3f}" for n in counts)
    stages = ", ".join(f"{stage} {format_seconds(seconds)}" for stage, seconds in result["seconds"].items())
    asked = "answers" if all(value is None for value in result["exact_frame"].values()) else "dreams"
    return f"exact match {exact} with {' / '.join(counts)} {asked}, {stages}"
