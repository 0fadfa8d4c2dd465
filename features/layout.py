"""The stored records, to the byte. A change here changes the schema hash, and with it every namespace and trunk.

All times are event time: `_ms` in milliseconds, `_s` in whole seconds since the epoch; 0 means never.
"""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

HALF_LIVES_S: Final = (3_600.0, 86_400.0, 604_800.0)
CATALOGUE_HALF_LIVES_S: Final = (86_400.0, 604_800.0)
LATEST: Final = 8  # categories and products remembered for a user in a line
RING: Final = 16  # event ids remembered for a user
VISIT_GAP_MS: Final = 30 * 60 * 1000
HASHES: Final = ("XXH3-64", "CRC-32")  # of event ids; of categories, products and regions

USER: Final = np.dtype(
    [
        ("ref_ms", "i8"),  # time of the newest event; the counters are as of then
        ("registered_ms", "i8"),
        ("visit_start_ms", "i8"),
        ("ring", "u8", (RING,)),
        ("counts", "f4", (4, 3)),  # decayed, by kind and half-life
        ("last_s", "u4", (4,)),
        ("applied", "u4"),  # events applied, exactly
        ("matured", "u4"),  # exposures whose label is final
        ("converted", "u4"),
        ("visits", "u4"),
        ("lines", "u4"),
        ("visit_events", "u4"),
        ("visit_lines", "u4"),
        ("level", "u4"),  # level + 1; 0 is unknown
        ("region", "u2"),  # hash; 0 is unknown
        ("age", "u1"),  # ordinal + 1; 0 is unknown
        ("gender", "u1"),  # 1 female, 2 male, 3 other; 0 is unknown
        ("ring_next", "u4"),
    ],
    align=True,
)

USER_LINE: Final = np.dtype(
    [
        ("ref_ms", "i8"),
        ("counts", "f4", (4, 3)),
        ("last_s", "u4", (4,)),
        ("applied", "u4"),
        ("visit_seen", "u4"),  # number of the user's visit in which an exposure opened, or an order barred it
        ("category", "u4", (LATEST,)),  # hashes; 0 is empty
        ("category_count", "f4", (LATEST,)),  # decayed with 1 d
        ("category_s", "u4", (LATEST,)),
        ("product", "u4", (LATEST,)),
        ("product_count", "f4", (LATEST,)),
        ("product_s", "u4", (LATEST,)),
    ],
    align=True,
)

CATALOGUE: Final = np.dtype(
    [
        ("at_ms", "i8"),  # the figures are as of this tick's end
        ("counts", "f8", (4, 2)),  # decayed events of all users, by kind and half-life
        ("matured", "f8"),  # decayed (7 d) exposures whose label is final
        ("converted", "f8"),
    ],
    align=True,
)

EVENT: Final = np.dtype(
    [
        ("ts_ms", "i8"),
        ("id_hash", "u8"),
        ("registered_ms", "i8"),
        ("user", "i8"),  # row in the batch's user records
        ("line_stats", "i8"),  # row in the batch's catalogue records
        ("category_stats", "i8"),
        ("category", "u4"),
        ("product", "u4"),
        ("utc_offset_s", "i4"),
        ("level", "u4"),
        ("price", "f4"),  # NaN is unknown
        ("region", "u2"),
        ("kind", "u1"),
        ("age", "u1"),
        ("gender", "u1"),
    ],
    align=True,
)


def schema_hash(*parts: str) -> str:
    """Return 16 hex digits that name the layout above and `parts` (the feature table); equal only if all are."""
    text = repr([d.descr for d in (USER, USER_LINE, CATALOGUE)]) + repr((HALF_LIVES_S, CATALOGUE_HALF_LIVES_S, VISIT_GAP_MS, HASHES)) + repr(parts)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
