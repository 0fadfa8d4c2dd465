"""What travels beside the events."""

from __future__ import annotations

import pytest

from features.errors import InputError
from streams.evaluation import as_launch
from streams.records import TICK_HEADER, checked_id, tick_of


@pytest.mark.parametrize("name", ["", ".", "..", "shared", "shop", "job", "overview", "line:shoes", "shared:before", "a\x1fb", "a\n"])
def test_a_launch_takes_no_name_that_means_something_else(name: str) -> None:
    """Learner, alerts and dashboard go by the id; a line of a log that is called so cannot be launched either."""
    with pytest.raises(InputError, match="a launch cannot be called"):
        checked_id(name)
    with pytest.raises(InputError, match="a launch cannot be called"):
        as_launch(name, 0, 60.0)


@pytest.mark.parametrize("name", ["shoes", "shared-flats", "shops", "line", "Frühling 2027", "...", "{launch}"])
def test_any_other_name_will_do(name: str) -> None:
    """Also one that begins like those."""
    assert checked_id(name) == name


@pytest.mark.parametrize("value", [None, b"", b"soon", b"-5", "²".encode(), b"9" * 5000])
def test_a_tick_is_a_number_in_a_replay(value: bytes | None) -> None:
    """Whatever else has the header is an event; the first that is a number counts, and where workers live none does."""
    assert tick_of([("other", b"1"), (TICK_HEADER, value)], replay=True) is None
    assert tick_of([(TICK_HEADER, value), (TICK_HEADER, b"5000")], replay=True) == 5000
    assert tick_of([(TICK_HEADER, b"5000")], replay=False) is None
