"""Where a process computes for a run, and with which numbers: device, bfloat16, compiled blocks.

Weights, gradients and optimizer stay float32; bfloat16 is for the products in the forward passes of learning
(``torch.autocast``, as in Micikevicius et al. 2017, arXiv:1710.03740, with bfloat16, which needs no loss scale). What
must come out the same everywhere is never autocast: the image codec, whose codes are compared one by one, the router,
and the judge of the dreams. Sampling on a CPU is float32, too.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dreamrl.config import RunConfig
from dreamrl.errors import UserError
from dreamrl.machine import BF16_CAPABILITY
from dreamrl.nn.layers import Block

MOST_VARIANTS = 64
"""Variants of a block (masks, places, memory, one row or many) that are compiled before the rest is left as it is."""


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How one process computes.

    Example:
        >>> Compute(device=torch.device("cpu"), precision="bfloat16").like_sampling
        False
    """

    device: torch.device
    precision: str = "float32"
    compile: bool = False

    @property
    def like_sampling(self) -> bool:
        """Whether learning here rounds as sampling on a CPU does."""
        return self.device.type == "cpu" and self.precision == "float32" and not self.compile

    def learning(self) -> AbstractContextManager[Any]:
        """Around forward passes that are learned from."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bfloat16" else nullcontext()

    def sampling(self) -> AbstractContextManager[Any]:
        """Around forward passes that sample: bfloat16 pays on a GPU only."""
        return self.learning() if self.device.type == "cuda" else nullcontext()

    def put(self, data: Any) -> Any:
        """``data``, a tensor or a dict of such, on the device; single numbers stay, because the CPU reads them."""
        if isinstance(data, Mapping):
            return {name: self.put(value) for name, value in data.items()}
        if data.dim() == 0 or data.device.type == self.device.type:
            return data
        if self.device.type == "cuda":  # from pinned memory the copy does not wait for the GPU, nor the CPU for it
            return data.pin_memory().to(self.device, non_blocking=True)
        return data.to(self.device)

    def prepare(self, model: nn.Module) -> None:
        """Move ``model`` to the device, in place, and compile its blocks if asked to."""
        model.to(self.device)
        if self.compile:
            compile_blocks(model)


def compute_of(run: RunConfig, device: torch.device | None = None) -> Compute:
    """How this process computes for ``run``: on ``device``, else where the run's own setting says.

    Raises:
        UserError: the device is not here, or lacks what the run wants of it.
    """
    made = Compute(device=device or chosen(run.device), precision=run.precision, compile=run.compile)
    if made.precision == "bfloat16" and made.device.type == "cuda":
        if torch.cuda.get_device_capability(made.device) < (BF16_CAPABILITY, 0):
            name = torch.cuda.get_device_name(made.device)
            raise UserError(f"precision (bfloat16): {name} does not calculate in bfloat16; use precision=float32")
    if made.compile and not any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++"))):
        raise UserError("compile (true) needs a C++ compiler; install g++ or use compile=false")
    return made


def chosen(device: str) -> torch.device:
    """The torch device behind the setting ``device``: auto, cpu or cuda."""
    here = torch.cuda.is_available()
    if device == "cuda" and not here:
        raise UserError(f"device (cuda): torch {torch.__version__} finds no GPU here; use device=auto or device=cpu")
    return torch.device("cuda" if here and device != "cpu" else "cpu")


def for_answers(run: RunConfig) -> torch.device:
    """Where a finished model answers: it may have been trained on a GPU and be used where there is none."""
    return chosen("cpu" if run.device == "cpu" else "auto")


def takes_gpus(device: str, key: str, processes: int, there: float) -> bool:
    """Whether each of the ``processes`` that the setting ``key`` counts is to reserve a GPU.

    With device=auto only if all get one of the GPUs that are ``there``: Ray would wait for the others forever.
    """
    if device == "auto" and 1 <= there < processes:
        print(f"device (auto): {there:g} GPUs for {key} ({processes}): on the CPU; set {key}={there:.0f}", flush=True)
    return device == "cuda" or (device == "auto" and there >= processes)


def exchanged_on() -> torch.device:
    """Where small tensors must be that all processes of a group exchange: NCCL knows GPUs only."""
    nccl = torch.distributed.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")


def compile_blocks(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compile every transformer block of ``model``, in place; names of weights do not change.

    The blocks are where the time goes. Around them shapes depend on the data (which expert, which picture size, when
    a dream ends), which a compiler cannot see through; block by block it need not, and equal blocks share their code.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_VARIANTS)
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=True, backend=backend)


def as_floats(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Metrics, each one number, as floats: with one wait for the device instead of one each."""
    values = torch.stack([value.detach().float() for value in metrics.values()]).tolist() if metrics else []
    return dict(zip(metrics, values, strict=True))
