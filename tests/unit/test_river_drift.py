"""River's detectors come without the heavy part of SciPy, and with all that they can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys
from models.river_drift import river_drift
drift = river_drift()
drift.ADWIN().update(1.0)
assert "scipy.stats" not in sys.modules, "a worker's start pays for it"
detector = drift.KSWIN(window_size=30, stat_size=10, seed=1)
seen = []
for i in range(90):
    detector.update(i % 7 + 100 * (i >= 60))
    seen.append(detector.drift_detected)
assert any(seen) and not any(seen[:60])
import scipy.stats
assert scipy.stats.norm.cdf(0.0) == 0.5 and river_drift() is drift
"""


def test_scipy_stats_is_imported_when_it_is_used() -> None:
    """Not for ADWIN, but for KSWIN; and who imports it afterwards gets the real one."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
