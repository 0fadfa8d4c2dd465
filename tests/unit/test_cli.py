"""The command line's frame: quick help, exit codes, one line for a user's error, `config`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from features.errors import InputError
from streams import cli
from streams.commands.options import write_json
from streams.settings import ABOUT


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    captured = capsys.readouterr()
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0, captured.out, captured.err


def headstart(*arguments: str, folder: Path, stdout: int | IO[str] = subprocess.PIPE, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, in an empty folder."""
    root = Path(__file__).parents[2]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_") and not name.endswith("_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(root), **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_every_command_with_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A stranger sees all commands, each with what it does."""
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    listed = out.split("Commands:")[1]
    for name, (_, _, line) in cli.COMMANDS.items():
        assert f"\n  {name}  " in listed.replace("\n  " + name + " ", "\n  " + name + "  ")
        assert line.split()[0] in listed


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`headstart --help` is quick: no torch, Faust, NumPy, numba, Redis, Kafka or Arrow is imported for it."""
    code = (
        "import sys, streams.cli\n"
        "try: streams.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'faust', 'numpy', 'numba', 'redis', 'kafka', 'aiokafka', 'pyarrow', 'river'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True, env={**os.environ}
    )
    assert result.stdout.splitlines()[-1] == "[]"


def test_a_worker_imports_nothing_of_training() -> None:
    """Neither torch, Arrow nor what trees are grown with: Arrow alone would take 26 MB of each worker."""
    code = "import sys, streams.commands.worker, streams.app, streams.faust_worker; print(sorted({'torch', 'pyarrow', 'pandas', 'sklearn', 'lightgbm'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_help_text(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each registered command can be imported, and so can each of its subcommands; its help says what it does."""
    code, out, err = run(name, "--help", capsys=capsys)
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: headstart {name}")
    assert "--install-completion" not in out
    module, attribute, line = cli.COMMANDS[name]
    subcommands = getattr(cli.LazyCommand(name, module, attribute, line).load(), "commands", {})
    for subcommand in subcommands:
        code, out, err = run(name, subcommand, "--help", capsys=capsys)
        assert (code, err) == (0, "")
        assert out.startswith(f"Usage: headstart {name} {subcommand}")


@pytest.mark.parametrize(("name", "subcommands"), [("topics", {"create", "check"}), ("launch", {"add", "list", "show", "close"})])
def test_groups_have_their_subcommands(name: str, subcommands: set[str]) -> None:
    """`topics` and `launch` are groups."""
    assert subcommands <= set(cli.LazyCommand(name, *cli.COMMANDS[name]).load().commands)


def test_the_version_is_printed(tmp_path: Path) -> None:
    """`headstart --version` names the installed version."""
    result = headstart("--version", folder=tmp_path)
    assert (result.returncode, result.stdout.split()[0]) == (0, "headstart")


def test_a_users_error_is_one_line_on_standard_error(tmp_path: Path) -> None:
    """A wrong setting ends with 1, one line that starts with the program's name, and no traceback."""
    result = headstart("config", folder=tmp_path, HEADSTART_PARTITIONS="x")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "headstart: setting 'partitions' from environment HEADSTART_PARTITIONS: expected an integer from 1 to 10000, got 'x'\n"


def test_wrong_usage_exits_with_2_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt command names the nearest one."""
    code, _, err = run("conf", capsys=capsys)
    assert code == 2
    assert "Did you mean 'config'?" in err


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (InputError("two\nlines"), 1)])
def test_an_exception_becomes_an_exit_code(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Interrupted is 130; a HeadstartError is 1 and one line, whatever its text."""
    monkeypatch.setattr("streams.commands.config.load_settings", _raising(error))
    assert run("config", capsys=capsys)[::2] == (code, "headstart: two lines\n" if code == 1 else "")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a file on which the disk is always full")
@pytest.mark.parametrize("arguments", [("config",), ("config", "--json", "-"), ("--help",)])
def test_a_full_disk_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """Whether a command finds it, or the end of the process does with what is still to be written."""
    with Path("/dev/full").open("w") as full:
        done = headstart(*arguments, folder=tmp_path, stdout=full)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
    assert done.stderr.startswith("headstart: ") and done.stderr.endswith("No space left on device\n")


def test_who_reads_no_further_is_told_nothing(tmp_path: Path) -> None:
    """As in a pipe to `head`."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = headstart("config", "--json", "-", folder=tmp_path, stdout=pipe)
    assert (done.returncode, done.stderr) == (1, "")


def test_any_other_exception_is_a_bug_and_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug keeps its traceback."""
    monkeypatch.setattr("streams.commands.config.load_settings", _raising(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        cli.main(["config"])


def _raising(error: BaseException) -> object:
    def load(*_: object, **__: object) -> None:
        raise error

    return load


def test_threads_are_set_to_one_unless_the_user_says_otherwise(tmp_path: Path) -> None:
    """The variables are set before NumPy could be imported, and a value of the user's is kept."""
    code = "import streams.cli, os; print(*(os.environ[n + '_NUM_THREADS'] for n in ('OMP', 'MKL', 'OPENBLAS', 'NUMBA')))"
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={**clean, "MKL_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert result.stdout == "1 3 1 1\n"


def test_config_shows_values_and_origins_without_secrets(tmp_path: Path) -> None:
    """Every setting has a line; the file's, the environment's and the option's are named; the password is not shown."""
    (tmp_path / "headstart.toml").write_text("partitions = 3\n", encoding="utf-8")
    result = headstart(
        "config",
        "--broker",
        "k:9092",
        "--set",
        "tick_ms=500",
        folder=tmp_path,
        HEADSTART_REDIS="redis://u:s3cret@h:6379",
        HEADSTART_DURABILITY="disk",
        HEADSTART_TYPO="1",
    )
    assert result.returncode == 0
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in result.stdout.splitlines()}
    assert list(lines) == list(ABOUT)
    assert lines["partitions"] == ["3", "file headstart.toml"]
    assert lines["durability"] == ["disk", "environment HEADSTART_DURABILITY"]
    assert lines["redis"] == ["redis://u:***@h:6379", "environment HEADSTART_REDIS"]
    assert lines["broker"] == ["k:9092", "option --broker"]
    assert lines["tick_ms"] == ["500", "option --set tick_ms"]
    assert result.stderr == "headstart: HEADSTART_TYPO is set in the environment, but is no setting\n"


def test_config_writes_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json -` prints nothing but JSON; a file gets the same."""
    monkeypatch.setenv("HEADSTART_REDIS", "redis://u:s3cret@h:6379")
    _, out, _ = run("config", "--json", "-", capsys=capsys)
    run("config", "--json", str(tmp_path / "config.json"), capsys=capsys)
    assert json.loads(out) == json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert json.loads(out)["redis"]["value"] == "redis://u:***@h:6379"


@pytest.mark.parametrize(
    "options",
    [
        ("--redis", "redis://u:s3cret@h:6379"),
        ("--set", "redis=redis://:s3cret@h:6379"),
        ("--redis", "redis://h:6379/0?db=1&password=s3cret"),
        ("--redis", "unix:///run/redis.sock?password=s3cret"),
    ],
)
def test_a_password_in_an_address_is_no_option(options: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    """`ps` shows a command's options to everybody: one line that says where it belongs, and does not repeat it."""
    code, out, err = run("config", *options, capsys=capsys)
    assert (code, out) == (1, "")
    assert "HEADSTART_REDIS" in err
    assert "redis_password_file" in err
    assert "s3cret" not in err
    assert err.count("\n") == 1


def test_a_json_file_that_cannot_be_written_is_a_users_error(tmp_path: Path) -> None:
    """A missing folder is named in one line."""
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        write_json(tmp_path / "missing" / "figures.json", {})


def test_a_misspelt_variable_is_named_where_settings_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A worker that runs without what it was meant to have must say so; `config --explain` says what would be taken."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_DURABILTY", "replica")
    code, _, err = run("worker", capsys=capsys)
    assert code == 1
    assert err.startswith("headstart: HEADSTART_DURABILTY is set in the environment, but is no setting\n")
    code, out, _ = run("config", "--explain", capsys=capsys)
    assert code == 0
    assert "one of memory, disk, replica; HEADSTART_DURABILITY\n" in out
    assert "HEADSTART_REDIS_PASSWORD or HEADSTART_REDIS_PASSWORD_FILE\n" in out
