"""What holds the code together: the direction of imports, who may import what, and what the packages' __init__ files hold."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "models", "features")
SOURCES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))

# library → where alone it may be imported
OWNERS = {
    "torch": "models/",
    "safetensors": "models/",
    "redis": "features/redis_store.py",
    "faust": "streams/",
    "mode": "streams/",
    "aiokafka": "streams/",
    "kafka": "streams/",
    "typer": "streams/",
}
CLOCKS_AND_ENVIRONMENT = {"os.environ", "os.getenv", "time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"}


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def imported(tree: ast.Module) -> Iterator[str]:
    """The top-level package of each import, wherever it stands in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def test_imports_go_from_streams_to_models_to_features() -> None:
    """The contracts of import-linter in pyproject.toml hold. It is asked in a process of its own: where it runs, it turns off the loggers that are there."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(config_filename=sys.argv[1], no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code, str(ROOT / "pyproject.toml")], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_library_is_imported_only_where_it_belongs() -> None:
    """torch only in models, Redis only in its store, Faust and Kafka only in streams; imports inside functions count."""
    imports = {name(file): set(imported(ast.parse(file.read_text("utf-8")))) for file in SOURCES}
    assert not [(file, library) for file, found in imports.items() for library in found & set(OWNERS) if not file.startswith(OWNERS[library])]


def test_clock_and_environment_are_read_only_in_streams() -> None:
    """Features and models take the time and everything else as arguments, so that a replay gives the same bits."""
    found = []
    for file in SOURCES:
        if file.is_relative_to(ROOT / "streams"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Attribute) and ".".join(ast.unparse(node).split(".")[-2:]) in CLOCKS_AND_ENVIRONMENT:
                found.append(f"{name(file)}:{node.lineno} {ast.unparse(node)}")
    assert not found


def test_an_init_file_holds_a_docstring_and_nothing_else() -> None:
    """A package that re-exports makes import circles."""
    for file in [*SOURCES, *(ROOT / "tests").rglob("*.py")]:
        if file.name == "__init__.py":
            body = ast.parse(file.read_text("utf-8")).body
            assert len(body) == 1, name(file)
            assert ast.get_docstring(ast.parse(file.read_text("utf-8"))), name(file)


def test_every_module_says_what_it_is() -> None:
    """Each module, and each test, starts with a docstring."""
    without = []
    for file in [*SOURCES, *(ROOT / "tests").rglob("*.py")]:
        tree = ast.parse(file.read_text("utf-8"))
        without += [] if ast.get_docstring(tree) else [name(file)]
        if file.name.startswith("test_"):
            functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
            without += [f"{name(file)}: {node.name}" for node in functions if node.name.startswith("test_") and not ast.get_docstring(node)]
    assert not without


def test_every_package_is_listed_for_installation() -> None:
    """An installed headstart has all its modules: each folder with Python files is a package in pyproject.toml."""
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]["packages"])
    assert {name(file.parent).replace("/", ".") for file in SOURCES} == listed


def test_every_dependency_has_an_exact_version() -> None:
    """constraints.txt pins whatever pyproject.toml asks for, and every line is an exact version."""
    lines = [line for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked = [re.match(r"[A-Za-z0-9._-]+", text) for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]]
    assert {match[0].lower() for match in asked if match} <= pinned
