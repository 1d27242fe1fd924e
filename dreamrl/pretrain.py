"""Supervised pretraining on random play: a plain torch loop, and the same loop on Ray Train.

Workers share each update's scenes; gradients are averaged by DistributedDataParallel. The newest complete
checkpoint on disk is where a run goes on, whoever stopped it. What is learned from is played on the fly, or
collected before (``dreamrl.stored``) and streamed by Ray Data.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from dreamrl.album import show_if_due
from dreamrl.calibration import calibrate
from dreamrl.checkpoint import newest_checkpoint, save_checkpoint
from dreamrl.config import RunConfig
from dreamrl.data import RandomPlay
from dreamrl.device import compute_of, exchanged_on, takes_gpus
from dreamrl.errors import UserError
from dreamrl.losses import codec_loss, pretrain_loss, touch_all
from dreamrl.metrics import MetricsWriter
from dreamrl.model import DreamingReasoningLLM
from dreamrl.probe import Probe
from dreamrl.process import settle
from dreamrl.records import CODEC_SCENES
from dreamrl.saving import Loaded, new_model, save_pretrained, set_training, training_tensors
from dreamrl.shards import Span, plain_tables, portions, read_span
from dreamrl.stop import StopRequest
from dreamrl.stored import Reader, StoredPlay

CODEC_LR = 3e-3
CHECKPOINTS = "checkpoints"
STAGE = "pretrain"
RESIZE_SECONDS = 20.0  # between two looks for workers that could join; Ray's own is a minute


class PretrainStep(nn.Module):
    """The loss as a module's forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, model: DreamingReasoningLLM):
        """Args: ``model`` to train."""
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """See :func:`dreamrl.losses.pretrain_loss`."""
        loss, metrics = pretrain_loss(self.model, batch)
        return loss + touch_all(self.model), metrics


def train_codec(loaded: Loaded, data: RandomPlay | StoredPlay) -> float:
    """Train the image codec, then freeze it; returns its last loss. Cheap, so every worker does the same."""
    model = loaded.model
    patches = data.patches(CODEC_SCENES).to(model.codec.levels.device)
    optimizer = torch.optim.Adam(model.codec.parameters(), lr=CODEC_LR)
    loss = torch.zeros(())
    for _ in range(loaded.run.pretrain.codec_steps):
        loss = codec_loss(model, patches)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.codec.requires_grad_(False)
    model.codec.forget()
    model.codec.trained = True
    return float(loss.detach())


def batches(loaded: Loaded, num: int, scenes: int) -> Iterator[dict[str, Tensor]]:
    """``num`` batches of random play with ``scenes`` scenes each; the codec is trained first if it is not."""
    data = RandomPlay(loaded.run, loaded.world, loaded.text, loaded.model.codec)
    if not loaded.model.codec.trained:
        train_codec(loaded, data)
    for index in range(num):
        yield data.batch(index, scenes)


def learning_rate(run: RunConfig, step: int) -> float:
    """Warm-up over 30 updates, then cosine decay to 2%."""
    total = max(1, run.pretrain.steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / total)))
    return run.pretrain.lr * min(1.0, (step + 1) / 30) * (0.02 + 0.98 * cosine)


def pretrain_loop(
    run: RunConfig,
    out: Path,
    rank: int = 0,
    workers: int = 1,
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    should_stop: Callable[[], bool] = lambda: False,
    collected: Path | None = None,
    reader: Reader = plain_tables,
    progress: Callable[[int, Mapping[str, float]], None] = lambda done, values: None,
    device: torch.device | None = None,
) -> Loaded | None:
    """Pretrain from scratch or from the newest checkpoint under ``out``; rank 0 writes everything.

    Args:
        run: the settings.
        out: the run's directory.
        rank: this process's place among all that train together.
        workers: how many train together.
        wrap: makes the loss module data-parallel.
        should_stop: asked at every logged update, on all ranks alike; True ends with a checkpoint.
        collected: directory of records that ``dreamrl collect`` wrote; None: random play on the fly.
        reader: how its files are read.
        progress: called by rank 0 with the updates done and their metrics whenever these are logged.
        device: where this process trains; None: where the settings say.

    Returns:
        the trained model, which rank 0 has saved as ``out/pretrained``; None if it was stopped before.
    """
    settle(run.deterministic)
    loaded = new_model(run)
    model, settings, compute = loaded.model, run.pretrain, compute_of(run, device)
    compute.prepare(model)
    data = RandomPlay(run, loaded.world, loaded.text, model.codec)
    if collected is not None:
        data = StoredPlay(run, loaded.world, loaded.text, model.codec, collected, reader)
    found = newest_checkpoint(out / CHECKPOINTS, STAGE)
    start = 0
    if found is None:
        codec_error = train_codec(loaded, data)
    else:
        start, codec_error = int(found[2]["step"]), float(found[2]["codec_loss"])
        model.codec.requires_grad_(False)
    step_module = wrap(PretrainStep(model))
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.lr, weight_decay=settings.weight_decay)
    if found is not None:
        set_training(model, optimizer, found[1])
    writer = MetricsWriter(out, resume=True) if rank == 0 else None
    probe = Probe(loaded)
    if writer is not None:
        writer.truncate_after(STAGE, start)
    clock, logged = time.perf_counter(), start
    for step in range(start, settings.steps):
        batch = compute.put(data.batch(step, settings.scenes_per_step, rank, workers))
        with compute.learning():
            loss, metrics = step_module(batch)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(trained, settings.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(run, step)
        optimizer.step()
        model.balance(metrics)
        done = step + 1
        last, stopping = done == settings.steps, False
        if done % LOG_EVERY == 0 or last:
            stopping = not last and should_stop()
            seconds = time.perf_counter() - clock
            values = {f"pretrain/{k}": float(v) for k, v in metrics.items()}
            values |= {"pretrain/loss/total": float(loss.detach()), "pretrain/loss/codec": codec_error}
            values |= {"pretrain/grad_norm": float(norm), "pretrain/lr": optimizer.param_groups[0]["lr"]}
            values["pretrain/scenes_per_second"] = (done - logged) * settings.scenes_per_step / max(seconds, 1e-9)
            if done % PROBE_EVERY == 0 or last:
                values |= {f"pretrain/{k}": v for k, v in probe().items()}
            if writer is not None:
                writer.write(done, STAGE, values)
                show_if_due(loaded, writer, STAGE, done, last)
                progress(done, values)
            clock, logged = time.perf_counter(), done
        if rank == 0 and (done % settings.checkpoint_every == 0 or last or stopping):
            state = {"step": done, "codec_loss": codec_error, "seed": run.seed}
            save_checkpoint(out / CHECKPOINTS, f"{STAGE}-{done:08d}", training_tensors(model, optimizer), state)
        if stopping:
            return None
    if rank == 0:
        calibrate(loaded)
        save_pretrained(loaded, out / "pretrained")
        assert writer is not None
        writer.close()
    return loaded


LOG_EVERY = 10
PROBE_EVERY = 50


def _ray_worker(config: dict[str, Any]) -> None:
    """One Ray Train worker."""
    import ray.train
    import ray.train.torch

    from dreamrl.settings import from_dict

    context = ray.train.get_context()
    request = StopRequest(Path(config["out"]))
    device = torch.device("cpu")
    if config["gpus"]:
        device = ray.train.torch.get_device()
        torch.cuda.set_device(device)

    def should_stop() -> bool:
        if not torch.distributed.is_initialized():
            return request.asked
        asked = torch.tensor(float(request.asked), device=exchanged_on())
        torch.distributed.broadcast(asked, src=0)  # one answer for all ranks
        return bool(asked)

    pretrain_loop(
        from_dict(config["run"], "the driver's settings"),
        Path(config["out"]),
        rank=context.get_world_rank(),
        workers=context.get_world_size(),
        wrap=lambda module: ray.train.torch.prepare_model(
            module, move_to_device=device, parallel_strategy_kwargs={"broadcast_buffers": False}
        ),
        should_stop=should_stop,
        collected=Path(config["collected"]) if config["collected"] else None,
        reader=ray_tables,
        device=device,
    )
    ray.train.report({"done": 1})


PORTION = 2048
"""Records of one worker that Ray Data reads at a time; 10 to 40 MB."""
BLOCK_BYTES = 2**20


def ray_tables(spans: Iterable[Span]) -> Iterator[pa.Table]:
    """The records of ``spans`` as tables, in order, read by tasks of Ray Data.

    Not by ``ray.data.read_parquet``: that starts at the first row of a file, which a resumed run does not, hands every
    worker the records of all, and wants CPUs that the workers of Ray Train hold. Not in one pipeline: one whose output
    has to wait keeps its worker busy with asking again, which took half of a CPU.
    """
    import ray.data

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK_BYTES

    def read(rows: pa.Table) -> Iterator[pa.Table]:
        for row in rows.to_pylist():
            yield from read_span(Span(**row))

    for group in portions(spans, PORTION):
        files = ray.data.from_items([dataclasses.asdict(span) for span in group], override_num_blocks=len(group))
        tables = files.map_batches(
            read, batch_size=None, batch_format="pyarrow", num_cpus=0, compute=ray.data.TaskPoolStrategy(size=2)
        )
        yield from tables.iter_batches(batch_size=None, batch_format="pyarrow")


def pretrain_on_ray(run: RunConfig, out: Path, collected: Path | None = None) -> None:
    """Run :func:`pretrain_loop` on ``run.pretrain.num_workers`` Ray Train workers; Ray is already up.

    What was ``collected`` must be where every worker can read it. A worker has a GPU of its own or none at all.
    A worker that dies is restarted with its group, up to ``max_failures`` times, from the newest checkpoint on disk.
    """
    import ray
    from ray.train import FailureConfig, ScalingConfig, WorkerGroupError
    from ray.train import RunConfig as TrainRunConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from dreamrl.settings import to_dict

    fewest, most = run.pretrain.min_workers, run.pretrain.num_workers
    gpus = takes_gpus(run.device, "pretrain.num_workers", most, ray.cluster_resources().get("GPU", 0))
    trainer = TorchTrainer(
        _ray_worker,
        train_loop_config={
            "run": to_dict(run),
            "out": str(out.resolve()),
            "collected": None if collected is None else str(collected.resolve()),
            "gpus": gpus,
        },
        scaling_config=ScalingConfig(
            num_workers=(fewest, most) if fewest else most,
            resources_per_worker={"CPU": 1},
            use_gpu=gpus,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        run_config=TrainRunConfig(
            name="train",
            storage_path=str(out.resolve() / "ray"),
            failure_config=FailureConfig(max_failures=run.max_failures),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        for failure in error.worker_failures.values():
            if isinstance(failure, UserError):  # what only a worker can know of its machine
                raise failure from error
        raise
