"""The steps of a question one by one: a slow reference for the episodes that ``dreamrl.rollout`` makes."""

from typing import Any

import numpy as np

from dreamrl.columns import DREAM_VALUE, VF_PREDS, learned_columns
from dreamrl.config import RunConfig
from dreamrl.policy import STEP_COLUMNS
from envs.reasoning_batch import Phase


def own_steps(trace: list[dict], q: int) -> list[dict[str, Any]]:
    """Question ``q``'s part of the steps that it took."""
    return [
        {
            "obs": {k: v[q] for k, v in t["obs"].items()},
            "action": {k: v[q] for k, v in t["action"].items()},
            "columns": {k: v[q] for k, v in t["columns"].items()},
            "info": t["infos"][q],
        }
        for t in trace[:-1]
        if t["obs"]["phase"][q] != Phase.OVER
    ]


def step_columns(run: RunConfig, steps: list[dict[str, Any]], final: dict[str, Any]) -> dict[str, np.ndarray]:
    """(S, ...) columns of one question's S steps, from the policy and learned; ``final`` is its final info."""
    obs = {k: np.stack([s["obs"][k] for s in steps]) for k in steps[0]["obs"]}
    columns = {k: np.stack([s["columns"][k] for s in steps]) for k in STEP_COLUMNS}
    infos = [s["info"] for s in steps]
    infos[-1] = infos[-1] | final
    return columns | learned_columns(obs, infos, columns[DREAM_VALUE], columns[VF_PREDS], run)
