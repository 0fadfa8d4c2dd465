"""The command line `headstart`. A command's module is imported when the command is called, so that `headstart --help` is quick.

Exit codes: 0 done; 1 a `HeadstartError`, printed as one line; 2 wrong usage; 130 interrupted, 143 told to stop by SIGTERM, 129 by SIGHUP. Any other exception is a bug and shows its traceback.
"""

from __future__ import annotations

import os

# One thread each, before NumPy, numba or torch is imported: sums then have one order, and the same input gives the same bits.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import errno
import importlib
import importlib.metadata
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from features.errors import HeadstartError
from streams.masking import hidden
from streams.signals import as_interrupts

# name → (module, attribute, line in the list of commands), in the order in which a newcomer meets them
COMMANDS: Final[dict[str, tuple[str, str, str]]] = {
    "demo": ("streams.commands.demo", "demo", "Run the whole system on a simulated shop: history, training, a launch, live scores and a final table."),
    "up": ("streams.commands.up", "up", "Start an embedded Kafka broker and Valkey, in memory, for trying out; Ctrl-C stops both."),
    "simulate": ("streams.commands.simulate", "simulate", "Write the event log of a simulated shop whose true conversion rates are known."),
    "topics": ("streams.commands.topics", "topics_app", "Create the topics, or check that they are as they must be."),
    "pretrain": ("streams.commands.pretrain", "pretrain", "Train the trunk and the source heads on an event log."),
    "trunk": ("streams.commands.trunk", "trunk_app", "Compare a trunk with the active one, make it active, go back, and list what was active."),
    "launch": ("streams.commands.launch", "launch_app", "Add, list, show and close launches: the new products that are being learned."),
    "worker": ("streams.commands.worker", "worker", "Score events and learn from their outcomes, until stopped."),
    "publish": ("streams.commands.publish", "publish", "Send the events of a file, or of standard input, to Kafka as live events."),
    "backfill": ("streams.commands.backfill", "backfill", "Take a history into the live state, without scores, before workers start."),
    "replay": ("streams.commands.replay", "replay", "Send a log through Kafka to real workers in event time, until every outcome is final."),
    "scores": ("streams.commands.scores", "scores", "Print the scores as they arrive on Kafka."),
    "dashboard": ("streams.commands.dashboard", "dashboard", "The live dashboard in the browser: funnel, calibration, drift, uplift, rejects, lag."),
    "status": ("streams.commands.status", "status", "The same in the terminal: launches, lag, workers, alerts."),
    "audience": ("streams.commands.audience", "audience", "Write the users with the highest current scores of a launch, the holdout left out."),
    "explain": ("streams.commands.explain", "explain", "Why a shopper has their score: old lines, this product, and what moved it, adding up exactly."),
    "evaluate": ("streams.commands.evaluate", "evaluate", "Run the same pipeline on a log without Kafka, and compare headstart, frozen and scratch."),
    "similarity": ("streams.commands.similarity", "similarity", "Which older lines to learn from: measure how like each is to a target line, and weigh them."),
    "uplift": ("streams.commands.uplift", "uplift", "Does the campaign sell more? Treated users against the holdout, valid however often you look."),
    "ledger": ("streams.commands.ledger", "ledger", "Account for every event id and every exposure: nothing lost, nothing twice."),
    "backup": ("streams.commands.backup", "backup", "Write everything that a namespace holds in Redis into one file."),
    "restore": ("streams.commands.backup", "restore", "Put a backup into Redis; what came after it is worked again from Kafka."),
    "cursor": ("streams.commands.cursor", "cursor_app", "Show where each partition reads, or move it by hand."),
    "repartition": ("streams.commands.repartition", "repartition", "Give the event topics another number of partitions, and move the shoppers' state."),
    "erase": ("streams.commands.erase", "erase", "Erase the states of shoppers who want to be forgotten; workers go on."),
    "config": ("streams.commands.config", "config", "Show every setting: its value, with secrets masked, and where it came from."),
    "rights": ("streams.commands.rights", "rights", "What each role must be allowed in Kafka and Redis, and no more; print it or apply it."),
    "schema": ("streams.commands.schema", "schema", "Write the JSON Schema of events and scores."),
}

UNWRITABLE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EPIPE}
HELP_NAMES: Final = {"help_option_names": ["-h", "--help"]}


class LazyCommand(TyperCommand):
    """A line in the list of commands that turns into the real command, imported then, as soon as it gets its arguments."""

    def __init__(self, name: str, module: str, attribute: str, line: str) -> None:
        super().__init__(name, help=line, short_help=line, rich_markup_mode=None)
        self.command_name, self.module, self.attribute = name, module, attribute

    def load(self) -> Any:
        """Import the module and return its command; `attribute` is a function or a `typer.Typer` with subcommands."""
        target = getattr(importlib.import_module(self.module), self.attribute)
        app = typer.Typer(add_completion=False)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=self.command_name)
        else:
            app.command(self.command_name)(target)
        command = typer.main.get_command(app)
        return _plain(command.commands[self.command_name] if isinstance(command, TyperGroup) else command)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the real command's context, in which it is then invoked."""
        return self.load().make_context(info_name, args, parent=parent, **extra)


def _plain(command: Any) -> Any:
    """The command and its subcommands with help as plain text: markup would swallow texts such as [/DB]."""
    command.rich_markup_mode = None
    command.context_settings = {**HELP_NAMES, **command.context_settings}
    for subcommand in getattr(command, "commands", {}).values():
        _plain(subcommand)
    return command


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headstart {importlib.metadata.version('headstart')}")
        raise typer.Exit


def _headstart(version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)] = False) -> None:
    """Score how likely shoppers are to order a newly launched product, and learn from its conversions as they arrive.

    Start with `headstart demo`. Settings come from headstart.toml, from HEADSTART_* variables and from options; `headstart config` shows them.
    """


def command_line() -> TyperGroup:
    """Return the `headstart` command with all its subcommands, none of them imported yet."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
    app.callback(context_settings=HELP_NAMES)(_headstart)
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    for name, (module, attribute, line) in COMMANDS.items():
        group.add_command(LazyCommand(name, module, attribute, line))
    return group


def _show_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback, without what is secret."""
    print(hidden("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit. `arguments` are those of the process if None."""
    sys.excepthook = _show_bug
    with as_interrupts() as told:
        try:
            _run(arguments)
        finally:
            if told:
                sys.exit(128 + told[0])


def _run(arguments: Sequence[str] | None) -> None:
    try:
        try:
            command_line().main(args=arguments, prog_name="headstart")
        except SystemExit:
            if sys.stdout is not None:  # it is, where it was closed
                sys.stdout.flush()  # else what cannot be written is found by the interpreter, at its very end
            raise
    except HeadstartError as error:
        print(f"headstart: {hidden(' '.join(str(error).split()))}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        _drop_output()
        if error.errno != errno.EPIPE:  # whoever reads has enough
            print(f"headstart: cannot write {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)


def _drop_output() -> None:
    """Let what was not written go nowhere, so that the interpreter doesn't try again."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


if __name__ == "__main__":
    main()
