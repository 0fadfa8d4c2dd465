"""Each decoder, a bounded number of times: what it was meant for, what is almost that, and anything. `make fuzz` goes on for longer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.decoders import DECODERS, check

EXAMPLES = 60


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds with a few bytes changed, taken out or put in, or cut off."""
    value = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(value) - 1)))
        what = draw(st.sampled_from(("change", "cut", "put in", "end")))
        if what == "change" and value:
            value[at] ^= draw(st.integers(1, 255))
        elif what == "cut":
            del value[at : at + draw(st.integers(1, 20))]
        elif what == "put in":
            value[at:at] = draw(st.binary(min_size=1, max_size=12))
        else:
            del value[at:]
    return bytes(value)


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_raises_only_what_it_says(name: str) -> None:
    """Its seeds are read; whatever else comes is read, or ends in the error that its callers expect."""
    decoder = DECODERS[name]
    for seed in decoder.seeds if name != "log as Parquet" else ():
        decoder.read(seed)

    @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(damaged(list(decoder.seeds)) | st.binary(max_size=200))
    def fuzzed(value: bytes) -> None:
        check(name, value)

    fuzzed()
