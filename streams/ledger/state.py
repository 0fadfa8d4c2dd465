"""What Redis holds of one partition's users, against what was published for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.layout import HALF_LIVES_S, USER, USER_LINE
from features.store import Store
from streams.ledger.events import Due, Published
from streams.ledger.findings import Account

READ_AT_ONCE = 2_000
RELATIVE = 1e-5
ROUNDING = 6e-8  # of float32, with each event
_LN2 = np.log(2.0)


async def records(store: Store, number: int, names: Sequence[str], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Return the records (N,) of a partition; one that is not there is empty."""
    parts = []
    for at in range(0, len(names), READ_AT_ONCE):
        values = await store.read(str(number), names[at : at + READ_AT_ONCE])
        parts.append(np.frombuffer(b"".join(value if value is not None else bytes(dtype.itemsize) for value in values), dtype))
    return np.concatenate(parts) if parts else np.empty(0, dtype)


async def check_state(account: Account, store: Store, published: Published, due: Due, *, before: int) -> int:
    """Check every user's and user-line pair's counts; returns how many events the users' states hold. `before`: so many were applied before the account."""
    where, names = f"partition {published.number}", published.users
    users = await records(store, published.number, [f"u:{name}" for name in names], USER)
    applied = users["applied"].astype(np.int64)
    loose = bool(before or published.before_log)  # then a state may hold more than we have read
    short: NDArray[np.bool_] = applied < due.by_user - due.maybe
    over: NDArray[np.bool_] = (applied > due.by_user + due.again) & (not loose)
    account.find("not_applied", [f"{where}: user {names[at]} has {applied[at]} of {due.by_user[at]}" for at in np.flatnonzero(short)[:5]], int(short.sum()))
    account.find("applied_twice", [f"{where}: user {names[at]} has {applied[at]} of {due.by_user[at]}" for at in np.flatnonzero(over)[:5]], int(over.sum()))
    account.sums["applied_again_after_the_ring"] += int(np.maximum(applied - due.by_user, 0).sum()) if not loose else 0

    lines = await records(store, published.number, [f"ul:{names[user]}\x1f{line}" for user, line in published.lines], USER_LINE)
    owner = np.array([user for user, _ in published.lines], np.int64)
    clear: NDArray[np.bool_] = ~due.unclear & ~short & ~over & (not loose)
    distinct = published.rows[due.first]
    wrong = clear[owner] & (lines["applied"] != due.by_line) if len(owner) else np.empty(0, np.bool_)
    texts = [f"{where}: user {names[owner[at]]} has {lines['applied'][at]} of {due.by_line[at]} in one line" for at in np.flatnonzero(wrong)[:5]]
    account.find("not_applied", texts, int(wrong.sum()))
    for index, held in (("user", users), ("line", lines)):
        checked = clear if index == "user" else clear[owner] if len(owner) else clear[:0]
        off = checked & _off(distinct, index, held)
        texts = [f"{where}: user {names[at if index == 'user' else owner[at]]}" for at in np.flatnonzero(off)[:5]]
        account.find("counters", texts, int(off.sum()))
    account.sums["users"] += len(names)
    account.sums["users_checked_to_the_counter"] += int(clear.sum())
    _check_rings(account, where, names, users, distinct, clear)
    return int(applied.sum())


def _off(distinct: NDArray[np.void], index: str, held: NDArray[np.void]) -> NDArray[np.bool_]:
    """Return which records (N,) differ from the sums of their events: newest time, last time of each kind, and decayed counters."""
    n = len(held)
    at, kind, ts = distinct[index].astype(np.int64), distinct["kind"].astype(np.int64), distinct["ts_ms"]
    newest = np.zeros(n, np.int64)
    np.maximum.at(newest, at, ts)
    last_s = np.zeros(4 * n, np.int64)
    np.maximum.at(last_s, 4 * at + kind, ts // 1000)
    off: NDArray[np.bool_] = (held["ref_ms"] != newest) | (held["last_s"].reshape(n, 4) != last_s.reshape(n, 4)).any(axis=1)
    rounding = ROUNDING * np.bincount(at, minlength=n)
    for h, half_life_s in enumerate(HALF_LIVES_S):
        weight = np.exp(-_LN2 * (newest[at] - ts) / (1000.0 * half_life_s))
        sums = np.bincount(4 * at + kind, weights=weight, minlength=4 * n).reshape(n, 4)
        off |= (np.abs(held["counts"][:, :, h] - sums) > (RELATIVE + rounding)[:, None] * np.abs(sums) + 1e-9).any(axis=1)
    return off


def _check_rings(account: Account, where: str, names: Sequence[str], users: NDArray[np.void], distinct: NDArray[np.void], clear: NDArray[np.bool_]) -> None:
    ring = users["ring"]
    ordered = np.sort(ring, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != 0)).any(axis=1)
    full = (ring != 0).sum(axis=1)
    pairs = distinct["id"] ^ (distinct["user"].astype(np.uint64) << np.uint64(1))
    held = ring ^ (np.arange(len(users), dtype=np.uint64) << np.uint64(1))[:, None]
    foreign = ((ring != 0) & ~np.isin(held, pairs)).any(axis=1)
    wrong = clear & (twice | foreign | (full != np.minimum(users["applied"], ring.shape[1])))
    account.find("ring", [f"{where}: user {names[at]}" for at in np.flatnonzero(wrong)[:5]], int(wrong.sum()))
