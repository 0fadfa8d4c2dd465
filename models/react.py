"""What a launch's head does when its forecasts no longer hold: it lets go of some of what it has learned, and one expert begins anew. Never the shared heads.

The mixture's bound is about forecasts, wherever they come from, so it holds through a reset.
"""

from __future__ import annotations

from typing import Final

from models.experts import EXPERTS, Deviation, Shared
from models.launch_head import LaunchHead
from models.model import Model
from models.own_head import OwnHead

KEPT: Final = 0.3
"""A partial reset takes a share r = .7 of the evidence back to the prior."""
RESTARTED: Final = "deviation_wide"
"""The expert that begins anew: it learns its own slopes soonest, and its brother `deviation` remembers."""
DONE: Final = f"partial reset: the launch's level goes back to its prior by {1 - KEPT:.0%}; the expert {RESTARTED} begins anew"


def react(head: LaunchHead, model: Model) -> None:
    """Reset the launch's level in part, and restart one expert; in place."""
    shared = head.experts[EXPERTS.index("shared")]
    assert isinstance(shared, Shared)
    shared.offset.evidence *= KEPT
    place = EXPERTS.index(RESTARTED)
    fresh = Deviation(OwnHead.start(model.priors.deviation_wide))
    head.experts = (*head.experts[:place], fresh, *head.experts[place + 1 :])
    head.changed()
