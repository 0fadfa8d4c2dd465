"""The report in words: how numbers are written, what each model is, and the verdicts that follow from intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple

from models.intervals import Interval

Standing = Literal["better", "worse", "even", "unknown"]
"""How headstart stands against another model: outside the interval of the gap, within it, or the gap is undefined."""
UNDEFINED = Interval(math.nan, math.nan, math.nan)
Z = 1.959963984540054
MOST_NAMED = 4
NEARLY = 0.1
"""Predicted over observed this close to 1 is nearly calibrated, even where the interval excludes 1."""


class Described(NamedTuple):
    """What a model is, for a reader who has never seen it. `transfers`: whether it knows anything of other lines' orders."""

    group: str
    what: str
    learns_from: str
    transfers: bool


HEADSTART, EXPERT, BASELINE, OTHER = "headstart", "its ways of transfer", "independent baselines", "others"
GROUPS = (HEADSTART, EXPERT, BASELINE, OTHER)
DESCRIBED = {
    "headstart": Described(HEADSTART, "The product: a mixture of the eight ways of transfer below, weighted by how well each forecast the launch so far.",
        "other lines, and the launch as its orders come in", True),
    "shared": Described(EXPERT, "The default way: four logistic heads taught by the other lines and kept fresh by their new orders; the launch adds its own level (how readily it sells).",
        "other lines, kept fresh; the launch's level", True),
    "frozen": Described(EXPERT, "The same heads as they were when training ended, never updated.", "other lines, up to the launch", True),
    "deviation": Described(EXPERT, "A head of the launch's own that starts from what is typical of the other lines, and may differ as much as they differ among themselves.",
        "other lines, and the launch", True),
    "deviation_wide": Described(EXPERT, "The same, allowed to differ four times as much.", "other lines, and the launch", True),
    "feature": Described(EXPERT, "A head from nothing on features that a neural network learned on the other lines: their representation, not their conclusions.",
        "other lines' features; the launch", True),
    "instance": Described(EXPERT, "A head refitted on those rows of the other lines that look like the launch's shoppers.", "other lines, reweighted; the launch", True),
    "relation": Described(EXPERT, "A head that starts from the other lines that are nearest to the launch.", "the nearest lines; the launch", True),
    "scratch": Described(EXPERT, "No transfer: a head that starts from nothing at the launch. It is in the mixture as its insurance.", "the launch alone", False),
    "base_rate": Described(BASELINE, "The launch's rate of orders so far; knows nothing about shoppers.", "the launch alone", False),
    "adpredictor": Described(BASELINE, "AdPredictor (Bayesian probit regression, of the river library), from nothing.", "the launch alone", False),
    "ftrl": Described(BASELINE, "Logistic regression by FTRL-Proximal (river), from nothing.", "the launch alone", False),
    "lightgbm_scratch": Described(BASELINE, "Gradient-boosted trees (LightGBM), refitted daily; the launch's rate until it has had ten orders.", "the launch alone", False),
    "lr_frozen": Described(BASELINE, "Logistic regression fitted once on the other lines.", "other lines, up to the launch", True),
    "lightgbm_frozen": Described(BASELINE, "Gradient-boosted trees fitted once on the other lines.", "other lines, up to the launch", True),
    "lr_pooled": Described(BASELINE, "Logistic regression refitted daily on all that is final.", "other lines and the launch", True),
    "lightgbm_pooled": Described(BASELINE, "Gradient-boosted trees refitted daily on all that is final.", "other lines and the launch", True),
    "wait_sgd": Described(BASELINE, "Starts at lr_frozen; gradient descent on labels that are waited for until the window is over.", "other lines, and the launch", True),
    "fnw_sgd": Described(BASELINE, "The same with fake negatives, reweighted (FNW): an exposure counts as no order until one comes.", "other lines, and the launch", True),
    "es_dfm_sgd": Described(BASELINE, "The same, with elapsed-time sampling (ES-DFM): waits for the first delay bin.", "other lines, and the launch", True),
    "oracle_sgd": Described(BASELINE, "Not a method but a bound: the same, told each final label at once, before it can be known.", "the future", True),
}  # fmt: skip


def described(name: str) -> Described:
    """What a model is; one that this page does not know is listed among the others."""
    return DESCRIBED.get(name, Described(OTHER, "", "", True))


def number(value: Any) -> float:
    """A figure of a result as a float: NaN for what is missing, null or no number."""
    return float(value) if isinstance(value, Real) else math.nan


def interval(of: Any) -> Interval:
    """An interval of a result; NaN for what is missing."""
    if not isinstance(of, dict):
        return UNDEFINED
    return Interval(number(of.get("value")), number(of.get("low")), number(of.get("high")))


def fixed(value: float, digits: int = 3, *, sign: bool = False) -> str:
    """A number with a fixed count of decimals, without a zero before the point; "–" if undefined, "∞" if infinite."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{abs(value):,.{digits}f}"
    if not any(c in "123456789" for c in text):
        sign, value = False, 0.0
    text = text.removeprefix("0") if "." in text else text
    return ("−" if value < 0 else "+" if sign else "") + text


def span(of: Interval, digits: int = 3, *, sign: bool = False) -> str:
    """The ends of an interval in brackets; nothing if they are undefined."""
    if math.isnan(of.low) and math.isnan(of.high):
        return ""
    return f"[{fixed(of.low, digits, sign=sign)}, {fixed(of.high, digits, sign=sign)}]"


def count(value: float) -> str:
    """A whole number with separators; "–" if undefined."""
    return f"{value:,.0f}" if math.isfinite(value) else "–"


def size(value: float) -> str:
    """Bytes in words."""
    if not math.isfinite(value):
        return "–"
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:,.0f} {unit}" if unit == "bytes" else f"{value:,.1f} {unit}"
        value /= 1000
    return f"{value:,.1f} GB"


def excludes_zero(gap: Interval) -> bool:
    """Whether a gap's interval lies on one side of 0."""
    return gap.low > 0 or gap.high < 0


def standing(gap: Interval, *, higher_is_better: bool) -> Standing:
    """How headstart stands, by the gap of another model to it (the model less headstart)."""
    if math.isnan(gap.low) or math.isnan(gap.high):
        return "unknown"
    if not excludes_zero(gap):
        return "even"
    return "worse" if (gap.low > 0) == higher_is_better else "better"


def advantage(gap: Interval, *, higher_is_better: bool) -> Interval:
    """Headstart's advantage, above 0 where it is better, from the gap of another model to it (the model less headstart)."""
    return _negative(gap) if higher_is_better else gap


class Verdict(NamedTuple):
    """An answer in a word or two, what stands behind it, and how it is coloured: good, bad or open."""

    answer: str
    because: str
    kind: Literal["good", "bad", "open"]


def verdict(auc: Interval, log_loss: Interval, other: str) -> Verdict:
    """Is headstart better than another model? By its gaps (the model less headstart) in AUC and log-loss.

    Yes if it is better outside the interval in at least one of them and worse in none; no the other way round; in part if better in one and worse in the other.
    """
    stands = {
        "AUC": (standing(auc, higher_is_better=True), auc, "ranks shoppers {} by {} AUC {}"),
        "log-loss": (standing(log_loss, higher_is_better=False), log_loss, "gives {} probabilities, by {} of log-loss {}"),
    }
    kinds = {stand for stand, _, _ in stands.values()}
    if kinds == {"unknown"}:
        return Verdict("Cannot be said", f"There is no figure of headstart against {other} with an interval.", "open")
    decided = [phrase.format(stand, *_size(gap)) for stand, gap, phrase in stands.values() if stand in ("better", "worse")]
    even = [
        f"{name} {fixed(ours.value, 4, sign=True)} {span(ours, 4, sign=True)}"
        for name, (stand, gap, _) in stands.items()
        if stand == "even"
        for ours in [advantage(gap, higher_is_better=name == "AUC")]
    ]
    because = [f"Against {other}, headstart {' and '.join(decided)}."] if decided else []
    if even:
        because.append(
            f"{'Otherwise' if decided else f'Headstart and {other}'} {'they ' if decided else ''}cannot be told apart (headstart's advantage: {'; '.join(even)})."
        )
    text = " ".join(because)
    if "better" in kinds:
        return Verdict("In part", text, "open") if "worse" in kinds else Verdict("Yes", text, "good")
    return Verdict("No", text, "bad") if "worse" in kinds else Verdict("Cannot be told apart", text, "open")


def against(rivals: Mapping[str, tuple[Interval, Interval]]) -> str:
    """What speaks against a yes: models that are better outside the interval, in what and by how much, and those that cannot be told apart.

    `rivals`: for each name its gaps (the model less headstart) in AUC and log-loss. Empty if headstart is better than all of them.
    """
    better: list[str] = []
    tied: list[str] = []
    for name, (auc, log_loss) in rivals.items():
        alone = f"{name} alone" if described(name).group == EXPERT else name
        found = []
        if standing(auc, higher_is_better=True) == "worse":
            found.append(f"ranks better (by {fixed(auc.value, 4)} AUC)")
        if standing(log_loss, higher_is_better=False) == "worse":
            found.append(f"gives better probabilities (by {fixed(-log_loss.value, 4)} of log-loss)")
        if found:
            better.append(f"{alone} {' and '.join(found)}")
        elif verdict(auc, log_loss, name).answer == "Cannot be told apart":
            tied.append(name)
    said = [f"But {'; '.join(better[:MOST_NAMED])}{_more(better)}."] if better else []
    if tied:
        said.append(f"{', '.join(tied[:MOST_NAMED])}{_more(tied)} cannot be told apart from headstart.")
    return " ".join(said)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""


def _negative(gap: Interval) -> Interval:
    return Interval(-gap.value, -gap.high, -gap.low)


def _size(gap: Interval) -> tuple[str, str]:
    """A decided gap without its sign, and its ends."""
    ends = gap if gap.low > 0 else _negative(gap)
    return fixed(ends.value, 4), span(ends, 4)


def calibrated(ratio: Interval) -> Verdict:
    """Does headstart predict as many orders as came? By predicted over observed."""
    value = f"{fixed(ratio.value, 2)} {span(ratio, 2)}"
    if math.isnan(ratio.value) or math.isnan(ratio.low):
        return Verdict("Cannot be said", "Nothing was ordered, or there is no interval.", "open")
    said = f"For 100 orders that came, {100 * ratio.value:.0f} were predicted: predicted over observed is {value}"
    if ratio.low <= 1.0 <= ratio.high:
        return Verdict("Yes", f"{said}, and the interval holds 1.", "good")
    near = abs(ratio.value - 1.0) <= NEARLY
    return Verdict("Nearly" if near else "Too high" if ratio.value > 1 else "Too low", f"{said}: the interval does not hold 1.", "open" if near else "bad")


def saved(ours: float, theirs: float, conversions: Sequence[float], share: str) -> str:
    """How many conversions it saves to reach a share of the best AUC, given the counts that were measured; the last is all, as a mean over lines.

    `ours` and `theirs` are among the counts, NaN if the level was not reached. A level was reached somewhere after the count before, so what is saved is a range.
    """
    most = conversions[-1]
    if math.isnan(ours):
        reached = f"scratch reaches it {_within(theirs, conversions)}" if not math.isnan(theirs) else "nor does scratch reach it"
        return f"Headstart does not rank at {share} of the best AUC with all {count(most)} orders there were on average; {reached}."
    first = f"Headstart ranks at {share} of the best AUC {'from the first shopper on' if ours == 0 else _within(ours, conversions)}"
    if math.isnan(theirs):
        return f"{first}; scratch never does with all {count(most)} orders there were on average: more than {count(most - ours)} saved (rough: no interval)."
    if theirs <= ours:
        return f"{first}; scratch {'too' if theirs == ours else _within(theirs, conversions)}: none saved."
    least = max(0.0, _before(theirs, conversions) - ours)
    return f"{first}; scratch reaches that for good only {_within(theirs, conversions)}: {count(least)} to {count(theirs - _before(ours, conversions))} saved (rough: no interval)."


def _before(n: float, conversions: Sequence[float]) -> float:
    """The greatest measured count below `n`; 0 if there is none."""
    return max((c for c in conversions if c < n), default=0.0)


def _within(n: float, conversions: Sequence[float]) -> str:
    """Between which measured counts a level was reached."""
    if n == 0:
        return "from the first shopper on"
    return f"between {count(_before(n, conversions))} and{', on average,' if n == conversions[-1] else ''} {count(n)} orders"


def ratio_of_counts(predicted: float, observed: float, deff: float = 1.0) -> Interval:
    """Predicted over observed with the score interval of a Poisson count, an order counting as 1 / `deff` of one; NaN without an order."""
    if not (observed > 0 and math.isfinite(predicted)):
        return UNDEFINED
    n = observed / deff
    middle, spread = n + Z * Z / 2, Z * math.sqrt(n + Z * Z / 4)
    return Interval(predicted / observed, predicted / (deff * (middle + spread)), predicted / (deff * (middle - spread)))
