"""Can a launch's scores be trusted? The one rule behind the tile, the card, the panels on calibration and drift, and the terminal.

Everything is in orders that came over orders that were foretold: 1 is right, below it the scores promise too much. It counts delay bins that have closed, so it
knows of orders hours after they come; figures on final labels are those of exposures whose attribution window is over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from models.chronicle import PLACE
from models.sketches import MILLION, ratio
from streams.alerts import Alert
from streams.panels import DAY_MS, State, last_ms, number, total, when, whole
from streams.view import Look

RECENT_MS: Final = 2 * DAY_MS
ALARMED_MS: Final = 3 * DAY_MS
"""After an alarm the scores count as not to be trusted for so long."""
GOES_ON_MS: Final = DAY_MS // 2
"""An alarm whose shift began so soon after the one before is about the same shift, which the reset has not ended."""
FEWEST_ORDERS: Final = 20
FAR: Final = 1.5
"""An interval that is wholly beyond this factor, up or down, is far from calibrated."""
WIDE: Final = 2.0
"""An interval whose ends are further apart than this factor can only say "so far"."""


@dataclass(frozen=True)
class Came:
    """Orders that came in closed delay bins over those that were foretold for them, with the interval (95 %) that chance explains about it."""

    orders: int
    foretold: float
    value: float
    low: float
    high: float

    @property
    def enough(self) -> bool:
        """Whether it says anything: there are orders, or there should have been."""
        return max(self.orders, self.foretold) >= FEWEST_ORDERS

    @property
    def wide(self) -> bool:
        """Whether the interval is too wide to say more than "so far"."""
        return self.high > WIDE * self.low

    @property
    def words(self) -> str:
        """The figure as a sentence's main part."""
        if math.isnan(self.value):
            return "no order was foretold"
        judged = "fewer than chance explains" if self.high < 1.0 else "more than chance explains" if self.low > 1.0 else "within what chance explains"
        return f"{100 * self.value:.0f} orders came for every 100 foretold ({100 * self.low:.0f} to {100 * self.high:.0f}): {judged}"

    @property
    def interval(self) -> str:
        """The interval as text."""
        return f"{number(self.low)} to {number(self.high)}"


@dataclass(frozen=True)
class Shift:
    """Calibration alarms about one shift. It began about `since_ms`, as the first of them says; the later ones only date their own evidence."""

    first: Alert
    last: Alert

    @property
    def since_ms(self) -> int:
        """The most likely beginning, as the first alarm says."""
        return self.first.since_ms

    @property
    def direction(self) -> str:
        """Whether more or fewer orders come than the scores say."""
        return "more" if self.first.evidence["direction"] > 0 else "fewer"


@dataclass(frozen=True)
class Trust:
    """The answer, its state and its reason, and what it rests on."""

    answer: str
    why: str
    state: State
    shift: Shift | None
    recent: Came


def trust(look: Look, launch: str) -> Trust:
    """Judge a launch's scores: an alarm of the e-detector decides; without one, the orders of the last two days."""
    shift, recent = shift_of(look, launch), came(look, launch, since_ms=heard_ms(look, launch) - RECENT_MS)
    told = f"In the last two days {recent.words}."
    if shift is not None:
        began = f"Since about {when(shift.since_ms)} {shift.direction} orders come than the scores say. "
        return Trust("No: calibration has shifted", began + told, "bad", shift, recent)
    if not recent.enough:
        needed = f"{whole(recent.orders)} orders in the last two days; {FEWEST_ORDERS} are needed."
        return Trust("Too early to say", needed, "none", None, recent)
    if recent.low > FAR or recent.high < 1.0 / FAR:
        return Trust("No: far from calibrated", told, "bad", None, recent)
    if recent.low > 1.0 or recent.high < 1.0:
        return Trust("With care", told, "warn", None, recent)
    if recent.wide:
        return Trust("So far, yes", f"{told} So few orders cannot say it more exactly.", "good", None, recent)
    return Trust("Yes", told, "good", None, recent)


def shift_of(look: Look, launch: str) -> Shift | None:
    """Return the shift that alarms of the last days are about; None if there is none."""
    alarms = [alert for alert in look.alerts_of(launch) if alert.kind == "calibration"]  # the latest first
    if not alarms or heard_ms(look, launch) - alarms[0].at_ms > ALARMED_MS:
        return None
    first = alarms[0]
    for alert in alarms[1:]:
        if first.since_ms - alert.at_ms > GOES_ON_MS or alert.evidence["direction"] != first.evidence["direction"]:
            break
        first = alert
    return Shift(first, alarms[0])


def came(look: Look, launch: str, *, since_ms: int | None = None, until_ms: int | None = None) -> Came:
    """Count the delay bins that have closed, all of them or those in a span of time (by whole hours that began within it)."""
    counts = total(look.rows.get(launch), since_ms=since_ms, until_ms=until_ms) or [0] * len(PLACE)
    orders, foretold = counts[PLACE["hits"]], counts[PLACE["expected"]] / MILLION
    return Came(orders, foretold, *ratio(orders, foretold, deff=design_effect(look)))


def design_effect(look: Look) -> float:
    """Return by how much orders vary more than independent ones would, since shoppers are counted more than once."""
    return max(1.0, look.about.deff) if look.about else 1.0


def heard_ms(look: Look, launch: str) -> int:
    """When the launch was last heard of: what is recent is measured from there, so that a replay's end, or a quiet week, shows the last that there was."""
    return last_ms(look.rows.get(launch), PLACE["heard"]) or look.now_ms
