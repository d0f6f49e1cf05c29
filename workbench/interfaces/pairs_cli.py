"""`workbench pairs`: which pairs have names, and what a preset holds."""

from pathlib import Path
from typing import Annotated

import typer

from workbench.interfaces.flags import Commands

pairs = Commands(help="Pairs that can be loaded by name.")


@pairs.command("list")
def pairs_list(
    file: Annotated[Path | None, typer.Argument(help="Your own file; the default is the package's.")] = None,
) -> None:
    """List them, with where their models lie on this machine."""
    from rich.console import Console

    from workbench.models.preset_files import read_presets
    from workbench.models.preset_table import preset_table

    Console().print(preset_table(read_presets(file).values()))


@pairs.command("show")
def pairs_show(name: Annotated[str, typer.Argument(help="NAME, or FILE.yaml:NAME.")]) -> None:
    """Print all that is known of one, as YAML."""
    from workbench.models.preset_files import pair_preset

    typer.echo(pair_preset(name).to_yaml())
