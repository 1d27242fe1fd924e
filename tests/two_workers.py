"""Pretraining by two processes of plain torch: what two workers of Ray Train must end with, to the bit."""

import torch
from torch.nn.parallel import DistributedDataParallel

from dreamrl.pretrain import pretrain_loop


def pretrain_by_two(run, out):
    """Pretrain ``run`` into ``out`` without Ray."""
    out.mkdir(parents=True)
    torch.multiprocessing.spawn(_worker, (run, out), nprocs=2)


def _worker(rank, run, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{out / 'meeting'}", rank=rank, world_size=2)
    pretrain_loop(run, out, rank, 2, lambda module: DistributedDataParallel(module, broadcast_buffers=False))
    torch.distributed.destroy_process_group()
