"""The trunk in torch, for training only; scoring runs `models.encode`, which a test holds equal to this.

x → standardise → piecewise-linear encoding in quantile bins → 256 → ReLU → LayerNorm → 64 → ReLU → 32 → bounded norm.
Trained on the source lines with three targets (click, cart, order within the window) and a head for each line, so that the shared layers must be
useful to all.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.encode import CLIP, NORM_EPSILON, TrunkArrays
from models.ranks import ALONE, Ranks
from models.rows import Rows, user_fold

MOST_PARAMETERS = 200_000
MOST_CHECKED_ROWS = 20_000
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are over, and how many there are at most."""


@dataclass(frozen=True)
class TrunkSettings:
    """How the trunk is built and trained; measured for 10 000 to 200 000 rows.

    It is checked against the held-out users four times an epoch, but not more often than every `check_steps`, and stops after `patience` checks without gain.
    """

    bins: int = 16
    width: int = 256
    middle: int = 64
    outputs: int = 32
    dropout: float = 0.5
    weight_decay: float = 0.03
    learning_rate: float = 3e-4
    batch: int = 256
    most_steps: int = 2500
    patience: int = 10
    check_steps: int = 15
    validation_folds: int = 6


class Trunk(nn.Module):
    """x (B, F) float32 → z (B, 32) float32 with |z| < √32."""

    mean: torch.Tensor
    std: torch.Tensor
    low: torch.Tensor
    reach: torch.Tensor
    source: torch.Tensor

    def __init__(self, mean: NDArray[np.float64], std: NDArray[np.float64], edges: list[NDArray[np.float32]], settings: TrunkSettings) -> None:
        super().__init__()
        self.edges = edges
        source = np.concatenate([np.full(max(0, len(e) - 1), j) for j, e in enumerate(edges)]).astype(np.int64)
        low = np.concatenate([e[:-1] for e in edges]).astype(np.float32)
        high = np.concatenate([e[1:] for e in edges]).astype(np.float32)
        for name, array in (("mean", mean), ("std", std), ("low", low), ("reach", high - low), ("source", source)):
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)))
        self.first = nn.Linear(len(source), settings.width)
        self.norm = nn.LayerNorm(settings.width, eps=NORM_EPSILON)
        self.second = nn.Linear(settings.width, settings.middle)
        self.third = nn.Linear(settings.middle, settings.outputs)
        self.dropout = nn.Dropout(settings.dropout)
        if (total := sum(p.numel() for p in self.parameters())) > MOST_PARAMETERS:
            raise ValueError(f"the trunk has {total} parameters, at most {MOST_PARAMETERS} are allowed: fewer bins")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return z (B, 32) for x (B, F)."""
        u = ((x.double() - self.mean) / self.std).clamp(-CLIP, CLIP).float()
        encoded = ((u[:, self.source] - self.low) / self.reach).clamp(0.0, 1.0)
        h = self.dropout(self.norm(torch.relu(self.first(encoded))))
        z = self.third(self.dropout(torch.relu(self.second(h))))
        bounded: torch.Tensor = z / torch.sqrt(1.0 + (z * z).mean(dim=1, keepdim=True))
        return bounded

    def to_arrays(self) -> TrunkArrays:
        """The weights as numpy arrays, for the artifact and for `models.encode`."""

        def array(p: torch.Tensor) -> NDArray[np.float32]:
            return np.ascontiguousarray(p.detach().numpy().astype(np.float32))

        starts = np.concatenate([[0], np.cumsum([len(e) for e in self.edges])]).astype(np.int64)
        return TrunkArrays(
            mean=self.mean.numpy().copy(), std=self.std.numpy().copy(), edges=np.concatenate(self.edges).astype(np.float32), starts=starts,
            w1=array(self.first.weight.T), b1=array(self.first.bias), gain=array(self.norm.weight), shift=array(self.norm.bias),
            w2=array(self.second.weight.T), b2=array(self.second.bias), w3=array(self.third.weight.T), b3=array(self.third.bias),
        )  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: TrunkArrays) -> Trunk:
        """The torch module of a stored trunk, in evaluation mode."""
        edges = [arrays.edges[a:b] for a, b in zip(arrays.starts[:-1], arrays.starts[1:], strict=True)]
        settings = TrunkSettings(width=len(arrays.b1), middle=len(arrays.b2), outputs=len(arrays.b3))
        trunk = cls(arrays.mean, arrays.std, edges, settings)
        with torch.no_grad():
            for layer, w, b in ((trunk.first, arrays.w1, arrays.b1), (trunk.second, arrays.w2, arrays.b2), (trunk.third, arrays.w3, arrays.b3)):
                layer.weight.copy_(torch.from_numpy(w.T.copy()))
                layer.bias.copy_(torch.from_numpy(b.copy()))
            trunk.norm.weight.copy_(torch.from_numpy(arrays.gain.copy()))
            trunk.norm.bias.copy_(torch.from_numpy(arrays.shift.copy()))
        return trunk.eval()


class LineHeads(nn.Module):
    """z (B, D) and line (B,) → logits (B, 3): for each target one head that all lines share, and each line's deviation from it."""

    def __init__(self, lines: int, width: int) -> None:
        super().__init__()
        self.shared = nn.Linear(width, 3)
        self.deviation = nn.Parameter(torch.zeros(lines, 3, width + 1))

    def forward(self, z: torch.Tensor, line: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 3) of click, cart and order."""
        own = self.deviation[line]
        logits: torch.Tensor = self.shared(z) + torch.einsum("btd,bd->bt", own[:, :, :-1], z) + own[:, :, -1]
        return logits


class Logits(nn.Module):
    """x (B, F) and line (B,) → logits (B, 3): trunk and heads as one."""

    def __init__(self, trunk: Trunk, heads: LineHeads) -> None:
        super().__init__()
        self.trunk, self.heads = trunk, heads

    def forward(self, x: torch.Tensor, line: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, 3) of click, cart and order."""
        logits: torch.Tensor = self.heads(self.trunk(x), line)
        return logits


def quantile_edges(u: NDArray[np.float64], bins: int) -> NDArray[np.float32]:
    """Strictly rising edges of one standardised feature (N,), at most bins + 1; one edge if it is constant.

    Where one value holds much of the mass (a counter at zero), half of the quantiles are taken among the other values: else nearly all edges fall
    on it and are lost.
    """
    values, counts = np.unique(u.astype(np.float32), return_counts=True)
    if len(values) <= bins + 1:
        return values
    mode = values[int(np.argmax(counts))]
    if counts.max() < 0.2 * len(u):
        edges = np.quantile(u, np.linspace(0, 1, bins + 1), method="nearest")
    else:
        others = u[u.astype(np.float32) != mode]
        edges = np.concatenate([[mode], np.quantile(others, np.linspace(0, 1, bins), method="nearest")])
    return np.unique(edges.astype(np.float32))


def plan_edges(raw: NDArray[np.float64], settings: TrunkSettings) -> list[NDArray[np.float32]]:
    """Edges of each standardised feature, raw (N, F), with as many bins (at most `settings.bins`) as keep the trunk within its parameters."""
    fixed = 3 * settings.width + settings.width * settings.middle + settings.middle + settings.middle * settings.outputs + settings.outputs
    for bins in range(settings.bins, 0, -1):
        edges = [quantile_edges(raw[:, j], bins) for j in range(raw.shape[1])]
        if fixed + sum(len(e) - 1 for e in edges) * settings.width <= MOST_PARAMETERS:
            return edges
    raise ValueError(f"{raw.shape[1]} features are too many for a trunk of {MOST_PARAMETERS} parameters")


def train_trunk(
    rows: Rows, mean: NDArray[np.float64], std: NDArray[np.float64], *, seed: int,
    weight: NDArray[np.float64] | None = None, settings: TrunkSettings | None = None, progress: Progress | None = None, ranks: Ranks = ALONE,
) -> tuple[Trunk, NDArray[np.bool_]]:  # fmt: skip
    """Train on `rows`, each of which counts `weight` (N,) times (default: once); returns the trunk in evaluation mode and the mask (N,) of the rows whose users it was not trained on.

    Early stopping by the held-out users' log-loss of the order. The same seed, machine, device and number of ranks give the same bits: one thread, seeded,
    deterministic. With `ranks` on a GPU the trunk comes back from there.
    """
    settings = settings or TrunkSettings()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(seed)
    held_out = user_fold(rows.user, settings.validation_folds, salt=3) == 0
    raw = np.clip((rows.x.astype(np.float64) - mean) / std, -CLIP, CLIP)
    with seeded(seed, ranks):
        trunk = Trunk(mean, std, plan_edges(raw[~held_out], settings), settings)
        heads = LineHeads(len(rows.lines), settings.outputs)
        counts = torch.ones(len(rows)) if weight is None else torch.from_numpy(weight.astype(np.float32))
        best = fit(trunk, heads, rows, counts, held_out, generator, settings, progress, ranks=ranks)
    trunk.load_state_dict(best)
    return trunk.cpu().eval(), held_out


@contextmanager
def seeded(seed: int, ranks: Ranks) -> Iterator[None]:
    """Seed torch's draws for the block, on the processor and the ranks' device, and leave the caller's as they were."""
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def fit(
    trunk: Trunk, heads: LineHeads, rows: Rows, counts: torch.Tensor, held_out: NDArray[np.bool_],
    generator: torch.Generator, settings: TrunkSettings, progress: Progress | None, groups: list[dict[str, Any]] | None = None, ranks: Ranks = ALONE,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Train trunk and heads in place; returns the trunk's state that was best on the held-out users.

    `groups`: AdamW's parameter groups for a trunk and heads that were trained already; then the state they come with is the first to beat.
    Each of several ranks takes `settings.batch` rows a step, and they go on with the mean of their gradients.
    """
    device = ranks.device
    trunk.to(device)
    heads.to(device)
    x, line, target = (torch.from_numpy(np.array(a)).to(device) for a in (rows.x, rows.line.astype(np.int64), rows.happened.astype(np.float32)))
    train, valid = (torch.from_numpy(a).to(device) for a in (np.flatnonzero(~held_out), np.flatnonzero(held_out)[:MOST_CHECKED_ROWS]))
    counts = counts.to(device)
    if groups is None:
        with torch.no_grad():
            rate = (target[train].sum(0) + 1) / (len(train) + 2)
            heads.shared.bias.copy_(torch.log(rate / (1 - rate)))
    optimiser = torch.optim.AdamW(
        groups
        or [
            {"params": trunk.parameters(), "weight_decay": settings.weight_decay},
            {"params": heads.shared.parameters(), "weight_decay": settings.weight_decay},
            {"params": [heads.deviation], "weight_decay": 1.0},
        ],
        lr=settings.learning_rate,
    )
    weight = torch.tensor([0.5, 0.5, 1.0], device=device)
    logits_of: nn.Module = Logits(trunk, heads)
    if ranks.size > 1:
        torch.manual_seed(
            generator.initial_seed() + 1 + ranks.rank
        )  # each drops out units of its own; the batches are common, so `generator` is not drawn from
        ddp: Any = nn.parallel.DistributedDataParallel
        # Training changes no buffer: sent with each step they make it a third slower. Older torch has another word for it.
        sync = "forward_sync_buffers" if "forward_sync_buffers" in inspect.signature(ddp).parameters else "broadcast_buffers"
        logits_of = ddp(logits_of, **{sync: False})
    batch = settings.batch * ranks.size
    every = max(settings.check_steps, len(train) // batch // 4)
    best, best_loss, waited, step = {k: v.clone() for k, v in trunk.state_dict().items()}, float("inf"), 0, 0
    if groups is not None:
        best_loss = ranks.as_rank_0(_order_loss(trunk, heads, x, line, target, valid))
    while step < settings.most_steps and waited < settings.patience:
        for chosen in torch.split(torch.randperm(len(train), generator=generator).to(device), batch):
            trunk.train()
            index = train[chosen[ranks.rank :: ranks.size]]
            logits = logits_of(x[index], line[index])
            loss = (nn.functional.binary_cross_entropy_with_logits(logits, target[index], reduction="none") * weight).sum(1)
            loss = (loss * counts[index]).sum() / (len(chosen) / ranks.size)  # the mean over the ranks is that over all their rows
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(trunk.parameters(), 5.0)
            optimiser.step()
            step += 1
            if step % every and step < settings.most_steps:
                continue
            valid_loss = ranks.as_rank_0(_order_loss(trunk, heads, x, line, target, valid))
            if valid_loss < best_loss:
                best, best_loss, waited = {k: v.clone() for k, v in trunk.state_dict().items()}, valid_loss, 0
            else:
                waited += 1
            over = waited >= settings.patience or step >= settings.most_steps
            if progress:
                progress(f"training the trunk (held-out log-loss {valid_loss:.4f})", step, step if over else settings.most_steps)
            if over:
                break
    return best


def _order_loss(trunk: Trunk, heads: LineHeads, x: torch.Tensor, line: torch.Tensor, target: torch.Tensor, index: torch.Tensor) -> float:
    trunk.eval()
    total = 0.0
    with torch.no_grad():
        for chosen in torch.split(index, 1024):
            logits = heads(trunk(x[chosen]), line[chosen])[:, 2]
            total += float(nn.functional.binary_cross_entropy_with_logits(logits, target[chosen, 2], reduction="sum"))
    return total / max(1, len(index))
