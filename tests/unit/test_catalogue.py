"""Catalogue statistics: integer counts that add up in any order, and a decay that never goes back."""

from __future__ import annotations

import random

import numpy as np

from features.catalogue import CONVERTED, MATURED, SHOP, Counts, add, count, empty, merge, names_of
from features.hashing import partition_for
from tests.builders import DAY_MS, START_MS, random_events


def test_an_event_counts_for_the_shop_its_line_and_its_category() -> None:
    """Once in each; labels likewise."""
    counts: Counts = {}
    count(counts, "shoes", "boots", 3)
    count(counts, "shoes", "heels", MATURED)
    count(counts, "shoes", "heels", CONVERTED)
    assert counts == {
        SHOP: [0, 0, 0, 1, 1, 1],
        "line:shoes": [0, 0, 0, 1, 1, 1],
        "category:boots": [0, 0, 0, 1, 0, 0],
        "category:heels": [0, 0, 0, 0, 1, 1],
    }
    assert len(set(names_of("x", "x"))) == 3


def test_the_sum_does_not_depend_on_partitions_or_order() -> None:
    """Split over 1 or 7 partitions and merged in any order, the counts and the order of their names are the same."""
    events = random_events(500)
    seen = set()
    for parts in (1, 7):
        split: list[Counts] = [{} for _ in range(parts)]
        for a in events:
            count(split[partition_for(a.event.user_id.encode(), parts)], a.event.line, a.event.category or a.event.line, a.kind)
        for seed in range(3):
            seen.add(repr(merge(random.Random(seed).sample(split, parts))))
    assert len(seen) == 1


def test_figures_halve_after_a_half_life() -> None:
    """Of a day and of a week; labels with the week; what is added is added undecayed."""
    record = add(empty(), np.array([[8, 0, 0, 0, 8, 4]]), START_MS)
    assert record["counts"][0, 0].tolist() == [8.0, 8.0]
    day = add(record, np.array([[0, 1, 0, 0, 0, 0]]), START_MS + DAY_MS)
    np.testing.assert_allclose(day["counts"][0, 0], [4.0, 8.0 * 2 ** (-1 / 7)], rtol=1e-12)
    assert day["counts"][0, 1].tolist() == [1.0, 1.0]
    week = add(record, np.array([[0] * 6]), START_MS + 7 * DAY_MS)
    np.testing.assert_allclose([week["matured"][0], week["converted"][0]], [4.0, 2.0], rtol=1e-12)


def test_time_never_goes_back() -> None:
    """Late counts are added, and the record stays as of its newest tick; the record that was given is not changed."""
    record = add(empty(), np.array([[1, 0, 0, 0, 0, 0]]), START_MS)
    before = record.tobytes()
    late = add(record, np.array([[1, 0, 0, 0, 0, 0]]), START_MS - DAY_MS)
    assert (late["at_ms"][0], late["counts"][0, 0, 0]) == (START_MS, 2.0)
    assert record.tobytes() == before
