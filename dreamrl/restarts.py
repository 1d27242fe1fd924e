"""How often work may begin again after a process died."""

from __future__ import annotations

import re
from pathlib import Path

from dreamrl.checkpoint import newest_checkpoint


class Restarts:
    """Counts the deaths of one stage's processes; those before a new checkpoint count together.

    Args:
        stage: name of the stage, as in the names of its checkpoints.
        most: deaths without a new checkpoint in between that are survived.
        checkpoints: directory of the run's checkpoints.
    """

    def __init__(self, stage: str, most: int, checkpoints: Path):
        """See the class."""
        self.stage, self.most, self.checkpoints = stage, most, checkpoints
        self.reached, self.deaths = "", 0

    def count(self, error: BaseException) -> None:
        """Say why and where the stage goes on, or raise ``error`` if that is of no use or was tried often enough."""
        found = newest_checkpoint(self.checkpoints, self.stage)
        name = "its beginning" if found is None else found[0].name
        self.deaths = self.deaths + 1 if name == self.reached else 1
        self.reached = name
        if self.deaths > self.most or not is_death(error):
            raise error
        print(f"{self.stage}: a process died ({reason(error)}); going on from {name}", flush=True)


def is_death(error: BaseException) -> bool:
    """Whether a lost process can be behind ``error``, which Ray raised; a mistake in the program would only repeat.

    What survives of a group fails with a RuntimeError of torch when it waits for the one that died.
    """
    cause = origin(error)
    return isinstance(cause, RuntimeError | OSError) or type(cause).__module__.startswith("ray.")


def origin(error: BaseException) -> BaseException:
    """What a remote process raised, which Ray raises wrapped, perhaps more than once."""
    cause = getattr(error, "cause", None)
    return origin(cause) if isinstance(cause, BaseException) else error


def reason(error: BaseException) -> str:
    """The first line that says something, without the places in sources that torch puts in front of it."""
    error = origin(error)
    text = re.sub(r"^\[\S+:\d+\]\s*", "", str(error).strip())
    first = text.splitlines()[0] if text else type(error).__name__
    return first.split(". ")[0][:160].rstrip(".: ")
