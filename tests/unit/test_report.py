"""The report: verdicts follow from intervals, every question is answered, nothing is fetched, and no name or missing figure can break the page."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from features.errors import InputError
from models.baselines import BASELINES
from models.experts import BASE_PRIOR, EXPERTS
from models.intervals import FIGURES
from models.launch_head import MODELS
from models.learning_curve import LearningCurve
from models.source_weights import SourceSimilarity
from streams.comparison import Insurance, LineRun, compare
from streams.evaluation import Judged
from streams.report import render, write_report
from streams.report_plots import learning_curves

QUESTIONS = ("help", "sources", "saving", "calibration", "cost", "insurance", "models", "lines", "method")
EVIL = 'bags & <script>alert("$x$")</script>\n'
FACTS = {
    "lines by": "a hash of the category",
    "label window": "24 hours",
    "trained on": "the 5.0 days of log before the launch",
    "log": "events.parquet, 94,475 events",
    "command": "headstart evaluate --events DATA --each-line",
}
NOWHERE = {"value": math.nan, "low": math.nan, "high": math.nan}


def ends(value: float, half: float = 0.01) -> dict[str, float]:
    """An interval as it stands in a result."""
    return {"value": value, "low": value - half, "high": value + half}


def method(gap: float) -> dict[str, Any]:
    """A model whose AUC is above headstart's by `gap`, and whose log-loss is below it by a tenth of that."""
    gaps = {name: ends(gap) for name in FIGURES} | {"log_loss": ends(-gap / 10, 0.001)}
    return {"figures": {name: ends(0.6 + gap) for name in FIGURES}, "gaps": gaps}


def made(*lines: str, models: tuple[str, ...] = (*MODELS, *BASELINES), scratch: float = -0.07) -> dict[str, Any]:
    """What `compare` returns, by hand: headstart beats scratch by 70 thousandths of AUC unless told otherwise."""
    bins = [{"n": 100, "predicted": p, "observed": 1.1 * p, "low": 0.5 * p, "high": 2 * p} for p in (0.02, 0.05, 0.1)]
    ratio = {"value": 1.02, "low": 0.95, "high": 1.1}
    weights = {name: [float(w)] * 3 for name, w in zip(EXPERTS, BASE_PRIOR, strict=True)}
    launch = {
        "at_ms": 1_700_000_000_000, "exposures": 700, "conversions": 42, "sources": ["hats", "toys"],
        "prior": dict(zip(EXPERTS, BASE_PRIOR.tolist(), strict=True)),
        "weights": {"ms": [1_700_000_000_000 + k * 86_400_000 for k in range(3)], **weights},
        "insurance": {"less_scratch": -8.24, "remixed_less_scratch": -9.0, "slack": 1.5},
        "flipped": {"less_scratch": 2.25, "remixed_less_scratch": 2.0, "slack": 0.5},
    }  # fmt: skip
    return {
        "lines_judged": list(lines), "lines_unranked": [], "models": list(models), "experts": list(EXPERTS),
        "launches": dict.fromkeys(lines, launch),
        "comparison": {
            "reference": "headstart", "rows": 1400, "conversions": 84, "users": 321, "groups": len(lines), "resamples": 500,
            "methods": {name: method({"headstart": 0.0, "scratch": scratch}.get(name, -0.002)) for name in models},
        },
        "calibration": {name: {"ece": 0.0123, "predicted_over_observed": ratio, "reliability": bins} for name in models},
        "days": [
            {"day": d, "n": 700, "observed": 42 * (1 - d), "predicted": tuple(40.0 for _ in models), "log_loss": tuple(0.2 for _ in models)} for d in range(2)
        ],
        "learning_curve": {
            "conversions": [0, 10, 52.5], "auc": {name: [0.6, 0.62, 0.65] for name in MODELS}, "full_auc": 0.65, "lines": len(lines),
            "reach": {name: {"to_95pct": 10, "to_98pct": None} for name in MODELS} | {"headstart": {"to_95pct": 0, "to_98pct": 10}},
        },
        "cost": {"everything": {"us_in_batch_of_64": 8.0, "us_alone": 80.0, "bytes_of_a_launch": 51_234.0}, "trunk": {"parameters": 120_345.0, "bytes": 481_380.0}},
    }  # fmt: skip


def page(result: dict[str, Any]) -> str:
    """The page of a result."""
    return render(result, title="Does transfer help?", facts=FACTS)


@cache
def whole() -> str:
    """The page of a result with everything, similarity, figures by line and a hostile name among it."""
    result = made("shoes", EVIL)
    rows = [{"line": "hats", "verdict": "left out", "weight": 0.25, "psi": None, "reason": "opposite preferences", "noise": {"psi": 1.0}}]
    lines = {line: {name: {"auc": auc, "log_loss": 0.2} for name, auc in (("headstart", 0.65), ("scratch", 0.55))} for line in ("shoes", EVIL)}
    return page(result | {"similarity": dict.fromkeys(result["launches"], rows), "lines": lines})


def text_of(html: str, section: str | None = None) -> str:
    """What a reader sees of a page or a section; plots' texts apart."""
    if section is not None:
        html = html[html.index(f'<section id="{section}"') :]
        html = html[: html.index("</section>")]
    html = re.sub(r"<(svg|style)\b.*?</\1>", " ", html, flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


class Tree(HTMLParser):
    """Holds every element to its end tag, and gathers ids and addresses."""

    VOID = ("meta", "br", "hr", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "xlink:href", "src", "srcset", "action", "data")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tree(html: str) -> Tree:
    """The page, parsed to its end."""
    found = Tree()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


@pytest.mark.parametrize(("scratch", "answer"), [(-0.07, "Yes."), (-0.004, "Cannot be told apart."), (0.07, "No.")])
def test_the_page_begins_with_the_verdict(scratch: float, answer: str) -> None:
    """Against scratch, in the summary and in the first section."""
    html = page({"comparison": made("shoes", scratch=scratch)["comparison"]})
    assert f"Does transfer help here? {answer}" in text_of(html, "answers")
    assert text_of(html, "help").startswith(f"1. Does transfer help here? {answer}")


def test_a_stronger_model_without_transfer_is_not_hidden() -> None:
    """If headstart beats scratch but not the best of those that know the launch alone, the summary says so, and which others tie."""
    assert "Headstart and base_rate cannot be told apart" in text_of(whole(), "answers")
    assert "and 14 more cannot be told apart from headstart" in text_of(whole(), "answers")
    alone = page({"comparison": made("shoes", models=MODELS)["comparison"]})
    assert "of the models without transfer" not in text_of(alone, "answers").lower()


def test_days_that_speak_against_calibration_stand_in_its_verdict() -> None:
    """By name, with their intervals."""
    result = made("shoes")
    result["days"][1] |= {"observed": 400, "predicted": tuple(200.0 for _ in result["models"])}
    assert "Yes. For 100 orders that came" in text_of(page(result), "answers")
    assert "Day by day, 1 of 2 intervals does not hold 1: day 2: .50 [" in text_of(page(result), "answers")


def test_the_window_and_the_days_of_training_are_said_first() -> None:
    """Before any answer; a page without these facts does without the sentences."""
    said = text_of(whole())
    assert "within 24 hours. The shared model was trained on the 5.0 days of log before the launch." in said.partition("The answers in short")[0]
    assert "counts for an exposure if" not in text_of(render(made("shoes"), title="t", facts={}))


def test_one_figure_has_one_interval() -> None:
    """Predicted over observed is that of the section on calibration wherever it stands."""
    result = made("shoes")
    result["comparison"]["methods"]["headstart"]["figures"]["pcoc_pooled"] = ends(1.02, 0.5)
    assert "1.02 [.95, 1.10]" in text_of(page(result), "models") and "[.52, 1.52]" not in text_of(page(result))


def test_every_question_has_its_section() -> None:
    """In the promised order, each with a heading, figures, and, where there are some, a plot with a caption."""
    html = whole()
    places = [html.index(f'<section id="{name}"') for name in QUESTIONS]
    assert places == sorted(places)
    assert html.count("<svg") == html.count("<figcaption>") == html.count('role="img" aria-label="') - html.count('<span role="img"') == 7
    for section, words in {
        "sources": (
            "Each launch learned from 2 other lines",
            "“shared” had the most weight in 2 of 2 launches",
            f"{BASE_PRIOR[0]:.2f}".removeprefix("0"),
            "hats",
            "left out",
            ".25 *",
            "which fed one shared model; a single line's contribution is not measured here",
            "Least alike: hats for",
            "What makes a line here: a hash of the category",
        ),
        "saving": (
            "Headstart ranks at 95 % of the best AUC from the first shopper on; scratch reaches that for good only between 0 and 10 orders: 0 to 10 saved",
            "scratch never does with all 52 orders there were on average: more than 42 saved",
            "all (mean 52)",
            "Scratch has .600 at 0 orders although it has learned nothing",
        ),
        "calibration": ("1.02 [.95, 1.10]", ".0123", "day 2", "Day by day, the interval holds 1"),
        "cost": ("8.0 µs", "125,000 events a second", "51.2 kB", "120,345"),
        "insurance": (
            "As it was: better than scratch in 2 of 2, by 8.2 nats. Reversed: worse than scratch in 2 of 2, by at most 2.2 nats, = .003 of log-loss",
            "+8.2 ✓",
            "−2.2 ✓",
        ),
        "models": ("+.0700 ▼ [+.0600, +.0800]", "better than 1, cannot be told apart from 18, and is worse than none", "its ways of transfer", "Precision@5 %"),
        "lines": ("2023-11-14 22:13", "6.0 %", ".650", "better than scratch in 2 of 2 lines"),
        "method": ("deleted history", "exposure", "500 times", "ES-DFM", "headstart evaluate --events DATA --each-line"),
    }.items():
        seen = text_of(html, section)
        assert [word for word in words if word not in seen] == []


def test_names_from_the_log_are_text() -> None:
    """A line called <script> is shown as that, in tables and in plots; a $ starts no formula."""
    html = whole()
    assert "script" not in tree(html).tags
    plots = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert plots.count('bags &amp; &lt;script&gt;alert("$x') == 3
    assert html.count("bags &amp; &lt;script&gt;alert(&#34;$x$&#34;)&lt;/script&gt;") > 4


def test_the_page_asks_for_nothing() -> None:
    """No address, style sheet, font, image or script from outside; links lead to places in the page."""
    html = whole()
    found = tree(html)
    assert not re.search(r"https?:|@import|url\((?!#)", html)
    assert not found.tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert {link[0] for link in found.links} == {"#"}
    assert {link[1:] for link in found.links} <= set(found.ids)
    assert {place[1:] for place in re.findall(r"url\((#[^)]*)\)", html)} <= set(found.ids)


def test_ids_are_unique() -> None:
    """Although each plot brings ids of its own, and a word may be looked up by one."""
    ids = tree(whole()).ids
    assert len(ids) == len(set(ids)) > len(QUESTIONS)


def test_plots_take_the_colours_of_the_page() -> None:
    """Everything drawn refers to the style's variables, all of which exist: no colour is fixed, so light and dark both work."""
    html = whole()
    plots = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert re.findall(r"#[0-9a-f]{6}", plots) == []
    assert set(re.findall(r"var\((--[a-z_]+)\)", html)) <= set(re.findall(r"(--[a-z_]+):", html))


def test_equal_results_give_equal_bytes(tmp_path: Path) -> None:
    """Nothing of the time of day, the process or the figures drawn before is in the file."""
    for name in ("a", "b"):
        write_report(made("shoes"), tmp_path / name, title="t", facts=FACTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"lines_judged": [], "lines_unranked": ["shoes"], "models": [], "experts": list(EXPERTS), "launches": made("shoes")["launches"]},
        {
            "launches": {"shoes": {}},
            "comparison": {},
            "calibration": {"headstart": {}},
            "learning_curve": {},
            "cost": {"everything": {}},
            "similarity": {"shoes": []},
        },
        {"launches": {"shoes": None}, "comparison": None, "days": None, "learning_curve": None, "cost": None},
        made("shoes") | {"models": ["headstart"], "experts": ["unheard_of"], "days": [{"day": 0}]},
    ],
)
def test_what_is_missing_is_left_out(result: dict[str, Any]) -> None:
    """Without orders, launches or whole parts there is still a page with every section."""
    html = page(result)
    assert set(QUESTIONS) <= set(tree(html).ids)


def test_no_orders_anywhere_is_said() -> None:
    """The verdict is not made up."""
    html = page({"lines_judged": [], "lines_unranked": ["shoes"], "launches": made("shoes")["launches"]})
    assert "Cannot be said. No launched line had an order" in text_of(html, "help")
    assert "That is few" in text_of(whole()) and "That is few" not in text_of(html)
    assert "nobody can be ranked, so AUC and PR-AUC are those of the other lines: shoes." in text_of(html)


def undefined(of: Any) -> Any:
    """The same with NaN for every number that is not a count of something."""
    if isinstance(of, dict):
        return {key: value if key == "at_ms" else undefined(value) for key, value in of.items()}
    if isinstance(of, list | tuple):
        return [undefined(value) for value in of]
    return math.nan if isinstance(of, float) else of


def test_an_undefined_figure_is_a_dash() -> None:
    """Never nan, none or null, in the text or in a plot; JSON's null is the same as NaN."""
    result = undefined(made("shoes", "bags"))
    html = page(result)
    assert not re.search(r"\b([nN]a[nN]|None|null|inf)\b", html)
    assert text_of(html, "models").count("–") > 100
    as_json = json.loads(re.sub(r"\bNaN\b", "null", json.dumps(result)))
    assert page(as_json) == html


@pytest.mark.parametrize(
    ("kind", "less_scratch", "slack", "answer", "mark"),
    [
        ("flipped", 5.0, 0.1, "It is insured", "−5.0 ✓"),
        ("flipped", 5.1, 0.1, "Insured, at a price", "−5.1 ✗"),
        ("insurance", 5.1, 0.1, "Costlier than 5 nats", "−5.1 ✗"),
        ("flipped", 1.0, -0.1, "The bound is broken", "−.1 ✗"),
    ],
)
def test_a_broken_insurance_is_marked(kind: str, less_scratch: float, slack: float, answer: str, mark: str) -> None:
    """Up to 5 nats are insured, on reversed launches too, where more is the price of late outcomes; a bound that is broken goes before all else."""
    result = {"launches": made("shoes", "bags")["launches"]}
    result["launches"]["bags"] = result["launches"]["bags"] | {kind: {"less_scratch": less_scratch, "slack": slack}}
    seen = text_of(page(result), "insurance")
    assert f"{answer}." in seen and mark in seen
    assert ("bags" in seen.partition("Old lines may mislead")[0]) == (answer != "It is insured")


def test_the_least_alike_are_named() -> None:
    """At most three pairs below 1, the least first, and what all others have at least; a weight below 1 never reads as 1."""

    def said(**weights: float) -> str:
        similarity = {"shoes": [{"line": line, "weight": weight, "verdict": "weighted" if weight < 1 else "pooled"} for line, weight in weights.items()]}
        return text_of(page({"similarity": similarity}), "sources")

    assert "Least alike: a for shoes (.73), b for shoes (.99); all other pairs ≥ 1." in said(c=1.0, b=0.999, a=0.728, d=1.0)
    assert "a for shoes (0), b for shoes (.20), c for shoes (.30); all other pairs ≥ .40." in said(d=0.4, a=0.0, b=0.2, c=0.3)
    assert "No pair is so unlike" in said(a=1.0) and "Least alike" not in said(a=1.0)


def test_the_curve_does_not_claim_what_lies_between() -> None:
    """The last tick is all orders, as a mean, and has room; the jump to it is drawn apart."""
    plot = learning_curves([0, 5, 10, 90, 95.1], {"headstart": [0.6, 0.62, 0.65, 0.66, 0.66]}, 0.66)
    ticks = re.findall(r"<text[^>]*>([^<]*)</text>", plot)
    assert "all (mean 95)" in ticks and "10" in ticks and "90" not in ticks
    assert "95 % of the best" in ticks
    assert len(learning_curves([52.5], {"scratch": [0.6]}, 0.6)) > 0


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """As an error of the user's."""
    with pytest.raises(InputError, match="nowhere"):
        write_report({}, tmp_path / "nowhere" / "report.html", title="t", facts={})


def line_run(line: str, seed: int) -> LineRun:
    """A launch in which headstart knows more than scratch."""
    rng = np.random.default_rng(seed)
    n, at_ms = 400, 1_700_000_000_000
    logit = rng.normal(size=n) - 2.0
    said = {name: 1 / (1 + np.exp(-(logit + (3.0 if name == "scratch" else 0.3) * rng.normal(size=n)))) for name in (*MODELS, *BASELINES)}
    auc: dict[str, tuple[float, ...]] = dict.fromkeys(MODELS, (0.5, 0.6))
    hours = np.arange(48)
    return LineRun(
        line=line, at_ms=at_ms, judged=Judged(), user=rng.integers(0, 100, n), ts_ms=at_ms + np.sort(rng.integers(0, 3 * 86_400_000, n)),
        y=(rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float64), said={name: (p, p) for name, p in said.items()},
        weight_ms=at_ms + hours * 3_600_000, weights=np.tile(BASE_PRIOR, (48, 1)), prior=BASE_PRIOR,
        insurance=Insurance(-3.0, -3.5, 1.0), flipped=Insurance(2.0, 1.5, 1.0), curve=LearningCurve((0, 20), auc, auc, 160),
        cost={"everything": {"us_in_batch_of_64": 8.0, "us_alone": 80.0, "bytes_of_a_launch": 5e4}}, sources=("hats",), deff=1.5, window_s=86_400.0,
        similarity=(SourceSimilarity("hats", rows=900, conversions=60, span_days=4.5, missing_share=0.3, psi=0.05),),
    )  # fmt: skip


def test_what_compare_returns_can_be_shown() -> None:
    """The page and the comparison agree on the shape of a result: a verdict, every plot but that of the lines' own figures, and no dash for headstart."""
    html = page(compare([line_run("shoes", 1), line_run("bags", 2)], resamples=50))
    assert tree(html).open == [] and html.count("<svg") == 6
    assert "measured afterwards, of 2 pairs of source and launch: 2 pooled" in text_of(html, "sources")
    assert text_of(html, "help").startswith("1. Does transfer help here? Yes. Against scratch, headstart ")
    assert re.search(r"headstart \.\d{3} \[\.\d{3}, \.\d{3}\]", text_of(html, "models"))
