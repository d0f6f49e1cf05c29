"""`workbench sweep ...`: plan, run, watch, resume, export, compare and check ablation sweeps."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.errors import InputError
from workbench.interfaces.checks import check_folder
from workbench.interfaces.flags import Commands
from workbench.interfaces.terminal import interruptible, quiet

if TYPE_CHECKING:
    from rich.table import Table

sweep = Commands(help="Ablation sweeps that go on wherever they were interrupted.")

File = Annotated[
    Path, typer.Argument(help="The sweep's YAML file; `workbench sweep schema` tells what may stand in it.")
]
Folder = Annotated[Path, typer.Argument(help="A sweep's folder.")]


class Engines(StrEnum):
    """What runs the cells."""

    LOCAL = "local"
    RAY = "ray"
    SLURM = "slurm"


Engine = Annotated[Engines, typer.Option(help="local, ray (extra `ray`), or slurm (extra `slurm`).")]
Workers = Annotated[
    int | None, typer.Option(help="At most; the default is one per GPU, or as the cores allow.", min=1)
]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Also the cells that failed.")]
Cache = Annotated[float, typer.Option(help="GB that each worker keeps of what cells have in common.", min=0)]


@sweep.command("plan")
def sweep_plan(
    file: File,
    throughput: Annotated[
        float | None,
        typer.Option(help="TFLOP/s that a worker achieves; the default is 300 on a GPU, 0.02 on a core."),
    ] = None,
) -> None:
    """Show cells, shared work, estimated time and memory; nothing runs."""
    quiet()
    if throughput is not None and throughput <= 0:
        raise InputError(f"`throughput` is {throughput:g}; expected TFLOP/s above 0: throughput=300")
    from rich.console import Console

    from workbench.sweeps.cells import device_of, plan_cells
    from workbench.sweeps.costs import plan_table
    from workbench.sweeps.spec import read_sweep

    spec = read_sweep(file)
    device = device_of(spec)
    Console().print(plan_table(spec, plan_cells(spec, device), device, throughput))


@sweep.command("run")
def sweep_run(
    file: File,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder; the default is runs/ and the file's name.")
    ] = None,
    engine: Engine = Engines.LOCAL,
    workers: Workers = None,
    retry_failed: Retry = False,
    share: Annotated[
        list[Path] | None, typer.Option(help="Folder of another sweep whose cells are used; may be repeated.")
    ] = None,
    cache: Cache = 2.0,
) -> None:
    """Run a sweep, or what is left of it. Ctrl-C once finishes the cells under way, twice stops now."""
    quiet()
    from workbench.sweeps.spec import read_sweep

    read_sweep(file)  # before anything heavy is imported
    out = out or Path("runs") / file.stem
    check_folder("out", out)
    from workbench.sweeps.driver import run_sweep
    from workbench.sweeps.ledger import Ledger

    for other in share or ():
        Ledger(other, argument="share").close()
    with _shown() as progress:
        last = run_sweep(
            file, out, engine=engine.value, workers=workers, retry_failed=retry_failed, share=share or (),
            cache=int(cache * 1e9), progress=progress,
        )  # fmt: skip
    _told(out, last)


@sweep.command("resume")
def sweep_resume(
    folder: Folder,
    engine: Engine = Engines.LOCAL,
    workers: Workers = None,
    retry_failed: Retry = False,
    cache: Cache = 2.0,
) -> None:
    """Go on with a sweep as it was planned."""
    quiet()
    from workbench.sweeps.driver import resume_sweep
    from workbench.sweeps.ledger import Ledger

    Ledger(folder, argument="folder").close()
    with _shown() as progress:
        last = resume_sweep(
            folder,
            engine=engine.value,
            workers=workers,
            retry_failed=retry_failed,
            cache=int(cache * 1e9),
            progress=progress,
        )
    _told(folder, last)


@sweep.command("status")
def sweep_status(
    folder: Folder, watch: Annotated[bool, typer.Option(help="Go on showing it, until Ctrl-C.")] = False
) -> None:
    """Show what is done, what failed and why, and who works."""
    import time

    from rich.console import Console
    from rich.live import Live

    from workbench.sweeps.ledger import Ledger

    with Ledger(folder) as ledger:
        if not watch:
            Console().print(_status(ledger))
            return
        with (
            interruptible("Stopped watching; the sweep goes on."),
            Live(_status(ledger), auto_refresh=False) as live,
        ):
            while True:
                live.update(_status(ledger), refresh=True)
                time.sleep(2)


@sweep.command("export")
def sweep_export(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="The default is `tables` in the sweep's folder.")] = None,
) -> None:
    """Write parquet and CSV tables: cells, responses, drift, interventions, and timings."""
    from workbench.sweeps.export import export_sweep

    typer.echo(f"Tables   {export_sweep(folder, out)}")


@sweep.command("diff")
def sweep_diff(a: Folder, b: Folder) -> None:
    """Say what differs between two sweeps in spec, in what results depend on, in cells and in results; 1 if anything does."""
    from workbench.sweeps.export import differences

    differing = differences(a, b)
    for what, lines in differing.items():
        typer.echo(f"{what}: {len(lines) or 'nothing'} {'differ' if lines else 'differs'}")
        for line in lines[:20]:
            typer.echo(f"  {line}")
        if len(lines) > 20:
            typer.echo(f"  and {len(lines) - 20} more")
    raise typer.Exit(1 if any(differing.values()) else 0)


@sweep.command("verify")
def sweep_verify(folder: Folder) -> None:
    """Check digests anew: the ledger's results, the tables, and the files that the plan was made of; 1 if anything is wrong."""
    from workbench.sweeps.export import faults

    lines = faults(folder)
    typer.echo("\n".join(lines) if lines else "all is as it was recorded")
    raise typer.Exit(1 if lines else 0)


@sweep.command("schema")
def sweep_schema() -> None:
    """Print the JSON schema of a sweep's file, for editors."""
    from workbench.sweeps.spec import SCHEMA

    typer.echo(SCHEMA.read_text(encoding="utf-8"), nl=False)


def _status(ledger: Any) -> "Table":
    """The ledger's counts as a table for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "pair", "problems", "done", "failed", "pending", title=str(ledger.folder), title_justify="left"
    )
    rows: dict[tuple[str, str], dict[str, int]] = {}
    for pair, problems, status, cells in ledger.counts():
        rows.setdefault((pair, problems), {})[status] = cells
    for (pair, problems), counts in rows.items():
        table.add_row(
            escape(pair), escape(problems), *(str(counts.get(s, 0)) for s in ("done", "failed", "pending"))
        )
    lines = [f"{cells} failed: {reason}" for reason, cells in ledger.failures()[:5]]
    lines += [
        f"worker {worker}: {cells} cells, {mean:.2f} s each" for worker, cells, mean in ledger.latest()[:64]
    ]
    table.caption = escape("\n".join(lines))
    table.caption_justify = "left"
    return table


@contextmanager
def _shown() -> Iterator[Callable[[Any], None]]:
    """A progress bar on standard error, with throughput and the time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from workbench.views.tables import duration

    columns = (TextColumn("cells"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    stopped = "\nStopped. What was finished is kept: `workbench sweep resume` goes on from there."
    with interruptible(stopped), Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task("", total=None)

        def update(found: Any) -> None:
            for message in found.said:
                bars.console.print(message, markup=False, highlight=False, soft_wrap=True)
            parts = [f"{found.failed} failed"] if found.failed else []
            parts += [f"{found.rate:.2f} a second"] if found.now else []
            parts += [f"{duration(found.left)} to go"] if found.left else []
            bars.update(
                task, total=found.cells, completed=found.done + found.failed, description=", ".join(parts)
            )

        yield update


def _told(out: Path, last: Any) -> None:
    from workbench.sweeps.export import export_sweep

    tables = export_sweep(out)
    typer.echo(f"{last.done} of {last.cells} cells done, {last.failed} failed\nTables   {tables}")
    if last.failed:
        typer.echo(
            f"Why: workbench sweep status {out}; again: workbench sweep resume {out} --retry-failed", err=True
        )
        raise typer.Exit(1)
