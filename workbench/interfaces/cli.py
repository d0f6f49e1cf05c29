"""The commands. Each looks at its options, calls the library, and says where to look; heavy imports wait until all is well."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.errors import InputError
from workbench.interfaces import (
    bench_cli,
    checks,
    compare_cli,
    machine_cli,
    options,
    organism_cli,
    pairs_cli,
    problems_cli,
    questions,
    study_cli,
    sweep_cli,
)
from workbench.interfaces.flags import Commands
from workbench.interfaces.terminal import Progress, plain_warnings, progress_bars, quiet, refusals, say_where

if TYPE_CHECKING:
    from workbench.studies.paper import Analysis, Given

app = Commands(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What RLVR changes inside a large multimodal model, seen through the logit lens.",
)
app.add_typer(organism_cli.organism, name="organism")
app.add_typer(pairs_cli.pairs, name="pairs")
problems_cli.register(app)
app.add_typer(sweep_cli.sweep, name="sweep")
app.command()(study_cli.study)
app.command()(compare_cli.compare)
app.command()(bench_cli.bench)
app.command("conform")(machine_cli.conform)
app.command("doctor")(machine_cli.doctor)


_PAPER, _SCENES = questions.Questions(limit=300), questions.Questions("shapes-agent", limit=8)


@app.command()
def ablate(
    models: options.ModelsHere,
    problems: questions.Clips,
    place: options.RunFolder,
    answers: options.Answers,
    cells: options.LowCells,
    temperature: Annotated[float, typer.Option(help="Of the samples.", min=0)] = 1.0,
) -> None:
    """Compare interventions: replay and patches at low and at high entropy, and every control, against both models."""
    quiet()
    out, depth, preset = place.place("ablate"), models.check(), models.preset
    answers.check()
    cells.check(preset, depth)
    with progress_bars() as progress:
        problems = problems.of(preset)
        listed = problems.load(progress)
        if against := checks.unanswerable(listed):
            raise InputError(f"`problems`: {against}; add it to the rows, or take others: problems='shapes'")

        from workbench.experiments.ablation import ablate as run
        from workbench.runs import made_with, run_folder, write_json, write_tables
        from workbench.views.figure_files import write_figures
        from workbench.views.outcome_figures import ablation_figures

        loaded = models.load(progress)
        if blind := checks.blind(listed):
            typer.echo(f"Left out: interventions at visual tokens. {blind}", err=True)
        matrix = cells.matrix(loaded, answers.engine, pictures=not blind)
        settings = {"temperature": temperature, "seed": problems.seed, **answers.keywords(loaded)}
        spec = {"pair": dict(loaded.provenance), "settings": settings, "interventions": matrix}
        spec |= {"source": problems.described}
        with run_folder(out, "ablate", spec, overwrite=place.overwrite) as work:
            ablation = run(loaded, listed, matrix, **settings, keep=work / "shards", progress=progress)
            folder = work / "run"
            write_tables(folder / "tables", ablation.tables(), large=("responses",))
            hint = write_figures(
                ablation_figures(ablation.summary, ablation.drift, low=ablation.low), folder / "figures"
            )
            write_json(folder / "spec.json", {**spec, **dict(ablation.settings), "made_with": made_with()})
    _print_accuracies(ablation.summary)
    if hint:
        typer.echo(hint)
    say_where({"Tables": out / "tables", "Figures": out / "figures"})


@app.command("figures")
def make_figures(
    models: options.ModelsHere,
    problems: questions.Questions = _PAPER,
    names: Annotated[
        list[str] | None, typer.Argument(help="Which analyses; the default is all of them.")
    ] = None,
    samples: options.NumberOfSamples = 16,
    run: Annotated[
        Path | None,
        typer.Option(help="A finished study or ablation to take tables from; nothing is computed."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("figures"),
    cache: Annotated[Path, typer.Option(help="Folder for finished parts, which all analyses share.")] = Path(
        "runs/cache"
    ),
    force: Annotated[bool, typer.Option("--force", help="Make again what is up to date.")] = False,
) -> None:
    """Make every figure and table of the paper on a pair; what is up to date is skipped. No arguments: the bundled pair."""
    quiet()
    from workbench.runs import alone, check_run
    from workbench.studies.scripts import find_scripts

    find_scripts(names=names)
    for name, folder in (("out", out), ("cache", cache)):
        checks.check_folder(name, folder)
    problems = problems.of(None if run else models.preset)
    if run is None:
        models.check()
        problems.load(limit=1)
    else:
        check_run(run)

    from workbench.studies.paper import Given, Options, find_analyses

    kind = models.dtype.value if models.dtype else None
    source = (problems.problems or questions.SHAPES, problems.split, problems.limit)
    settings = Options(
        models.pair,
        models.base,
        models.rlvr,
        *source,
        models.device,
        kind,
        samples,
        problems.seed,
        run,
        cache,
        **models.reading,
    )
    out.mkdir(parents=True, exist_ok=True)
    busy = f"`out` {out}: other figures are being made there; wait for them, or name another folder: out='{out}-2'"
    with alone(out / ".figures.lock", busy), progress_bars() as progress:
        analyses, work = find_analyses(names=names), Given(settings, progress)
        if run is None:
            _ = work.pair  # every analysis asks for it: what is wrong with it is said once, and in flags
        lines, failed = _make(analyses, work, out, force, bool(names), progress)
    typer.echo("\n".join([*lines, *failed, f"Figures  {out}"]))
    raise typer.Exit(2 if failed else 0)


@dataclass(frozen=True)
class Work:
    """How an agent works."""

    intervention: Annotated[options.Agents, typer.Option(help="Made anew at every turn, at low entropy.")] = (
        options.Agents.NONE
    )
    turns: Annotated[int, typer.Option(help="Responses at most.", min=1)] = 10
    relative_to: Annotated[
        str | None,
        typer.Option(
            help="What boxes count: pixels (of the image at full size), seen (pixels of the image as resized for the model), or "
            "what its whole width counts, such as 1000; the default is the pair's preset, else pixels."
        ),
    ] = None
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0)] = 0.0
    lens: Annotated[bool, typer.Option("--lens", help="Overlays of both models on every page.")] = False


@app.command()
def agent(
    models: options.ModelsHere,
    place: options.RunFolder,
    work: Work,
    drawing: options.Drawing,
    cells: options.LowCells,
    problems: questions.Questions = _SCENES,
) -> None:
    """Let the RLVR model work with the zoom tool, turn by turn: a page per problem, and a table."""
    quiet()
    from dataclasses import asdict

    depth, preset = models.check(), models.preset
    checks.check_sees(models)
    out = place.place("agent")
    drawing.check()
    checks.check_tool(work.relative_to)
    cells.check(preset, depth)
    with progress_bars() as progress:
        listed = problems.load(progress)
        checks.check_zoomable(listed)

        from workbench.experiments.agent import run_agents
        from workbench.runs import made_with, run_folder, write_json, write_tables

        loaded = models.load(progress)
        named = {options.Agents.TOKENS: "tokens, low", options.Agents.PATCH: "patch, low"}
        title = named.get(work.intervention)
        condition = cells.matrix(loaded)[title] if title else None
        settings: dict[str, Any] = {
            "intervention": condition,
            "turns": work.turns,
            "temperature": work.temperature,
            "seed": problems.seed,
            "lens": work.lens,
            "tool": options.tool_of(loaded, work.relative_to),
            **drawing.keywords(loaded),
        }
        described = {
            "intervention": condition and [type(condition).__name__, asdict(condition)],
            "tool": asdict(settings["tool"]),
        }
        spec = {
            "pair": dict(loaded.provenance),
            "settings": settings | described,
            "source": problems.described,
        }
        with run_folder(out, "agent", spec, overwrite=place.overwrite) as folder:
            tables = run_agents(loaded, listed, folder / "run" / "transcripts", folder, progress, **settings)
            write_tables(folder / "run" / "tables", tables)
            write_json(folder / "run" / "spec.json", {**spec, "made_with": made_with()})
    agents = tables["agents"]
    verdicts = agents["correct"].dropna().tolist()
    typer.echo(f"{len(agents)} problems, {agents['ended'].tolist().count('answer')} answered")
    if verdicts:
        typer.echo(f"{sum(verdicts)} of {len(verdicts)} correct")
    say_where({"Transcripts": out / "transcripts", "Tables": out / "tables"})


def run_analysis(name: str) -> None:
    """The command line of a script in analyses/: that of `workbench figures`, for this one, up to date or not."""
    sys.argv = [sys.argv[0], "figures", name, "--force", *sys.argv[1:]]
    main()


def main() -> None:
    """Entry point of the `workbench` command: bad input exits with 2, Ctrl-C with 130, neither with a traceback."""
    with plain_warnings(), refusals():
        app()


def _make(
    analyses: "list[Analysis]", given: "Given", out: Path, force: bool, named: bool, progress: Progress
) -> tuple[list[str], list[str]]:
    """Run analyses; what became of each, and which could not be made; what doesn't suit the pair counts there if it was named."""
    from workbench.studies.paper import Unsuited

    lines: list[str] = []
    failed: list[str] = []
    for number, analysis in enumerate(analyses, 1):
        try:
            if not force and analysis.up_to_date(given, out):
                lines.append(f"{analysis.name}: up to date")
            else:
                finding, hint = analysis.make(given, out)
                lines += [f"{analysis.name}: made", *([hint] if hint else []), *map(str, finding.claims)]
        except Unsuited as error:
            (failed if named else lines).append(f"{analysis.name}: left out, {error}")
        except InputError as error:  # what one analysis can't show must not cost the others
            failed.append(f"{analysis.name}: {error}")
        progress("figures", number, len(analyses))
    return lines, failed


def _print_accuracies(summary: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    from workbench.experiments.outcomes import accuracy_rows

    table = Table(
        "intervention", "greedy", "- RLVR", "Pass@1", "- RLVR", "McNemar p", title="percent, 95% intervals"
    )
    table.columns[0].min_width = 14  # names break between words, numbers not at all
    for row in accuracy_rows(summary):
        table.add_row(row["name"], *row["cells"])
    Console().print(table)


if __name__ == "__main__":
    main()
