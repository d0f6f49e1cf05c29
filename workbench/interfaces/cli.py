"""The commands. Each one parses, calls the library, and says where to look; heavy imports wait until a command runs."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from workbench.errors import InputError
from workbench.interfaces import options, organism_cli, pairs_cli, problems_cli, sweep_cli
from workbench.interfaces.options import (
    matrix_of,
    pair_of,
    plain_warnings,
    problems_of,
    progress_bars,
    quiet,
    refusals,
    size_of,
    tool_of,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="What RLVR changes inside a large multimodal model, seen through the logit lens.",
)
app.add_typer(organism_cli.organism, name="organism")
app.add_typer(pairs_cli.pairs, name="pairs")
problems_cli.register(app)
app.add_typer(sweep_cli.sweep, name="sweep")


@app.command()
def study(
    pair: options.Pair = None,
    base: options.Base = None,
    rlvr: options.Rlvr = None,
    problems: options.Problems = "shapes",
    split: options.Split = "test",
    limit: options.Limit = 64,
    frames: options.Frames = 16,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; the default is runs/study-<date>-<time>.")
    ] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    dtype: options.PairDtype = None,
    attn_implementation: options.Attention = None,
    seed: options.Seed = 0,
    top_k: Annotated[int, typer.Option(help="Top predictions kept per layer and position.")] = 10,
    null_draws: Annotated[int, typer.Option(help="Matched-noise draws per layer and position.")] = 3,
    bins: Annotated[int, typer.Option(help="Strata of base entropy.")] = 5,
    batch_size: options.BatchSize = None,
    ablate: Annotated[
        options.When,
        typer.Option(help="Also let both models answer, with every intervention; auto: for a bundled pair."),
    ] = options.When.AUTO,
    perturb: Annotated[
        options.When,
        typer.Option(help="Also disturb pictures, and weights for null models; auto: for a bundled pair."),
    ] = options.When.AUTO,
    samples: options.Samples = 16,
    max_new_tokens: options.NewTokens = None,
    engine: options.Engine = None,
    tau: options.Tau = None,
    alpha: options.Alpha = None,
    layers: options.Layers = None,
    threshold: options.HowLow = None,
) -> None:
    """Trace both models, measure what changed, and write a report you can open. No arguments: the bundled pair."""
    quiet()
    from workbench.models.bundled import controls_of
    from workbench.models.pairs import batch_of, is_bundled, longest_answer
    from workbench.runs import check_output
    from workbench.studies.study import study as run

    out = out or _run_name("study")
    check_output(out, overwrite=overwrite)
    listed = problems_of(problems, split, limit, seed, frames)
    with progress_bars() as progress:
        loaded = pair_of(pair, base, rlvr, device, dtype, attn_implementation)
        asked, perturbed = (
            when is options.When.YES or (when is options.When.AUTO and is_bundled(loaded))
            for when in (ablate, perturb)
        )
        result = run(
            loaded,
            listed,
            out,
            seed=seed,
            top_k=top_k,
            null_draws=null_draws,
            bins=bins,
            batch_size=batch_of(loaded) if batch_size is None else batch_size,
            interventions=matrix_of(loaded, tau, alpha, layers, threshold, engine) if asked else None,
            samples=samples,
            max_new_tokens=longest_answer(loaded) if max_new_tokens is None else max_new_tokens,
            engine=engine.value if engine else None,
            perturbed=perturbed,
            controls=controls_of(loaded) if perturbed else None,
            notes={"source": {"problems": problems, "split": split, "limit": limit, "frames": frames}},
            overwrite=overwrite,
            progress=progress,
        )
    typer.echo(f"\n{result.shift.verdict}\n")
    if result.hint:
        typer.echo(result.hint)
    typer.echo(
        f"Report   {result.report}\nTables   {result.folder / 'tables'}\nFigures  {result.folder / 'figures'}"
    )


@app.command()
def ablate(
    pair: options.Pair = None,
    base: options.Base = None,
    rlvr: options.Rlvr = None,
    problems: options.Problems = "shapes",
    split: options.Split = "test",
    limit: options.Limit = 64,
    frames: options.Frames = 16,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; the default is runs/ablate-<date>-<time>.")
    ] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    dtype: options.PairDtype = None,
    attn_implementation: options.Attention = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = None,
    samples: options.Samples = 16,
    temperature: Annotated[float, typer.Option(help="Of the samples.")] = 1.0,
    max_new_tokens: options.NewTokens = None,
    engine: options.Engine = None,
    tau: options.Tau = None,
    alpha: options.Alpha = None,
    layers: options.Layers = None,
    threshold: options.HowLow = None,
) -> None:
    """Compare interventions: replay and patches at low and at high entropy, and every control, against both models."""
    quiet()
    from rich.console import Console
    from rich.table import Table

    from workbench.experiments.ablation import ablate as run
    from workbench.experiments.outcomes import accuracy_rows
    from workbench.models.pairs import batch_of, longest_answer
    from workbench.runs import check_output, made_with, run_folder, write_json, write_tables
    from workbench.views.figure_files import write_figures
    from workbench.views.outcome_figures import ablation_figures

    out = out or _run_name("ablate")
    check_output(out, overwrite=overwrite)
    listed = problems_of(problems, split, limit, seed, frames)
    with progress_bars() as progress:
        loaded = pair_of(pair, base, rlvr, device, dtype, attn_implementation)
        matrix = matrix_of(loaded, tau, alpha, layers, threshold, engine)
        settings: dict[str, Any] = {
            "samples": samples,
            "temperature": temperature,
            "seed": seed,
            "max_new_tokens": longest_answer(loaded) if max_new_tokens is None else max_new_tokens,
            "batch_size": batch_of(loaded) if batch_size is None else batch_size,
            **({} if engine is None else {"engine": engine.value}),
        }
        spec = {"pair": dict(loaded.provenance), "settings": settings, "interventions": matrix}
        spec |= {"source": {"problems": problems, "split": split, "limit": limit, "frames": frames}}
        with run_folder(out, "ablate", spec, overwrite=overwrite) as work:
            found = run(loaded, listed, matrix, **settings, keep=work / "shards", progress=progress)
            built = work / "run"
            write_tables(built / "tables", found.tables(), large=("responses",))
            hint = write_figures(ablation_figures(found.summary, found.drift), built / "figures")
            write_json(built / "spec.json", {**spec, **dict(found.settings), "made_with": made_with()})
    shown = Table(
        "intervention", "greedy", "- RLVR", "Pass@1", "- RLVR", "McNemar p", title="percent, 95% intervals"
    )
    shown.columns[0].min_width = 14  # names break between words, numbers not at all
    for row in accuracy_rows(found.summary):
        shown.add_row(row["name"], *row["cells"])
    Console().print(shown)
    if hint:
        typer.echo(hint)
    typer.echo(f"Tables   {out / 'tables'}\nFigures  {out / 'figures'}")


@app.command("figures")
def make_figures(
    names: Annotated[
        list[str] | None, typer.Argument(help="Which analyses; the default is all of them.")
    ] = None,
    pair: options.Pair = None,
    base: options.Base = None,
    rlvr: options.Rlvr = None,
    problems: options.Problems = "shapes",
    split: options.Split = "test",
    limit: options.Limit = 300,
    device: options.Device = None,
    dtype: options.PairDtype = None,
    samples: options.Samples = 16,
    seed: options.Seed = 0,
    run: options.Run = None,
    out: options.Figures = Path("figures"),
    cache: options.Cache = Path("runs/cache"),
    force: Annotated[bool, typer.Option(help="Make again what is up to date.")] = False,
) -> None:
    """Make every figure and table of the paper on a pair; what is up to date is skipped. No arguments: the bundled pair."""
    quiet()
    from workbench.studies.paper import Given, Options, find_analyses

    chosen = find_analyses(names=names)
    told, failed, kind = [], [], dtype.value if dtype else None
    given = Options(pair, base, rlvr, problems, split, limit, device, kind, samples, seed, run, cache)
    with progress_bars() as progress:
        shared = Given(given, progress)
        for number, analysis in enumerate(chosen):
            progress("figures", number, len(chosen))
            if not force and analysis.up_to_date(shared, out):
                told.append(f"{analysis.name}: up to date")
                continue
            try:
                found, hint = analysis.make(shared, out)
                told += [f"{analysis.name}: made", *([hint] if hint else []), *map(str, found.claims)]
            except InputError as error:  # what one analysis can't show must not cost the others
                failed.append(f"{analysis.name}: {error}")
        progress("figures", len(chosen), len(chosen))
    typer.echo("\n".join([*told, *failed, f"Figures  {out}"]))
    raise typer.Exit(2 if failed else 0)


@app.command()
def agent(
    problems: options.Problems = "shapes-agent",
    pair: options.Pair = None,
    base: options.Base = None,
    rlvr: options.Rlvr = None,
    split: options.Split = "test",
    limit: options.Limit = 8,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make; the default is runs/agent-<date>-<time>.")
    ] = None,
    overwrite: options.Overwrite = False,
    device: options.Device = None,
    dtype: options.PairDtype = None,
    attn_implementation: options.Attention = None,
    intervention: Annotated[
        options.Agents, typer.Option(help="Made anew at every turn, at low entropy.")
    ] = options.Agents.NONE,
    turns: Annotated[int, typer.Option(help="Responses at most.")] = 10,
    relative_to: options.RelativeTo = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: options.Seed = 0,
    max_new_tokens: options.NewTokens = None,
    engine: options.Engine = None,
    lens: Annotated[bool, typer.Option(help="Overlays of both models on every page.")] = False,
    tau: options.Tau = None,
    alpha: options.Alpha = None,
    layers: options.Layers = None,
    threshold: options.HowLow = None,
) -> None:
    """Let the RLVR model work with the zoom tool, turn by turn: a page per problem, and a table."""
    quiet()
    from dataclasses import asdict

    from workbench.experiments.agent import run_agents
    from workbench.models.pairs import longest_answer
    from workbench.runs import check_output, made_with, run_folder, write_json, write_tables

    out = out or _run_name("agent")
    check_output(out, overwrite=overwrite)
    listed = problems_of(problems, split, limit, seed)
    with progress_bars() as progress:
        loaded = pair_of(pair, base, rlvr, device, dtype, attn_implementation)
        named = {options.Agents.TOKENS: "tokens, low", options.Agents.PATCH: "patch, low"}
        matrix = matrix_of(loaded, tau, alpha, layers, threshold)
        settings: dict[str, Any] = {
            "intervention": matrix[named[intervention]] if intervention in named else None,
            "turns": turns,
            "temperature": temperature,
            "seed": seed,
            "max_new_tokens": longest_answer(loaded) if max_new_tokens is None else max_new_tokens,
            "lens": lens,
            "tool": tool_of(loaded, relative_to),
            **({} if engine is None else {"engine": engine.value}),
        }
        made = settings["intervention"]
        told = {
            "intervention": made and [type(made).__name__, asdict(made)],
            "tool": asdict(settings["tool"]),
        }
        spec = {"pair": dict(loaded.provenance), "settings": settings | told}
        spec |= {"source": {"problems": problems, "split": split, "limit": limit}}
        with run_folder(out, "agent", spec, overwrite=overwrite) as work:
            tables = run_agents(loaded, listed, work / "run" / "transcripts", work, progress, **settings)
            write_tables(work / "run" / "tables", tables)
            write_json(work / "run" / "spec.json", {**spec, "made_with": made_with()})
    agents = tables["agents"]
    known = agents["correct"].dropna().tolist()
    typer.echo(f"{len(agents)} problems, {agents['ended'].tolist().count('answer')} answered")
    if known:
        typer.echo(f"{sum(known)} of {len(known)} correct")
    typer.echo(f"Transcripts  {out / 'transcripts'}\nTables       {out / 'tables'}")


@app.command()
def conform(
    folders: Annotated[
        list[Path],
        typer.Argument(help="Parity folders: base/, rlvr/, case.json, inputs and expected tensors."),
    ],
    dtype: Annotated[options.Dtype, typer.Option(help="Dtype to run in.")] = options.Dtype.FLOAT64,
    device: Annotated[str, typer.Option(help="Device to run on.")] = "cpu",
    tolerance: Annotated[float, typer.Option(help="Largest absolute deviation allowed.")] = 1e-6,
) -> None:
    """Check this machine's numerics against recorded reference outputs."""
    from workbench.machine.conform import conform as check

    report = check(folders, dtype=dtype.value, device=device, tolerance=tolerance)
    typer.echo(str(report))
    raise typer.Exit(report.exit_code)


@app.command()
def doctor(
    pair: Annotated[
        str | None, typer.Option(help="Predict the memory that this pair needs instead, from configs alone.")
    ] = None,
    base: options.Base = None,
    rlvr: options.Rlvr = None,
    tokens: Annotated[
        int | None, typer.Option(help="Length of the prompt; the default is its picture and 300 of text.")
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="Size of its picture in pixels, 0x0 for none; the default is 1000x1000 where pictures can be sized."
        ),
    ] = None,
    placement: Annotated[
        str | None,
        typer.Option(help="together (the default), or sequential: one model at a time; of the forecast."),
    ] = None,
    dtype: options.PairDtype = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda, of the forecast; the default is what would be used here.")
    ] = None,
) -> None:
    """Show what is installed and works here, what would fail, and how to mend it; or what memory a pair needs."""
    from rich.console import Console

    asked = {"tokens": tokens, "image": image, "placement": placement, "dtype": dtype, "device": device}
    prompt: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if pair or base or rlvr:
        quiet()
        from workbench.machine.pair_memory import forecast_pair

        prompt |= {} if image is None else {"image": size_of(image)}
        prompt |= {} if dtype is None else {"dtype": dtype.value}
        Console().print(forecast_pair(pair, base=base, rlvr=rlvr, **prompt))
        return
    if prompt:
        raise InputError(
            f"`--{next(iter(prompt))}` is for the memory of a pair; name one, as in workbench doctor --pair shapes, or leave "
            "it out"
        )

    from workbench.machine.doctor import doctor as examine

    report = examine()
    Console().print(report)
    raise typer.Exit(report.exit_code)


def run_analysis(name: str) -> None:
    """The command line of a script in analyses/: that of `workbench figures`, for this one, up to date or not."""
    sys.argv = [sys.argv[0], "figures", name, "--force", *sys.argv[1:]]
    main()


def main() -> None:
    """Entry point of the `workbench` command: bad input exits with 2, Ctrl-C with 130, neither with a traceback."""
    with plain_warnings(), refusals():
        app()


def _run_name(kind: str) -> Path:
    import time

    return Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")


if __name__ == "__main__":
    main()
