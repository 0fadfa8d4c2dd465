"""Alerts: what the detectors and the quality gate have found, as it goes out on the topic `alerts` and stays in the store for the dashboard."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from features.events import REASONS
from models.watch import Finding
from streams.feature_words import direction, words
from streams.records import SHARED, SHOP

KEPT: Final = 200
"""The latest alerts of an outcome partition that stay in the store; the topic keeps all for its retention."""

KINDS: Final = {
    "calibration": "orders no longer come as the scores say",
    "early_funnel": "clicks or carts right after an exposure have changed",
    "shoppers": "other shoppers come than in the first days",
    "estimate": "the scores can be expected to rank worse than in the first days",
    "confirmed": "final labels confirm a shift",
    "quality": "many events are refused",
    "mixture_bound": "the mixture has broken its bound: a defect",
}
PAGES: Final = ("calibration", "mixture_bound")
"""Kinds that should wake somebody; the others explain. Refused events are a rule of the monitoring, which knows how many are usual."""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. `alert_id` is the same however often it is sent; times are event time in ms; `launch_id` may also be `shared` (the old lines) or `shop`."""

    alert_id: str
    launch_id: str
    kind: str
    severity: str  # page, or note
    at_ms: int
    since_ms: int
    text: str
    evidence: dict[str, Any]
    done: str
    trunk: str


decode_alert = msgspec.json.Decoder(Alert).decode


def alert_of(launch: str, finding: Finding, *, done: str, trunk: str) -> Alert:
    """Return the alert for a finding in a launch."""
    part = str(finding.evidence.get("by") or finding.evidence.get("step") or finding.evidence.get("reason") or "")
    return Alert(
        alert_id=":".join(filter(None, (f"{finding.at_ms:015d}", launch, finding.kind, part))),
        launch_id=launch,
        kind=finding.kind,
        severity=severity_of(finding.kind),
        at_ms=finding.at_ms,
        since_ms=finding.since_ms,
        text=text_of(launch, finding),
        evidence=finding.evidence,
        done=done,
        trunk=trunk,
    )


def severity_of(kind: str) -> str:
    """Return `page` for what should wake somebody, and `note` for the rest."""
    return "page" if kind in PAGES else "note"


def text_of(launch: str, finding: Finding) -> str:
    """Return what was found, in a sentence that a marketer reads."""
    e, kind = finding.evidence, finding.kind
    who = "The old lines" if launch == SHARED else "The shop" if launch == SHOP else f"Launch {launch}"
    if kind == "calibration":
        more = "more" if e["direction"] > 0 else "fewer"
        return f"{who}: {more} orders come than the scores say. Do not trust the probabilities until they have caught up."
    if kind == "early_funnel":
        more = "more" if e["direction"] > 0 else "fewer"
        return f"{who}: {more} shoppers {e['step']} right after they come than usual ({e['usual_rate']:.1%})."
    if kind == "shoppers":
        moved = e.get("moved_sd", {})
        names = (
            ", ".join(words(name).label + (f" ({direction(name, moved[name])})" if name in moved else "") for name in e["psi"])
            or "no single feature stands out"
        )
        return f"{who}: other shoppers come than in the first days. What differs: {names}."
    if kind == "estimate":
        return f"{who}: the scores can be expected to rank worse (AUC {e['auc']:.2f}) than in the first days ({e['auc_before']:.2f})."
    if kind == "confirmed":
        return f"{who}: {e['by']} finds a shift in final labels too."
    if kind == "quality":
        return f"{e['refused']} of {e['read']} events of this hour are refused as {e['reason']}: {REASONS.get(e['reason'], '')}."
    return f"{who}: {KINDS.get(kind, kind)}."
