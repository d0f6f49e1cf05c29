"""`workbench study`: one pair, or several one after another with a page that compares them."""

import gc
import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.errors import InputError
from workbench.interfaces import checks, options, questions
from workbench.interfaces.terminal import Progress, progress_bars, quiet, say_where

if TYPE_CHECKING:
    from workbench.models.pairs import ModelPair
    from workbench.models.presets import PairPreset

LONG = {"ablate": "interventions", "perturb": "perturbation"}
"""What options of a study are about, in words."""
NULLS = 3
"""Draws of matched noise and null models of each kind, where no preset says otherwise."""


@dataclass(frozen=True)
class Measures:
    """What a study measures at every cell."""

    top_k: Annotated[int, typer.Option(help="Top predictions kept per layer and position.", min=1)] = 10
    null_draws: Annotated[
        int | None,
        typer.Option(
            help="Matched-noise draws per layer and position; the default is the pair's preset, else 3.",
            min=0,
        ),
    ] = None
    bins: Annotated[int, typer.Option(help="Strata of base entropy.", min=2)] = 5
    reading: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a tuned lens (`TunedLens.save`, or translators that others published) to read layers through, or of "
            "a LatentLens (`LatentLens.save`, or an index of the package latentlens), whose nearest text states then stand "
            "beside the logit lens, the default."
        ),
    ] = None

    def check(self) -> None:
        """Refuse a folder that is not there.

        Raises:
            InputError: names it.
        """
        if self.reading is not None and not self.reading.is_dir():
            raise InputError(
                f"`reading` {self.reading} is no folder; expected one with translators or text states, as "
                "TunedLens.fit(...).save(folder) or LatentLens.build(...).save(folder) writes it: reading='runs/tuned'"
            )

    def keywords(self, preset: "PairPreset | None") -> dict[str, Any]:
        """As `study` takes them; what is not given suits the pair."""
        draws, reading = preset.study_settings["null_draws"] if preset else NULLS, None
        if self.reading is not None:
            from workbench.tracing.readings import load_reading

            reading = load_reading(self.reading)
        own = {"null_draws": draws if self.null_draws is None else self.null_draws, "reading": reading}
        return {**vars(self), **own}


@dataclass(frozen=True)
class Parts:
    """What a study does that takes long."""

    ablate: Annotated[
        options.When,
        typer.Option(help="Also let both models answer, with every intervention; auto: for a bundled pair."),
    ] = options.When.AUTO
    answers: Annotated[
        int | None,
        typer.Option(
            help="How many of the problems are answered, the first of them; the default is the pair's preset, else all. Traces "
            "are of all problems.",
            min=1,
        ),
    ] = None
    perturb: Annotated[
        options.When, typer.Option(help="Also disturb the pictures; auto: for a bundled pair.")
    ] = options.When.AUTO
    nulls: Annotated[
        options.When,
        typer.Option(
            help="Also change the weights at random, and trace controls; auto: for a bundled pair unless --perturb says "
            "otherwise, and controls that a pair's YAML names in any case."
        ),
    ] = options.When.AUTO

    def answered(self, preset: "PairPreset | None", problems: int) -> int:
        """How many of so many problems are answered, where any are."""
        own = None if preset is None else preset.study_settings.get("answers")
        return min(problems, self.answers or own or problems)

    def wanted(self, name: str, preset: "PairPreset | None", against: Mapping[str, str | None]) -> bool:
        """Whether to do a part, which ``against`` may say can't be done."""
        when: options.When = getattr(self, name)
        if name == "nulls" and when is options.When.AUTO:
            when = self.perturb
        return options.wanted(name, when, preset, against.get(name))


@dataclass(frozen=True)
class Task:
    """One study: which models, which problems, and what is measured."""

    models: options.ModelsHere
    problems: questions.Clips
    measures: Measures
    answers: options.Answers
    cells: options.LowCells
    parts: Parts

    def check(self) -> None:
        """Look at everything that shows without loading models or problems.

        Raises:
            InputError: names it.
        """
        depth, preset = self.models.check(), self.models.preset
        self.measures.check()
        self.answers.check()
        self.cells.check(preset, depth)
        if preset is not None and self.parts.nulls is not options.When.NO:
            from workbench.models.checkpoint_files import check_controls

            check_controls(preset.control_sources, preset.source("base"))

    def _controls(self, pair: "ModelPair", weighed: bool) -> "Mapping[str, ModelPair]":
        """Those that the pair brings: with null models, and a user's own unless ``--nulls no``."""
        from workbench.models.bundled import controls_of

        own = pair.preset is not None and pair.preset.controls
        return controls_of(pair) if weighed or (own and self.parts.nulls is not options.When.NO) else {}

    def run(self, out: Path, overwrite: bool, notes: Mapping[str, Any], progress: Progress) -> list[str]:
        """Do it, into a folder; what to say of it."""
        preset = self.models.preset
        problems = self.problems.of(preset)
        listed = problems.load(progress)
        against = {"ablate": checks.unanswerable(listed), "perturb": checks.undisturbable(listed)}
        parts_on = {name: self.parts.wanted(name, preset, against) for name in ("ablate", "perturb", "nulls")}
        blind, bundled = checks.blind(listed), preset is not None and preset.bundled
        left_out = {LONG[what]: why for what, why in against.items() if why and bundled}
        if parts_on["ablate"] and blind:
            left_out["interventions at visual tokens"] = blind

        from workbench.studies.study import study as run

        answered = self.parts.answered(preset, len(listed))
        if parts_on["ablate"] and answered < len(listed):
            typer.echo(
                f"Traces of {len(listed)} problems, answers of the first {answered} (--answers {len(listed)}: of all)",
                err=True,
            )
        loaded = self.models.load(progress)
        result = run(
            loaded,
            listed,
            out,
            seed=problems.seed,
            **self.measures.keywords(preset),
            interventions=self.cells.matrix(loaded, self.answers.engine, pictures=not blind)
            if parts_on["ablate"]
            else None,
            answers=answered,
            **self.answers.keywords(loaded),
            perturbed=parts_on["perturb"],
            null_models=(preset.study_settings["null_models"] if preset else NULLS)
            if parts_on["nulls"]
            else 0,
            controls=self._controls(loaded, parts_on["nulls"]),
            notes={"source": problems.described, **notes} | ({"left out": left_out} if left_out else {}),
            overwrite=overwrite,
            progress=progress,
        )
        lines = [f"\n{result.shift.verdict}\n"]
        lines += [f"Left out: {what}. {why}" for what, why in (left_out | dict(result.skipped)).items()]
        return lines + ([result.hint] if result.hint else [])

    @property
    def asked(self) -> dict[str, Any]:
        """The options, as they stand in a run's specification."""
        parts = vars(self).values()
        values = {name: value for part in parts for name, value in vars(part).items() if name != "pair"}
        plain = {n: v.value if isinstance(v, Enum) else v for n, v in values.items() if v is not None}
        return json.loads(json.dumps(plain, default=str))


def study(
    models: options.ModelsHere,
    problems: questions.Clips,
    place: options.RunFolder,
    measures: Measures,
    answers: options.Answers,
    cells: options.LowCells,
    parts: Parts,
    pairs: Annotated[
        str | None,
        typer.Option(
            help="Several pairs by name, such as shapes,smol: one after another into OUT/PAIR, finished ones skipped, then "
            "the page OUT/compare.html."
        ),
    ] = None,
) -> None:
    """Trace both models, measure what changed, and write a report you can open. No arguments: the bundled pair."""
    quiet()
    task = Task(models, problems, measures, answers, cells, parts)
    if pairs is not None:
        several(task, pairs, place)
        return
    out = place.place("study")
    task.check()
    with progress_bars() as progress:
        lines = task.run(out, place.overwrite, {}, progress)
    typer.echo("\n".join(lines))
    where = {"Report": out / "report.html", "Tables": out / "tables", "Figures": out / "figures"}
    say_where({name: path for name, path in where.items() if path.exists()})


def several(task: Task, pairs: str, place: options.RunFolder) -> None:
    """One study a pair into a folder of its own, and the page that compares them; exits with 2 where one could not be made.

    Raises:
        InputError: before any work: names that are no pairs, options that don't fit one of them, a folder in the way.
    """
    names = _names(task.models, pairs)
    out = place.out or Path("runs") / time.strftime("studies-%Y%m%d-%H%M%S")
    tasks = {out / _folder(n): replace(task, models=replace(task.models, pair=n)) for n in names}
    if len(tasks) < len(names):
        raise InputError(
            f"`pairs` {pairs!r} holds two of one name; expected different ones: pairs='shapes,smol'"
        )
    if (out / "manifest.json").exists():
        other = str(out.with_name(out.name + "-pairs"))
        raise InputError(
            f"`out` {out} is a finished study of one pair; expected a folder for several, such as a new one: out={other!r}"
        )
    left = [f for f, one in tasks.items() if place.overwrite or not _finished(f, one.asked)]
    for folder in left:
        _check(tasks[folder])
    for folder in left:  # which makes what is above it, once nothing else is wrong
        from workbench.runs import check_output

        check_output(folder, overwrite=place.overwrite)
    failed = []
    with progress_bars() as progress:
        for number, folder in enumerate(tasks):
            progress("studies", number, len(tasks))
            if folder in left:
                try:
                    one = tasks[folder]
                    lines = [folder.name, *one.run(folder, place.overwrite, {"asked": one.asked}, progress)]
                except InputError as error:  # what ails one pair must not cost the others
                    failed.append(f"{folder.name}: {error}")
                    continue
                gc.collect()  # the models, before the next ones come
                typer.echo("\n".join(lines))
            else:
                typer.echo(f"{folder.name}: finished")
        progress("studies", len(tasks), len(tasks))
    for line in failed:
        typer.echo(line)
    _compare(out, [folder for folder in tasks if (folder / "manifest.json").exists()])
    if failed:
        raise typer.Exit(2)


def _check(task: Task) -> None:
    """What a task refuses, said of the option that names its pair."""
    try:
        task.check()
    except InputError as error:
        said = str(error).replace("`pair`", "`pairs`").replace("`name`", "`pairs`")
        raise InputError(
            re.sub(r"load_pair\(['\"][^'\"]*['\"]\)", "study(pairs='shapes,smol')", said)
        ) from error


def _compare(out: Path, folders: Sequence[Path]) -> None:
    """The page, of two or more."""
    from workbench.studies.compare import compare

    if len(folders) < 2:
        typer.echo(f"No comparison: {len(folders)} finished of the two that it needs.")
        return
    comparison = compare(*folders)
    typer.echo(comparison.verdict)
    say_where({"Comparison": comparison.save(out / "compare.html"), "Studies": out})


def _names(models: options.ModelsHere, pairs: str) -> list[str]:
    """The pairs' names.

    Raises:
        InputError: fewer than two, or models named in another way, too.
    """
    given = [name for name in ("pair", "base", "rlvr") if getattr(models, name) is not None]
    if given:
        raise InputError(f"`pairs` was given beside `{given[0]}`; give one or the other: pairs='shapes,smol'")
    names = [name.strip() for name in pairs.split(",") if name.strip()]
    if len(names) < 2:
        raise InputError(
            f"`pairs` is {pairs!r}; expected two names or more with commas between: pairs='shapes,smol'"
        )
    return names


def _folder(name: str) -> str:
    """A pair's folder: NAME of FILE.yaml:NAME, without slashes."""
    return name.rpartition(":")[2].replace("/", "-").replace("\\", "-")


def _finished(folder: Path, asked: Mapping[str, Any]) -> bool:
    """Whether a finished study lies there that was asked for with the same options.

    Raises:
        InputError: one with others does.
    """
    try:
        spec = json.loads((folder / "spec.json").read_text(encoding="utf-8"))
        before = spec.get("asked") or {}
    except (OSError, ValueError, AttributeError):
        return False
    if not (folder / "manifest.json").exists():
        return False
    names = [name for name in {**before, **asked} if before.get(name) != asked.get(name)]
    if names:
        raise InputError(
            f"`out` {folder} holds a study that was asked for otherwise ({', '.join(names[:3])}); replace it with "
            f"overwrite=True, or name another folder: out={str(folder.parent.with_name(folder.parent.name + '-2'))!r}"
        )
    return True
