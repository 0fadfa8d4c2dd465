"""The README's pictures, and those of the quiz: `python bench/screenshots.py [--folder FOLDER] [--out docs/images]`, or `make screenshots`.

Three launches of a SYNTHETIC shop (`bench/three_launches.py`) go through an embedded Kafka broker and Valkey to a real worker; then Chromium takes pictures of
the dashboard, which runs as its own command. Needs a Chromium (Debian's package, or the path in CHROMIUM) and the development tools.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import argparse
import asyncio
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from PIL import Image, ImageColor

from features.errors import Mismatch
from models.checkpoint import Artifact, load
from streams import namespace
from streams.cutting import cut
from streams.embedded import EmbeddedStack
from streams.evaluation import as_launch
from streams.records import Launch
from streams.replay import prepare, publish, replay_settings, wait_for, workers
from streams.settings import Settings, child_environment, load_settings, with_changes

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DAY_MS = 86_400_000
COLOURS = 128
THEME = "['surface', 'ground', 'raised', 'muted', 'faint', 'good', 'warn', 'bad', 'ink', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6', 'c7', 'c8'].map((name) => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim())"
SHOWN_DAYS = 3


@contextlib.contextmanager
def dashboard(settings: Settings) -> Iterator[str]:
    """Run `headstart dashboard` and yield its address."""
    process = subprocess.Popen([sys.executable, "-m", "streams.cli", "dashboard", "--port", "0"], env=child_environment(settings),
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        yield said[said.index("http") :].split()[0].rstrip("/")
    finally:
        process.terminate()
        process.wait(20)


def save(page: Any, file: Path, *, width: int, whole: bool = False) -> None:
    """Write a picture of the page, or of what is in sight of it, no wider than `width`; the theme's colours stay exactly what they are."""
    shot, theme = page.screenshot(full_page=whole), page.evaluate(THEME)
    image = Image.open(io.BytesIO(shot)).convert("RGB")
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    # Few colours are a quarter of the bytes, but small marks in red and amber must not become one.
    palette = image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, kmeans=2).getpalette() or []
    few = Image.new("P", (1, 1))
    few.putpalette(palette[: 3 * COLOURS] + [part for name in theme for part in ImageColor.getrgb(name)[:3]])
    image.quantize(palette=few, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{file}: {image.width} × {image.height}, {file.stat().st_size / 1024:.0f} KiB", flush=True)


def shoot(address: str, out: Path, names: list[str]) -> None:
    """Take all pictures."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, contextlib.closing(playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)) as browser:

        def page(path: str, *, scheme: str = "light", width: int = 1280, height: int = 900) -> Any:
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=1.25)
            opened = context.new_page()
            opened.goto(address + path)
            opened.wait_for_selector("body[data-drawn=yes]", timeout=60_000)
            opened.wait_for_timeout(2_500)
            return opened

        save(page("/"), out / "overview.png", width=1280)
        save(page(f"/launches/{names[0]}", scheme="dark"), out / "launch-dark.png", width=1280)
        save(page(f"/launches/{names[1]}", width=390, height=844), out / "phone.png", width=420)
        letters = dict(zip((names[2], names[0], names[1]), "ABC", strict=True))
        for name, letter in letters.items():
            opened = page(f"/launches/{name}")
            # The quiz must not be solved by a name.
            opened.evaluate(
                "(all) => { for (const [name, letter] of Object.entries(all)) document.body.innerHTML = document.body.innerHTML.replaceAll(name, letter); }",
                letters,
            )
            save(opened, out / f"quiz-{letter}.png", width=1000, whole=True)


async def begun(settings: Settings, artifact: Artifact, launches: list[Launch]) -> None:
    """Make topics, namespace and launches."""
    store = namespace.open_store(settings)
    await prepare(settings, store, artifact, launches, namespace.rules_of(settings, artifact, replay=True))
    await store.close()


async def worked(settings: Settings, last_ms: int, alive: Callable[[int], None]) -> None:
    """Wait until all of it is learned."""
    store = namespace.open_store(settings)
    await wait_for(store, last_ms, settings.outcome_partitions, check=alive, timeout_s=600)
    await store.close()


def trunk_of(folder: Path) -> Artifact:
    """Return the trunk that lies in the folder; log and trunk are made first where there are none, or only those of another release."""
    if (folder / "about.json").exists():
        with contextlib.suppress(Mismatch):
            return load(folder / "trunk")
    subprocess.run([sys.executable, str(Path(__file__).with_name("three_launches.py")), str(folder)], check=True)
    return load(folder / "trunk")


def main() -> None:
    """Replay, serve, shoot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("var/three"), help="where the log and trunk are, or will be made")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    artifact = trunk_of(options.folder)
    about = json.loads((options.folder / "about.json").read_text())
    names = [about["fine"], about["orders fall away"], about["other shoppers"]]
    options.out.mkdir(parents=True, exist_ok=True)
    log = pq.read_table(options.folder / "log.parquet")
    launches: list[Launch] = [as_launch(name, about["at_ms"], about["window_s"]) for name in names]
    with EmbeddedStack() as stack:
        base = with_changes(load_settings(), broker=stack.broker, redis=stack.redis_url, session_timeout_s=6, replay_tick_ms=1_800_000, partitions=4,
                            trunk=(options.folder / "trunk").resolve(), timezone="UTC", window_s=round(about["window_s"]))  # fmt: skip
        settings = replay_settings(base, "demo")
        # The last day is left out: what a log does not hold any more would look like orders that stay away.
        ticks = [tick for tick in cut(log, settings.replay_tick_ms) if tick.end_ms <= about["trouble_ms"] + SHOWN_DAYS * DAY_MS]
        asyncio.run(begun(settings, artifact, launches))
        with workers(settings, 1, options.folder) as alive:
            last_ms = publish(settings, ticks)
            asyncio.run(worked(settings, last_ms, alive))
            with dashboard(settings) as address:  # with the worker still there
                shoot(address, options.out, names)


if __name__ == "__main__":
    main()
