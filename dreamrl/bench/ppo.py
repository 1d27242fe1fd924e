"""A whole PPO iteration: ours, RLlib's own, and Stable-Baselines3's on the same world; and where the time goes.

RLlib's own means its env runner with vectorised environments and its default connectors, with the same module and
the same loss. Stable-Baselines3 (Raffin et al. 2021) cannot run the module: a perceptron with about as many weights
takes its place, which computes far less per weight (the module reads every patch of every dream).

Time is processor time of this process, where everything runs, so that other programs do not count in it.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Sequence
from typing import Any

from dreamrl.bench.rollout import model_directory, quiet, settings
from dreamrl.bench.run import at_least_one
from dreamrl.cluster import ray_session
from dreamrl.errors import UserError
from dreamrl.printing import markdown_table
from dreamrl.rl.algorithm import algorithm_config
from dreamrl.rl.stock import stock_algorithm
from dreamrl.saving import Loaded

SB3 = "stable-baselines3==2.9.2"
"""The version that runs beside gymnasium 1.2.2."""
PARTS = ("sample", "connectors", "values", "learn", "sync", "other", "idle")


def bench(
    preset: str = "nano",
    overrides: Sequence[str] = (),
    questions: int = 64,
    repeats: int = 3,
    sb3: bool | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Env steps per second of whole PPO iterations, which take turns; medians are compared.

    Args:
        preset: sizes of the networks.
        overrides: settings of the run, such as ppo.epochs=1.
        questions: episodes of an iteration, and vectorised environments of the others.
        repeats: turns.
        sb3: whether Stable-Baselines3 takes part; None: if it is installed.
        seed: of weights and questions.

    Returns:
        ``ours``, ``stock`` and ``sb3`` (None without it); ``ours_to_stock``, ``ours_to_sb3``; ``seconds`` of an
        iteration by ``PARTS``, for ours and stock: sampling, connectors (env runner's and learner's), the values that
        RLlib's connector asks the module for, learning, sending weights, the rest, and the time that this process
        did not compute; ``parameters`` of the module and of the perceptron.
    """
    at_least_one(questions=questions, repeats=repeats)
    installed = importlib.util.find_spec("stable_baselines3") is not None
    if sb3 and not installed:
        raise UserError(f"sb3=true needs Stable-Baselines3: pip install {SB3}")
    run = settings(preset, overrides, seed, questions)
    with model_directory(run) as (loaded, directory):
        with ray_session(run, directory.parent, "local"), quiet():
            made: dict[str, Any] = {
                "ours": Measured(algorithm_config(run, directory).build_algo()),
                "stock": Measured(stock_algorithm(run, loaded, directory)),
            }
            if installed and sb3 is not False:
                from dreamrl.bench.sb3 import Perceptron

                made["sb3"] = Perceptron(run, loaded)
            for turn in range(repeats + 1):
                for one in made.values():
                    one.iterate(count=turn > 0)  # the first turn fills caches
            result = report(made, loaded)
            made["ours"].algorithm.stop()
            made["stock"].algorithm.stop()
    return result


def report(made: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
    """The numbers, which are also printed."""
    speeds = {name: statistics.median(one.speeds) for name, one in made.items()}
    seconds = {
        name: {part: round(statistics.median(turn[part] for turn in made[name].turns), 4) for part in PARTS}
        for name in ("ours", "stock")
    }
    print("\n".join(markdown_table(["PPO", "env steps/s"], [[name, f"{speed:.1f}"] for name, speed in speeds.items()])))
    rows = [[name, *(f"{parts[part]:.3f}" for part in PARTS)] for name, parts in seconds.items()]
    print("\n".join(markdown_table(["seconds of an iteration", *PARTS], rows)))
    if "sb3" not in made:
        print(f"without Stable-Baselines3; to compare with it: pip install {SB3}")
    return {
        "ours": round(speeds["ours"], 1),
        "stock": round(speeds["stock"], 1),
        "sb3": round(speeds["sb3"], 1) if "sb3" in made else None,
        "ours_to_stock": round(speeds["ours"] / speeds["stock"], 3),
        "ours_to_sb3": round(speeds["ours"] / speeds["sb3"], 3) if "sb3" in made else None,
        "seconds": seconds,
        "parameters": {
            "module": sum(p.numel() for p in loaded.model.parameters()),
            "sb3": made["sb3"].parameters if "sb3" in made else None,
        },
    }


class Timed:
    """Calls ``work`` and adds the time that it takes to ``spent[part]``; otherwise like ``work``."""

    def __init__(self, work: Any, spent: dict[str, float], part: str):
        """See the class."""
        self.work, self.spent, self.part = work, spent, part

    def __call__(self, *args, **kwargs) -> Any:
        """See the class."""
        started = time.process_time()
        result = self.work(*args, **kwargs)
        self.spent[self.part] += time.process_time() - started
        return result

    def __getattr__(self, name: str) -> Any:
        """What callers ask of ``work`` besides calling it."""
        return getattr(self.work, name)


class Measured:
    """An RLlib algorithm whose parts are timed; everything runs in this process.

    Args:
        algorithm: built already.
    """

    def __init__(self, algorithm: Any):
        """See the class."""
        self.algorithm = algorithm
        self.spent: dict[str, float] = dict.fromkeys(("sample", "env", "update", "learner", "values", "sync"), 0.0)
        self.speeds: list[float] = []
        self.turns: list[dict[str, float]] = []
        runner, learner = algorithm.env_runner_group.local_env_runner, algorithm.learner_group._learner
        module = learner.module["default_policy"].unwrapped()
        for owner, name, part in (
            (runner, "sample", "sample"),
            (runner, "_env_to_module", "env"),
            (runner, "_module_to_env", "env"),
            (algorithm.learner_group, "update", "update"),
            (learner, "_learner_connector", "learner"),
            (module, "compute_values", "values"),
            (algorithm.env_runner_group, "sync_weights", "sync"),
        ):
            object.__setattr__(owner, name, Timed(getattr(owner, name), self.spent, part))

    def iterate(self, count: bool) -> None:
        """One iteration; ``count`` says whether its time counts."""
        self.spent.update(dict.fromkeys(self.spent, 0.0))
        cpu, clock = time.process_time(), time.perf_counter()
        result = self.algorithm.train()
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        if not count:
            return
        spent, steps = self.spent, float(result["env_runners"]["num_env_steps_sampled"])
        parts = {
            "sample": spent["sample"] - spent["env"],
            "connectors": spent["env"] + spent["learner"] - spent["values"],
            "values": spent["values"],
            "learn": spent["update"] - spent["learner"],
            "sync": spent["sync"],
        }
        self.speeds.append(steps / cpu)
        self.turns.append(parts | {"other": cpu - sum(parts.values()), "idle": max(0.0, clock - cpu)})
