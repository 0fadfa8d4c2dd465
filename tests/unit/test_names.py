"""Names of records: the same key whenever it is the same name, put together or whole, and another for every other."""

from __future__ import annotations

import numpy as np

from features.names import behind, names_of, suffix_keys


def test_a_name_has_one_key_and_another_has_another() -> None:
    """In any batch, and whatever else is in it."""
    texts = [f"user-{i}" for i in range(2_000)] + ["", "ü", "U", "u"]
    names = names_of(texts)
    assert len({key.tobytes() for key in names.keys}) == len(texts)
    assert (names_of(texts[5:9]).keys == names.keys[5:9]).all()
    assert [names.text(i) for i in (0, 2_001)] == ["user-0", "ü"]


def test_a_prefix_that_all_have_is_in_their_texts_alone() -> None:
    """Who asks for one kind of records does not hash its prefix for each."""
    names = names_of(["c", "a"])
    assert [names.after("u:").text(i) for i in range(2)] == ["u:c", "u:a"]
    assert (names.after("u:").keys == names.keys).all()


def test_what_stands_behind_a_name_makes_it_another() -> None:
    """Each pair has one key, by whatever numbers it is put together, and none is that of the other way round."""
    users, domains = names_of(["ann", "bob"]), ["\x1fbags", "\x1fhats"]
    every = behind(users, np.array([0, 0, 1, 1]), domains, np.array([0, 1, 0, 1]))
    assert [every.text(i) for i in range(4)] == ["ann\x1fbags", "ann\x1fhats", "bob\x1fbags", "bob\x1fhats"]
    assert len({key.tobytes() for key in (*every.keys, *users.keys)}) == 6
    again = behind(names_of(["bob"]), np.array([0]), domains[1:], np.array([0]))
    assert (again.keys == every.keys[3:]).all()
    crossed = behind(names_of(["bags"]), np.array([0]), ["\x1fann"], np.array([0]))
    assert (crossed.keys != every.keys[:1]).any()


def test_nothing_has_no_key() -> None:
    """No names are no rows."""
    assert names_of(()).keys.shape == (0, 2)


def test_what_stands_behind_has_the_key_that_it_has_as_a_name() -> None:
    """Though it is hashed by itself, and remembered."""
    texts = ["", "a", "\x1fshoes", "ü" * 300, *(f"line{i}" for i in range(50))]
    assert np.array_equal(suffix_keys(texts), names_of(texts).keys)
    assert suffix_keys([]).shape == (0, 2)
