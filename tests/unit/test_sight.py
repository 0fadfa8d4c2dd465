"""What the learner writes for those who watch: alerts leave once and stay bounded, alarms act unless they must not, refused records are told by reason."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from features.exposures import NONE, UNMARKED, Closed, Exposure
from features.vector import WIDTH
from models.e_detector import ARMED_AFTER
from models.experts import EXPERTS, Shared
from models.launch_head import MODELS, LaunchHead
from models.model import Model
from streams import alerts
from streams.alerts import Alert, decode_alert
from streams.records import SHOP, Counted, Example, Seen
from streams.seen import MOST_EXAMPLES, see_refused
from streams.sight import ALERTS, ALERTS_OUT, EXAMPLES, HASHES, Sight
from tests.builders import EDGES_MS, MINUTE_MS, START_MS, make_model, receive

EMPTY: dict[str, dict[str, bytes]] = {name: {} for name in HASHES}


@pytest.fixture(scope="module")
def model() -> Model:
    """Any one."""
    return make_model("shoes")


def outcomes(n: int, *, ordered: float, said: float = 0.1, start_ms: int = START_MS, seed: int = 0) -> list[Closed]:
    """First bins that close one a minute; a share of them with an order, whatever was said."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        at = start_ms + i * MINUTE_MS
        exposure = Exposure(
            id=f"{seed:08x}{i:08x}", domain="launch", user=f"u{i}", line="shoes", category="boots", counts=True, ts_ms=at - EDGES_MS[0],
            x=rng.normal(size=WIDTH).astype(np.float32).tobytes(), predictions=msgspec.Raw(msgspec.msgpack.encode([said] * 2 * len(MODELS))), delay_ms=UNMARKED, bin=2,
        )  # fmt: skip
        out.append(Closed(exposure=exposure, close_ms=at, bin=1, y=int(rng.random() < ordered), label=NONE))
    return out


def drifted(model: Model, *, reacts: bool) -> tuple[Sight, LaunchHead, LaunchHead]:
    """A sight and a head after ten times as many orders as were said, and the head as it was before the last batch."""
    sight, head = Sight(EMPTY, reacts=reacts), LaunchHead.of(model)
    shared = head.experts[EXPERTS.index("shared")]
    assert isinstance(shared, Shared)
    shared.offset.evidence[:] = -np.arange(len(shared.offset.evidence), dtype=np.float64)
    before = head.copy()
    rows = outcomes(6000, ordered=0.02, said=0.1) + outcomes(12 * ARMED_AFTER, ordered=0.5, said=0.1, start_ms=START_MS + 6000 * MINUTE_MS, seed=1)
    sight.hear("launch", rows, model, head)
    sight.learned("launch", model, head)
    return sight, head, before


def kinds(sight: Sight) -> list[str]:
    """The kinds of the alerts that the next commit writes."""
    put, _ = sight.changes()
    return sorted({decode_alert(raw).kind for raw in put.get(ALERTS, {}).values()})


def test_an_alarm_resets_the_level_in_part_and_says_so(model: Model) -> None:
    """On a calibration alarm three tenths of the level's evidence stay, one expert begins anew, and the alert holds evidence, since when, and what was done."""
    sight, head, before = drifted(model, reacts=True)
    assert "calibration" in kinds(sight)
    now, then = (h.experts[EXPERTS.index("shared")] for h in (head, before))
    assert isinstance(now, Shared)
    assert isinstance(then, Shared)
    ratio = now.offset.evidence[1:] / then.offset.evidence[1:]
    assert ratio.max() == pytest.approx(ratio.min())
    assert 0.0 < ratio[0] <= 0.3
    put, _ = sight.changes()
    alert = next(a for a in map(decode_alert, put[ALERTS].values()) if a.kind == "calibration")
    assert "partial reset" in alert.done
    assert alert.severity == "page"
    assert alert.since_ms <= alert.at_ms
    assert {"tilt", "statistic", "threshold", "direction"} <= set(alert.evidence)


def test_actions_can_be_switched_off(model: Model) -> None:
    """With drift_actions off the same alarm is told, the head stays as it is to the bit, and the alert says that nothing was done."""
    sight, head, before = drifted(model, reacts=False)
    assert head.to_bytes() == before.to_bytes()
    put, _ = sight.changes()
    alert = next(a for a in map(decode_alert, put[ALERTS].values()) if a.kind == "calibration")
    assert "drift_actions is off" in alert.done


def test_a_broken_bound_is_told(model: Model) -> None:
    """A mixture whose loss is beyond what the theorem allows raises `mixture_bound`, once."""
    sight, head = Sight(EMPTY, reacts=True), LaunchHead.of(model)
    head.mixture.own[0] = 1e6
    for part in range(2):
        sight.hear("launch", outcomes(5, ordered=0.0, start_ms=START_MS + part * 10 * MINUTE_MS, seed=part), model, head)
        sight.learned("launch", model, head)
    put, _ = sight.changes()
    assert [decode_alert(raw).kind for raw in put[ALERTS].values()] == ["mixture_bound"]


def counted(seen: Seen, tick_ms: int = START_MS + MINUTE_MS) -> Counted:
    """What a partition tells at a tick's end."""
    return Counted(epoch=1, partition=0, number=0, tick_ms=tick_ms, counts={}, seen=seen)


def test_many_refused_records_are_an_alert_with_examples() -> None:
    """A percent of an hour's records refused for one reason is told once in six hours; few are not; the latest five examples stay."""
    sight = Sight(EMPTY, reacts=True)
    few = Seen({}, 1000, {"not_json": 5}, [Example("not_json", "", "browse", 0, i, "{") for i in range(5)])
    sight.count([counted(few)])
    assert kinds(sight) == []
    many = Seen({}, 1000, {"not_json": 60}, [Example("not_json", "d", "browse", 0, 100 + i, "{x") for i in range(3)])
    sight.count([counted(many)])
    sight.count([counted(many)])
    put, _ = sight.changes()
    (alert,) = map(decode_alert, put[ALERTS].values())
    assert (alert.kind, alert.launch_id, alert.evidence["reason"]) == ("quality", SHOP, "not_json")
    assert alert.severity == "note"  # the monitoring has a ticket for it
    examples: list[Any] = msgspec.msgpack.decode(put[EXAMPLES]["not_json"])
    assert len(examples) == MOST_EXAMPLES
    assert examples[-1][4] == 102


def test_alerts_leave_until_they_are_known_to_have_left() -> None:
    """An alert is unsent from its commit on, also for a learner that starts anew, until the commit after it was sent drops it from the outbox; it stays to be shown."""
    sight = Sight(EMPTY, reacts=True)
    sight.count([counted(Seen({}, 100, {"empty": 50}, []))])
    assert sight.unsent() == []
    put, _ = sight.changes()
    sight.committed()
    assert [record.topic for record in sight.unsent()] == ["alerts"]
    again = Sight({**EMPTY, **put}, reacts=True)
    assert again.unsent() == sight.unsent()
    again.mark_sent()
    assert again.unsent() == []
    _, drop = again.changes()
    assert drop[ALERTS_OUT] == list(put[ALERTS_OUT])
    assert ALERTS not in drop
    again.committed()
    assert decode_alert(next(iter(put[ALERTS].values()))).launch_id == SHOP


def test_the_store_keeps_the_latest_alerts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound the oldest are dropped, in the same commit."""
    monkeypatch.setattr("streams.sight.KEPT", 3)
    old = Alert(alert_id="", launch_id="x", kind="quality", severity="page", at_ms=0, since_ms=0, text="", evidence={}, done="", trunk="")
    held = {f"{i:015d}:x": msgspec.json.encode(msgspec.structs.replace(old, alert_id=f"{i:015d}:x")) for i in range(3)}
    sight = Sight({**EMPTY, ALERTS: held}, reacts=True)
    sight.count([counted(Seen({}, 100, {"empty": 50}, []))])
    put, drop = sight.changes()
    assert len(put[ALERTS]) == 1
    assert drop[ALERTS] == ["000000000000000:x"]
    assert alerts.KEPT >= 100


def test_examples_of_a_refused_record_are_short_and_few() -> None:
    """Of each reason five examples between two words, cut, and readable whatever the bytes were; all are counted."""
    from features.events import Refused
    from tests.builders import make_event

    seen, record = Seen(), receive(make_event())
    for _ in range(20):
        see_refused(seen, msgspec.structs.replace(record, value=b"\xff" * 5000), Refused("not_json", "x" * 900), 3)
    assert seen.refused == {"not_json": 20}
    assert len(seen.examples) == MOST_EXAMPLES
    assert len(msgspec.json.encode(seen.examples)) < 8000
