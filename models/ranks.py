"""Processes that train together: `torchrun` starts them, on one machine or several, and each of them reads the whole log.

The trunk is trained by data-parallel gradient descent (torch's DistributedDataParallel, over gloo); the old lines that are launched in pretence, which take
most of the time, are shared out. Rank 0 has the result. One process alone is rank 0 of 1, and nothing of torch's is asked.
The trunk's steps are taken on the processor, or on a GPU of each rank's own as long as there are enough.
"""

from __future__ import annotations

import datetime as dt
import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import torch
import torch.distributed as distributed

from features.errors import InputError
from models.head import Matrix

T = TypeVar("T")
PROCESSOR: Final = torch.device("cpu")
PATIENCE: Final = dt.timedelta(hours=6)
"""How long one waits for another, which may be launching a line in pretence."""


@dataclass(frozen=True)
class Ranks:
    """`rank` of `size` processes, which takes the trunk's steps on `device`."""

    rank: int = 0
    size: int = 1
    device: torch.device = PROCESSOR

    def alone(self) -> Ranks:
        """Return one process by itself, on the same device."""
        return Ranks(device=self.device)

    def share_of(self, items: Sequence[T]) -> Sequence[T]:
        """Return those that are this rank's to work on."""
        return items[self.rank :: self.size]

    def gathered(self, mine: Matrix) -> Matrix:
        """Return the rows (N, W) that all ranks have, those of rank 0 first; W is the same for all. Every rank must call it."""
        if self.size == 1:
            return mine
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        distributed.all_gather(counts, torch.tensor([len(mine)]))
        most = max(int(count) for count in counts)
        padded = torch.zeros(most, mine.shape[1], dtype=torch.float64)
        padded[: len(mine)] = torch.from_numpy(mine)
        everyone = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(everyone, padded)
        return np.concatenate([rows[: int(count)].numpy() for rows, count in zip(everyone, counts, strict=True)])

    def as_rank_0(self, value: float) -> float:
        """Return what rank 0 has: what all decide by must be the same to the bit, on whatever machine. Every rank must call it."""
        if self.size == 1:
            return value
        told = torch.tensor([value], dtype=torch.float64)
        distributed.broadcast(told, src=0)
        return float(told[0])


ALONE: Final = Ranks()


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """Return the processor ("cpu"), or of a machine's GPUs ("cuda") the one that belongs to a rank there. Raises InputError where there is none."""
    if name == "cpu":
        return PROCESSOR
    if not torch.cuda.is_available():
        built = "sees none" if torch.version.cuda else f"is the build without CUDA ({torch.__version__})"
        raise InputError(f"there is no GPU to train on: torch {built}")
    return torch.device("cuda", local_rank % torch.cuda.device_count())


@contextmanager
def joined(size: int, device: torch.device = PROCESSOR) -> Iterator[Ranks]:
    """Join the other ones of `size` processes that torchrun has started, or stay alone if there is but one."""
    if size == 1:
        yield Ranks(device=device)
        return
    # Imported by torch itself once a group is there, its functions keep that group as a default for good: gloo's threads would go on while the process ends.
    importlib.import_module("torch.distributed.nn")
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(distributed.get_rank(), size, device)
    finally:
        distributed.destroy_process_group()
