"""What was said of an exposure: kept as it is stored and sent, to the byte and to the bit."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from features.errors import Mismatch
from features.predictions import UNSAID, are, as_numbers, packed, unpacked


@pytest.mark.parametrize("n", [2, 15, 16, 18])
def test_they_are_the_message_that_a_tuple_of_floats_would_be(n: int) -> None:
    """So what another release wrote is read, and it reads what this one writes."""
    said = np.random.default_rng(n).random((7, n))
    said[0, :2] = 5e-324, 1.0
    every, width = packed(said)
    rows = [msgspec.Raw(every[width * i : width * (i + 1)]) for i in range(7)]
    assert [bytes(row) for row in rows] == [msgspec.msgpack.encode(tuple(row)) for row in said.tolist()]
    assert unpacked(rows, n).tobytes() == said.tobytes()
    assert unpacked(rows, n).flags.c_contiguous
    assert [as_numbers(row) for row in rows] == [tuple(row) for row in said.tolist()]
    assert all(are(row, n) and not are(row, n - 1) for row in rows)


def test_none_are_none() -> None:
    """Without a trunk nothing is said."""
    assert as_numbers(UNSAID) == ()
    assert not are(UNSAID, 2)
    assert unpacked([], 18).shape == (0, 18)
    assert packed(np.zeros((0, 18)))[0] == b""


@pytest.mark.parametrize("damaged", [["a", "b"], [1, 2, 3], [0.5], {"a": 1}, "0.50.6"])
def test_what_is_no_prediction_is_damage(damaged: object) -> None:
    """Of another number, or no floats: never another row's."""
    fine, other = (msgspec.Raw(msgspec.msgpack.encode(value)) for value in ([0.5, 0.6], damaged))
    with pytest.raises(Mismatch):
        unpacked([fine, other], 2)


def test_as_long_and_yet_no_floats() -> None:
    """What has the length of two numbers, and is something else."""
    long = msgspec.Raw(msgspec.msgpack.encode("x" * 18))
    assert are(long, 2)
    with pytest.raises(Mismatch):
        unpacked([long], 2)
    with pytest.raises(Mismatch):
        as_numbers(long)
