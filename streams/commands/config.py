"""`headstart config`: what holds, and where it came from."""

from __future__ import annotations

from typing import Annotated

import typer

from streams.commands.options import Broker, Config, Json, Namespace, Redis, Set, Trunk, for_people, write_json
from streams.setting_values import masked
from streams.settings import ABOUT, load_settings, origins, unused_variables, variable


def config(
    config: Config = None,
    broker: Broker = None,
    redis: Redis = None,
    namespace: Namespace = None,
    trunk: Trunk = None,
    assignments: Set = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Say of each setting what it is for, its unit, what it may be, and the variables that set it.")
    ] = False,
    json: Json = None,
) -> None:
    """Show every setting: its value, with secrets masked, and where it came from."""
    settings = load_settings(config, assignments=assignments or (), broker=broker, redis=redis, namespace=namespace, trunk=trunk)
    values = {name: masked(name, getattr(settings, name)) for name in ABOUT}
    came_from = origins(settings)
    if json is not None:
        write_json(
            json,
            {
                name: {
                    "value": values[name],
                    "from": came_from[name],
                    "unit": ABOUT[name].unit,
                    "expected": ABOUT[name].form.expected,
                    "about": ABOUT[name].text,
                }
                for name in ABOUT
            },
        )
    if for_people(json):
        width, values_width = max(map(len, ABOUT)), max(map(len, values.values()))
        for name, value in values.items():
            typer.echo(f"{name:{width}}  {value or '-':{values_width}}  {came_from[name]}")
            if explain:
                unit = f" [{ABOUT[name].unit}]" if ABOUT[name].unit else ""
                variables = variable(name) + (f" or {variable(name)}_FILE" if ABOUT[name].secret else "")
                typer.echo(f"{'':{width}}    {ABOUT[name].text}{unit}: {ABOUT[name].form.expected}; {variables}\n")
    for name in unused_variables():
        typer.echo(f"headstart: {name} is set in the environment, but is no setting", err=True)
