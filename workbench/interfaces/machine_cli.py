"""`workbench doctor` and `workbench conform`: what works on this machine, and how exactly."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import InputError
from workbench.interfaces.checks import check_device, size_of
from workbench.interfaces.options import Base, Dtype, Models, PairDtype, Placements, Rlvr
from workbench.interfaces.terminal import quiet


def conform(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Parity folders: base/, rlvr/, case.json, inputs and expected tensors."),
    ],
    dtype: Annotated[Dtype, typer.Option(help="Dtype to run in.")] = Dtype.FLOAT64,
    device: Annotated[str, typer.Option(help="Device to run on.")] = "cpu",
    tolerance: Annotated[float, typer.Option(help="Largest absolute deviation allowed.", min=0)] = 1e-6,
) -> None:
    """Check this machine's numerics against recorded reference outputs."""
    from workbench.machine.cases import kind_of

    check_device(device)
    for folder in folders:
        kind_of(folder)

    from workbench.machine.conform import conform as check

    report = check(folders, dtype=dtype.value, device=device, tolerance=tolerance)
    typer.echo(str(report))
    raise typer.Exit(report.exit_code)


@dataclass(frozen=True)
class Forecast:
    """What memory is forecast for."""

    tokens: Annotated[
        int | None,
        typer.Option(help="Length of the prompt; the default is its picture and 300 of text.", min=1),
    ] = None
    image: Annotated[
        str | None,
        typer.Option(
            help="Size of its picture in pixels, 0x0 for none; the default is 1000x1000 where pictures can be sized."
        ),
    ] = None
    placement: Annotated[
        Placements | None,
        typer.Option(help="together (the default), or sequential: one model at a time; of the forecast."),
    ] = None
    samples: Annotated[
        int | None, typer.Option(help="Forecast decoding too, of so many responses at once.", min=1)
    ] = None
    max_new_tokens: Annotated[
        int | None, typer.Option(help="Length of each of them; the default is 1024.", min=1)
    ] = None


def doctor(
    forecast: Forecast,
    pair: Annotated[
        str | None, typer.Option(help="Predict the memory that this pair needs instead, from configs alone.")
    ] = None,
    base: Base = None,
    rlvr: Rlvr = None,
    dtype: PairDtype = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda, of the forecast; the default is what would be used here.")
    ] = None,
) -> None:
    """Show what is installed and works here, what would fail, and how to mend it; or what memory a pair needs."""
    from rich.console import Console

    sizes = {**vars(forecast), "dtype": dtype, "device": device}
    prompt: dict[str, Any] = {name: value for name, value in sizes.items() if value is not None}
    prompt |= {} if forecast.image is None else {"image": size_of(forecast.image)}
    if pair or base or rlvr:
        from workbench.machine.published import is_published

        quiet()
        models = Models(pair, base, rlvr, device)
        if models.preset is not None and is_published(models.preset.base):
            check_device(device)  # numbers that ship stand for configs that are not here
        else:
            models.check()

        from workbench.machine.pair_memory import forecast_pair

        prompt = {n: v.value if isinstance(v, StrEnum) else v for n, v in prompt.items()}
        Console().print(forecast_pair(pair, base=base, rlvr=rlvr, **prompt))
        return
    if prompt:
        raise InputError(
            f"`{next(iter(prompt))}` is for the memory of a pair; name one, or leave it out: load_pair('shapes')"
        )

    from workbench.machine.doctor import doctor as examine

    report = examine()
    Console().print(report)
    raise typer.Exit(report.exit_code)
