"""Analyses: scripts that reproduce one figure or table of the paper each, on any pair.

A script is a module with a function ``analyse(given) -> Finding``. `Given` hands it what it asks for (a trace, an
ablation, ...), computed on the pair and problems that the command line names and kept in a cache that all scripts
share, or read from the tables of a finished run (``--run``). What comes back is written as ``NAME.html``, pictures,
``NAME.csv`` and, last, ``NAME.json``: what it was made from, with what, and how long that took.
"""

import hashlib
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench import __version__
from workbench.analysis.shift import ShiftTable, stratified_shift
from workbench.analysis.verdicts import Claim, claim_table, claims_html
from workbench.analysis.weight_nulls import NullShift, weight_nulls
from workbench.conditions import Named
from workbench.digests import digest_of, versions
from workbench.errors import InputError
from workbench.experiments.ablation import Ablation, ablate
from workbench.experiments.outcomes import PASS_AT, summarise_responses
from workbench.experiments.perturbation import perturb, responses_for
from workbench.models.bundled import controls_of
from workbench.models.checkpoint_files import check_controls
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair, study_settings
from workbench.models.preset_files import pair_preset
from workbench.problems.problem import Problem, load_problems
from workbench.runs import kept, made_with, write_json
from workbench.studies.answers_changed import conditions_in
from workbench.studies.scripts import find_scripts
from workbench.tracing.agreement import agreement_by_layer
from workbench.tracing.trace import LensTrace, trace
from workbench.views import markup
from workbench.views.figure_files import pack_png, write_figures

if TYPE_CHECKING:
    import plotly.graph_objects as go

PARTS = ("html", "csv")
"""What every analysis must have left behind to count as made; pictures need a browser."""

READING = ("attn_implementation", "processor", "chat_template")
"""Options that only `load_pair` takes; the pair's provenance says what came of them."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Options:
    """What an analysis is run on; the command line of every script."""

    pair: str | None = None
    base: str | None = None
    rlvr: str | None = None
    problems: str = ""
    """\"\": those that the pair is asked where none are named."""
    split: str = "test"
    limit: int = 300
    device: str | None = None
    dtype: str | None = None
    samples: int = 16
    seed: int = 0
    run: Path | None = None
    """A finished run of `workbench study` or `workbench ablate` to take tables from instead of computing them."""
    cache: Path = Path("runs/cache")
    attn_implementation: str | None = None
    processor: str | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        own = pair_preset(self.pair).problems if self.pair else "shapes"
        object.__setattr__(self, "problems", self.problems or own)


class Unsuited(InputError):
    """An analysis is about something that the pair's problems do not have; nothing went wrong."""


@dataclass(frozen=True, eq=False)
class Finding:
    """What an analysis found."""

    figures: "Mapping[str, go.Figure]"
    """By the ending of their file name; ``""`` for the main one."""
    table: pd.DataFrame
    claims: Sequence[Claim] = ()

    def __repr__(self) -> str:
        pictures, rows = len(self.figures), len(self.table)
        return f"Finding({pictures} figures, a table of {rows} rows, {len(self.claims)} claims)"

    def _repr_html_(self) -> str:
        return markup.paragraph(repr(self)) + claims_html(self.claims)


@dataclass(frozen=True, eq=False)
class Given:
    """What an analysis may ask for."""

    options: Options
    progress: Progress = field(default=lambda what, done, total: None, repr=False)

    @cached_property
    def pair(self) -> ModelPair:
        """The pair; the bundled one where none is named."""
        o = self.options
        name = o.pair if o.pair or o.base or o.rlvr else "shapes"
        reading = {part: getattr(o, part) for part in READING}
        if name is not None:
            preset = pair_preset(name)
            check_controls(preset.control_sources, preset.source("base"))
        pair = load_pair(name, base=o.base, rlvr=o.rlvr, device=o.device, dtype=o.dtype, **reading)
        if pair.provenance["base"]["weights"] == pair.provenance["rlvr"]["weights"]:
            raise InputError(
                f"`--rlvr` has the weights of `--base` ({pair.name}): nothing shifts, so there is nothing to show; "
                "name a model that was trained on from the base"
            )
        return pair

    @property
    def name(self) -> str:
        """What the pair is called."""
        return "the run's pair" if self.options.run else self.pair.name

    @property
    def device(self) -> str:
        """Where the models are."""
        return "the run's device" if self.options.run else str(self.pair.device)

    def problems(self, split: str | None = None, limit: int | None = None) -> list[Problem]:
        """The problems; of another split, or fewer, where asked for."""
        o = self.options
        limit = min(limit or o.limit, o.limit)
        return list(load_problems(o.problems, split=split or o.split, limit=limit, seed=o.seed))

    @cached_property
    def trace(self) -> LensTrace:
        """Both models on the problems."""
        o = self.options
        if o.run:
            return LensTrace.load(o.run / "trace")
        problems = self.problems()
        spec = {"pair": self.spec["pair"], "problems": [p.fingerprint for p in problems], "seed": o.seed}
        spec |= {"computed_with": versions()}
        folder = o.cache / f"trace-{digest_of(spec)}"
        if not (folder / "manifest.json").exists():
            traced = trace(
                self.pair,
                problems,
                seed=o.seed,
                null_draws=study_settings(self.pair)["null_draws"],
                progress=lambda done, total: self.progress("tracing both models", done, total),
            )
            if not (folder / "manifest.json").exists():  # another process may have been faster
                traced.save(folder)
        return LensTrace.load(folder)

    @cached_property
    def shift(self) -> ShiftTable:
        """The entropy-stratified shift."""
        return stratified_shift(self.trace, seed=self.options.seed)

    @cached_property
    def agreement(self) -> pd.DataFrame:
        """Agreement of the two models by layer."""
        return agreement_by_layer(self.trace, seed=self.options.seed)

    @cached_property
    def matrix(self) -> dict[str, Any]:
        """The default interventions, in settings that suit the pair."""
        return dict(self.pair.matrix(**({} if self.pictured else {"pictures": False})))

    @cached_property
    def pictured(self) -> bool:
        """Whether any of the problems has a picture; that of a run is not asked."""
        return bool(self.options.run) or any(problem.images or problem.video for problem in self.problems())

    def need_pictures(self, what: str) -> None:
        """Refuse problems without pictures.

        Raises:
            Unsuited: there is no picture, which ``what`` needs.
        """
        if not self.pictured:
            raise Unsuited(f"{what} needs visual tokens, and none of the problems has a picture")

    def suited(self, names: Iterable[str]) -> list[str]:
        """Of names of the default matrix those that the problems allow: without pictures patches alone."""
        return [name for name in names if self.options.run or name in self.matrix]

    def ablation(
        self,
        names: Iterable[str] | None = None,
        *,
        conditions: Mapping[str, Named] | None = None,
        problems: Sequence[Problem] | None = None,
        controls: Mapping[str, ModelPair] | None = None,
        samples: int | None = None,
        batch_size: int | None = None,
        keep: bool = True,
    ) -> Ablation:
        """Responses under the plain models and some interventions.

        Args:
            names: of the default matrix; None: all of it.
            conditions: other interventions instead.
            problems: other problems instead.
            controls: models that answer as they are, beside the pair's own, as `ablate` takes them.
            samples: other than the options'.
            batch_size: other than what suits the pair.
            keep: False measures anew what the cache holds, for the sake of its timings.

        Raises:
            InputError: a run that lacks one of the interventions, or a table.
        """
        o = self.options
        if o.run and conditions is None:
            return self._from_run(names)
        if conditions is None:
            conditions = {name: self.matrix[name] for name in (names if names is not None else self.matrix)}
        else:
            self._refuse_run("other interventions than a run has; leave `--run` out")
        return ablate(
            self.pair,
            problems if problems is not None else self.problems(),
            conditions,
            samples=samples or o.samples,
            seed=o.seed,
            batch_size=batch_size,
            controls=controls,
            keep=o.cache / "ablation" if keep else None,
            progress=lambda what, done, total: self.progress(f"answering: {what}", done, total),
        )

    @cached_property
    def perturbation(self) -> dict[str, pd.DataFrame]:
        """``table`` and ``slopes`` of a perturbation study."""
        o = self.options
        if o.run:
            return {"table": self.table("perturbation"), "slopes": self.table("perturbation_slopes")}
        problems = self.problems()
        result = perturb(
            self.pair,
            problems,
            responses=responses_for(problems),
            samples=o.samples,
            seed=o.seed,
            keep=o.cache / "perturbation",
            progress=lambda done, total: self.progress("disturbing the pictures", done, total),
        )
        return {"table": result.table, "slopes": result.slopes}

    @cached_property
    def nulls(self) -> dict[str, pd.DataFrame]:
        """``table`` and ``contrasts`` of null models in weights."""
        o, names = self.options, {"table": "nulls", "contrasts": "null_contrasts"}
        if o.run:
            return {key: self.table(name) for key, name in names.items()}
        spec = {**self.spec, "nulls": True}
        tables = kept(
            o.cache / "nulls", spec, [*names.values()], lambda: [*self._null_shift().tables().values()]
        )
        return dict(zip(names, tables, strict=True))

    def _null_shift(self) -> NullShift:
        return weight_nulls(
            self.pair,
            self.problems(),
            draws=study_settings(self.pair)["null_models"],
            others=controls_of(self.pair),
            traced=self.trace,
            seed=self.options.seed,
            progress=lambda what, done, total: self.progress(f"null model: {what}", done, total),
        )

    def table(self, name: str) -> pd.DataFrame:
        """A table of the run.

        Raises:
            InputError: the run has no such table.
        """
        run = self.options.run
        file = (run or Path()) / "tables" / f"{name}.parquet"
        if not file.is_file():
            names = sorted(path.stem for path in file.parent.glob("*.parquet"))
            raise InputError(
                f"`--run` {run} holds no table {name!r}{f' (it holds {names})' * bool(names)}; give a run of `workbench study`"
                " or `workbench ablate` that has it, or leave `--run` out and it is computed"
            )
        return pd.read_parquet(file)

    @property
    def spec(self) -> dict[str, Any]:
        """Everything that can change a result, beside the script itself."""
        o = self.options
        options = {k: v for k, v in asdict(o).items() if k not in ("cache", "run", "device", *READING)}
        if o.run:
            return {"run": json.loads((o.run / "manifest.json").read_text()), "workbench": __version__}
        pair = {k: v for k, v in self.pair.provenance.items() if k != "libraries"}
        return {"options": options, "pair": pair, "workbench": __version__}

    def _from_run(self, names: Iterable[str] | None) -> Ablation:
        responses, drift = self.table("responses"), self.table("drift")
        present = list(dict.fromkeys(responses["intervention"]))
        conditions = ["base", "rlvr", *(names if names is not None else present)]
        missing = [name for name in conditions if name not in present]
        if missing:
            raise InputError(
                f"`--run` {self.options.run} lacks the interventions {missing} (it holds {present}); make a run that has them, "
                "or leave `--run` out"
            )
        responses = responses.loc[responses["intervention"].isin(conditions)]
        samples = responses["sample"].nunique() - 1
        ks = [k for k in PASS_AT if k <= samples]
        summary = summarise_responses(responses, samples=samples, pass_at=ks)
        file = (self.options.run or Path()) / "spec.json"
        spec = json.loads(file.read_text()) if file.is_file() else {}
        moved = drift.loc[drift["intervention"].isin(conditions)]
        return Ablation(responses, summary, moved, {"interventions": conditions_in(spec)})

    def _refuse_run(self, what: str) -> None:
        if self.options.run:
            raise InputError(f"`--run` {self.options.run} has no models; this analysis needs {what}")


@dataclass(frozen=True)
class Analysis:
    """A script: its name, what it is about, and its function."""

    name: str
    title: str
    analyse: Callable[[Given], Finding]
    source: Path

    @classmethod
    def of(cls, module: ModuleType) -> "Analysis":
        """The analysis of a module."""
        source = Path(str(module.__file__))
        title = (module.__doc__ or source.stem).strip().partition("\n")[0].rstrip(".")
        return cls(source.stem, title, module.analyse, source)

    def manifest(self, given: Given) -> dict[str, Any]:
        """What stands in the manifest before anything is computed."""
        digest = hashlib.sha256(self.source.read_bytes()).hexdigest()[:16]
        spec = {"analysis": self.name, "title": self.title, "script": digest, **given.spec}
        return spec | {"computed_with": versions()}

    def up_to_date(self, given: Given, out: Path) -> bool:
        """Whether `out` holds what this would make."""
        file = out / f"{self.name}.json"
        if not file.exists() or not all((out / f"{self.name}.{part}").exists() for part in PARTS):
            return False
        metadata = json.loads(file.read_text())
        return metadata.get("digest") == digest_of(self.manifest(given))

    def make(
        self, given: Given, out: Path, *, images: Sequence[str] = ("png", "svg")
    ) -> tuple[Finding, str | None]:
        """Run it and write its files; returns the finding, and why there are no pictures if there are none."""
        begun = time.perf_counter()
        finding = self.analyse(given)
        out.mkdir(parents=True, exist_ok=True)
        named = {f"{self.name}{'_' * bool(end)}{end}": figure for end, figure in finding.figures.items()}
        hint = write_figures(named, out, images=images)
        for name in named:
            if (file := out / f"{name}.png").exists():
                pack_png(file)
        finding.table.to_csv(out / f"{self.name}.csv", index=False, float_format="%.9g")
        spec = self.manifest(given)
        metadata = {"digest": digest_of(spec), **spec, "made_with": made_with()}
        metadata |= {"seconds": round(time.perf_counter() - begun, 3)}
        claims = claim_table(finding.claims).astype(object)
        metadata["claims"] = claims.where(claims.notna(), None).to_dict("records")  # JSON knows no NaN
        write_json(out / f"{self.name}.json", metadata)
        return finding, hint


def find_analyses(folder: Path | None = None, *, names: Sequence[str] | None = None) -> list[Analysis]:
    """What `find_scripts` finds, imported.

    Raises:
        InputError: there is no such folder, or no such analysis in it.
    """
    scripts = find_scripts(folder, names=names)
    for home in {script.parent for script in scripts}:
        if str(home.parent) not in sys.path:
            sys.path.insert(0, str(home.parent))
    return [Analysis.of(importlib.import_module(f"{script.parent.name}.{script.stem}")) for script in scripts]
