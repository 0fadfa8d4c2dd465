"""A trunk that goes on from another one: refreshed on a newer log, or fine-tuned to one line. In torch, for training only.

Both keep the scaler and the edges of the trunk they start from, so that raw features and what was learned on them keep their meaning (`models.carry`).
The heads of the lines are new, so they are fitted first, with the trunk as it is: else their first, random gradients would undo it (Kumar et al. 2022,
"Fine-tuning can distort pretrained features"). Then trunk and heads are trained together, with a learning rate that is smaller the further a
layer lies below the heads (Howard and Ruder 2018, ULMFiT: each by 2.6). Where the held-out users do not gain, the trunk stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from features.errors import InputError, Mismatch
from models.encode import TrunkArrays
from models.ranks import ALONE, Ranks
from models.rows import Rows, user_fold
from models.trunk import LineHeads, Progress, Trunk, TrunkSettings, fit, seeded

FEWEST_CONVERSIONS: Final = 2_000
"""Fewer of a line's own conversions cannot move a trunk of over a hundred thousand parameters for the better."""
DECAY: Final = 2.6
HEAD_STEPS: Final = 300
HEAD_RATE: Final = 3e-3
FEWEST_ROWS: Final = 20


@dataclass(frozen=True)
class Start:
    """The trunk to go on from: `parent` is its artifact's sha256; `line` the line to fine-tune it to, None: refresh it on all rows; `force`: however few."""

    trunk: TrunkArrays
    parent: str
    line: str | None = None
    force: bool = False

    def as_settings(self) -> dict[str, object]:
        """What the artifact records of it."""
        tuned: dict[str, object] = {} if self.line is None else {"fine_tuned_to": self.line}
        return {"parent": self.parent, **tuned}


def continued(
    start: Start, rows: Rows, *, weight: NDArray[np.float64], seed: int, settings: TrunkSettings, progress: Progress | None = None, ranks: Ranks = ALONE
) -> tuple[TrunkArrays, NDArray[np.bool_]]:
    """Return the trunk trained on from `start`, and the mask (N,) of the rows whose users it was not trained on; `weight` (N,) is how often a row counts.

    The held-out users are those of `models.trunk.train_trunk`, so the parent has not seen theirs either. Deterministic as there. Raises InputError for a line
    that is not in the rows or has too few conversions, and Mismatch for a trunk of other features.
    """
    if start.trunk.features != len(rows.feature_names):
        raise Mismatch(f"the trunk to start from takes {start.trunk.features} features, the rows have {len(rows.feature_names)}")
    held_out = user_fold(rows.user, settings.validation_folds, salt=3) == 0
    chosen = np.ones(len(rows), dtype=np.bool_) if start.line is None else _of_line(rows, start.line, force=start.force)
    taught, counts, unseen = rows.select(chosen), weight[chosen], held_out[chosen]
    if (~unseen).sum() < FEWEST_ROWS or not 0 < taught.ordered[~unseen].sum() < (~unseen).sum():
        return start.trunk, held_out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(seed)
    with seeded(seed, ranks):
        trunk = Trunk.from_arrays(start.trunk)
        trunk.dropout.p = settings.dropout
        heads = LineHeads(len(rows.lines), start.trunk.width)
        times = torch.from_numpy(counts.astype(np.float32))
        _fit_heads(trunk, heads, taught, times, unseen, generator, settings)
        best = fit(trunk, heads, taught, times, unseen, generator, settings, progress, layer_rates(trunk, heads, settings), ranks)
    trunk.load_state_dict(best)
    return replace(trunk.cpu().to_arrays(), mean=start.trunk.mean, std=start.trunk.std), held_out


def layer_rates(trunk: Trunk, heads: LineHeads, settings: TrunkSettings) -> list[dict[str, Any]]:
    """Return AdamW's parameter groups, from the heads down: each layer learns `DECAY` times more slowly than the one above it."""
    layers: tuple[tuple[nn.Module, ...], ...] = ((trunk.third,), (trunk.second,), (trunk.norm, trunk.first))
    below = [
        {"params": [p for module in modules for p in module.parameters()], "lr": settings.learning_rate / DECAY**depth, "weight_decay": settings.weight_decay}
        for depth, modules in enumerate(layers, start=1)
    ]
    return [
        {"params": list(heads.shared.parameters()), "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [heads.deviation], "lr": settings.learning_rate, "weight_decay": 1.0},
        *below,
    ]


def conversions(rows: Rows, line: str) -> int:
    """Return how many orders the final rows have of a line."""
    return int(rows.ordered[rows.line == rows.lines.index(line)].sum()) if line in rows.lines else 0


def _of_line(rows: Rows, line: str, *, force: bool) -> NDArray[np.bool_]:
    if line not in rows.lines:
        raise InputError(f"there is no line {line!r} to fine-tune the trunk to; the log has {', '.join(rows.lines)}")
    found = conversions(rows, line)
    if found < FEWEST_CONVERSIONS and not force:
        raise InputError(
            f"line {line!r} has {found} conversions that are final, fewer than the {FEWEST_CONVERSIONS} that a trunk needs to be fine-tuned; "
            "refresh it on all lines, or insist with --force"
        )
    return np.asarray(rows.line == rows.lines.index(line))


def _fit_heads(
    trunk: Trunk, heads: LineHeads, rows: Rows, counts: torch.Tensor, held_out: NDArray[np.bool_], generator: torch.Generator, settings: TrunkSettings
) -> None:  # fmt: skip
    """Fit the lines' heads to the trunk as it is, with the dropout that it will be trained on with: else it would move only to make up for that."""
    train = torch.from_numpy(np.flatnonzero(~held_out))
    x, line, target = torch.from_numpy(rows.x.copy()), torch.from_numpy(rows.line.astype(np.int64)), torch.from_numpy(rows.happened.astype(np.float32))
    with torch.no_grad():
        rate = (target[train].sum(0) + 1) / (len(train) + 2)
        heads.shared.weight.zero_()
        heads.shared.bias.copy_(torch.log(rate / (1 - rate)))
    optimiser = torch.optim.AdamW(
        [{"params": heads.shared.parameters(), "weight_decay": settings.weight_decay}, {"params": [heads.deviation], "weight_decay": 1.0}], lr=HEAD_RATE
    )
    weight = torch.tensor([0.5, 0.5, 1.0])
    for _ in range(HEAD_STEPS):
        index = train[torch.randint(len(train), (min(settings.batch, len(train)),), generator=generator)]
        with torch.no_grad():
            z = trunk.train()(x[index])
        loss = (nn.functional.binary_cross_entropy_with_logits(heads(z, line[index]), target[index], reduction="none") * weight).sum(1)
        optimiser.zero_grad()
        torch.autograd.backward((loss * counts[index]).mean())
        optimiser.step()
