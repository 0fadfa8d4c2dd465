"""Fuzz each decoder for a while with atheris, guided by coverage: `make fuzz`, or `python -m tests.fuzz.long --seconds 60 "open exposure"`.

Each decoder runs in a process of its own. Exits with 1 when one raised what it may not; the input that did it is left in var/fuzz.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


def main() -> int:
    """Fuzz the decoders that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="decoders of tests/fuzz/decoders.py; all if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each decoder (default: 60)")
    parser.add_argument("--found", type=Path, default=Path("var/fuzz"), help="folder for inputs that break one (default: var/fuzz)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is not installed: make fuzz, or pip install atheris\n")
        return 1
    options.found.mkdir(parents=True, exist_ok=True)
    if options.alone:
        _fuzz(atheris, options.names[0], options.seconds, options.found)
    with atheris.instrument_imports(include=["tests.fuzz"]):
        from tests.fuzz.decoders import DECODERS
    broken = []
    for name in options.names or DECODERS:
        sys.stderr.write(f"== {name}, {options.seconds} s\n")
        alone = [sys.executable, "-m", "tests.fuzz.long", "--alone", "--seconds", str(options.seconds), "--found", str(options.found), name]
        done = subprocess.run(alone, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        if done.returncode:
            broken.append(name)
            sys.stderr.write(done.stderr[-3_000:])
    sys.stderr.write(f"broken: {', '.join(broken)}\n" if broken else "each decoder raised only what it may\n")
    return 1 if broken else 0


def _fuzz(atheris: Any, name: str, seconds: int, found: Path) -> None:
    """Fuzz one decoder in this process, which then ends."""
    with atheris.instrument_imports(include=["features", "models", "streams", "tests.fuzz"]):
        from tests.fuzz.decoders import DECODERS, check

    with tempfile.TemporaryDirectory(prefix="headstart-fuzz-") as corpus:
        for number, seed in enumerate(DECODERS[name].seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        arguments = [sys.argv[0], f"-max_total_time={seconds}", "-max_len=20000", "-timeout=20", f"-artifact_prefix={found}/{name.replace(' ', '-')}-", corpus]
        atheris.Setup(arguments, lambda value: check(name, value))
        atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
