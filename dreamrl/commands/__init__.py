"""The commands of ``dreamrl``: what each may be given, what it checks before it starts, and what it then calls.

Nothing slow (torch, Ray) is imported before the checks have passed, so that help and errors come at once. A new
command is a pair of functions in one of these modules and an entry of :data:`COMMANDS`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dreamrl.commands import asking, reporting, searching, serving, tools, training, watching


@dataclass(frozen=True)
class Command:
    """One command; calling it with its parsed arguments runs it.

    Example:
        >>> parser = argparse.ArgumentParser()
        >>> COMMANDS["worlds"].arguments(parser)
        >>> parser.parse_args(["check", "frozen_lake"]).world
        'frozen_lake'
    """

    help: str
    """One line for ``dreamrl --help``."""
    arguments: Callable[[argparse.ArgumentParser], None]
    """Adds what the command may be given to its parser."""
    run: Callable[[argparse.Namespace], None]
    """Checks the arguments and does the work."""

    def __call__(self, args: argparse.Namespace) -> None:
        """Run it."""
        self.run(args)


COMMANDS = {
    "train": Command(
        "pretrain on random play, PPO in dreams, evaluate: the main job",
        partial(training.training_arguments, command="train"),
        training.train,
    ),
    "pretrain": Command(
        "only pretrain on random play", partial(training.training_arguments, command="pretrain"), training.train
    ),
    "ppo": Command(
        "only PPO in dreams, then evaluate", partial(training.training_arguments, command="ppo"), training.train
    ),
    "collect": Command(
        "play at random ahead of pretraining and keep the records", training.collect_arguments, training.collect
    ),
    "submit": Command(
        "run train, pretrain, ppo, collect or tune as a job of a cluster", training.submit_arguments, training.submit
    ),
    "ablate": Command(
        "train variants of the model over several seeds and compare them", searching.ablate_arguments, searching.ablate
    ),
    "tune": Command("search for good settings over many trials on Ray Tune", searching.tune_arguments, searching.tune),
    "feedback": Command(
        "learn from people's ratings or preferences how to word answers", asking.feedback_arguments, asking.feedback
    ),
    "eval": Command("measure a model on held-out or given items", asking.eval_arguments, asking.evaluate),
    "generate": Command("answer one prompt", asking.generate_arguments, asking.generate),
    "serve": Command("answer over HTTP, with a web page", serving.serve_arguments, serving.serve),
    "chat": Command("talk to a model in the terminal", serving.chat_arguments, serving.chat),
    "watch": Command("watch a run that another process works on", watching.watch_arguments, watching.watch),
    "report": Command(
        "write a run's curves, results and dreams as one HTML file", reporting.report_arguments, reporting.report
    ),
    "compare": Command("set two runs side by side in one HTML file", reporting.compare_arguments, reporting.compare),
    "worlds": Command("list the worlds, or check one", tools.worlds_arguments, tools.worlds),
    "bench": Command("measure one mechanism", searching.bench_arguments, searching.bench),
    "doctor": Command("say whether this machine can train, and what to mend", tools.doctor_arguments, tools.doctor),
    "completion": Command("print a script that completes commands", tools.completion_arguments, tools.completion),
}
"""Name of a command -> what it takes and does, in the order of ``dreamrl --help``."""
