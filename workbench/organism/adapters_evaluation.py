"""The table of the card of a pair of adapters: what each of its models answers, by family of problems."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.decoding.decode import decode_many
from workbench.errors import InputError
from workbench.estimates import Interval, mean, paired_difference, pass_at_k
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair, longest_answer
from workbench.models.preset_files import pair_preset
from workbench.organism.recipes import check_trained
from workbench.problems import answers
from workbench.problems.problem import Problem, load_problems

PASS_AT = (1, 4, 16, 64)
BATCH = 9
"""Prompts at a time; each has its samples beside it."""
ALL = "all"

Tell = Callable[[str, int, int], None]
Loader = Callable[[], ModelPair]


def models_of(folder: Path | None = None, pair: str = "smol") -> dict[str, Loader]:
    """What loads each model of the pair as the RLVR side of a `ModelPair`: base first, then RLVR, then the controls.

    Args:
        folder: of a training run; None is the bundled pair.
        pair: the bundled one, or the one that the run was made like.

    Raises:
        InputError: a folder without a base.
    """
    if folder is None:
        whole: dict[str, Loader] = {
            "base": lambda: _twice(load_pair(pair)),
            "rlvr": lambda: load_pair(pair),
        }
        preset = pair_preset(pair)
        controls = [key for key in preset.changes if isinstance(key, str)]
        seeds = {f"rlvr-{seed}": lambda seed=seed: load_pair(pair, seed=seed) for seed in preset.seeds}
        return whole | {key: lambda key=key: load_pair(pair, checkpoint=key) for key in controls} | seeds
    check_trained(folder, pair)
    names = [path.parent.name for path in sorted(folder.glob("*/adapter_config.json"))]
    order = sorted(names, key=lambda name: (name != "base", name != "rlvr", name))
    home = folder  # not None in what is called later
    return {name: lambda name=name: load_pair(base=home / "base", rlvr=home / name) for name in order}


def _twice(pair: ModelPair) -> ModelPair:
    return replace(pair, rlvr=pair.base)


def evaluate(
    models: Mapping[str, Loader],
    *,
    asked: str = "sums",
    problems: int = 180,
    samples: int = 64,
    split: str = "test",
    seed: int = 0,
    system: str | None = None,
    longest: int = 56,
    keep: Path | None = None,
    progress: Tell | None = None,
) -> pd.DataFrame:
    """Accuracies of each model; columns family, measure, model, estimate, low, high (shares of 1).

    Intervals are 95%, by bootstrap over problems; rows with model ``x - base`` are paired differences, one problem with itself.

    Args:
        models: what loads each; the first is the base of the differences.
        asked: which set.
        problems: of it.
        samples: per problem, at temperature 1, for Pass@K.
        split: of the problems.
        seed: of problems and samples.
        system: the prompt that models without a preset are asked with.
        longest: tokens after which their responses are cut off.
        keep: a folder where what each model answered right is kept, so that a model added later costs only itself.
        progress: called with (what is answered, problems done, problems in all).
    """
    if samples < 1:
        raise InputError(
            f"`samples` is {samples}; expected at least 1: `workbench organism evaluate --pair smol --samples 16`"
        )
    questions = load_problems(asked, split=split, limit=problems, seed=seed)
    right = {
        name: _kept(
            keep,
            f"{name}-{asked}-{split}-{seed}-{problems}-{samples}",
            lambda load=load, name=name: _answered(
                load(), name, questions, samples, seed, system, longest, progress
            ),
        )
        for name, load in models.items()
    }
    family = np.array([problem.family for problem in questions])
    return pd.DataFrame(
        [
            row
            for name in (ALL, *dict.fromkeys(family.tolist()))
            for row in _rows(name, right, (family == name) | (name == ALL))
        ]
    )


def _answered(
    pair: ModelPair,
    name: str,
    problems: Sequence[Problem],
    samples: int,
    seed: int,
    system: str | None,
    longest: int,
    progress: Tell | None,
) -> pd.DataFrame:
    """A row a problem: ``greedy`` (right or not) and ``right``, how many of the samples are."""
    prompts = [pair.encode(p if system is None else replace(p, system=system)) for p in problems]
    columns: dict[str, Any] = {"id": [p.id for p in problems]}
    for column, count, temperature in (("greedy", 1, 0.0), ("right", samples, 1.0)):
        what = f"{name}, {'greedy' if temperature == 0 else 'sampled'}"
        responses = decode_many(
            pair,
            prompts,
            samples=count,
            temperature=temperature,
            seed=seed,
            max_new_tokens=longest_answer(pair) if pair.preset else longest,
            batch_size=BATCH,
            progress=None if progress is None else lambda done, total, what=what: progress(what, done, total),
        )
        columns[column] = [
            sum(answers.verify(r.text, p.answer or "", p.verifier).correct for r in rs)
            for p, rs in zip(problems, responses, strict=True)
        ]
    return pd.DataFrame(columns).assign(samples=samples)


def _kept(folder: Path | None, name: str, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    if folder is None:
        return make()
    file = folder / f"{name}.parquet"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        make().to_parquet(file, index=False)
    return pd.read_parquet(file)


def _rows(family: str, right: Mapping[str, pd.DataFrame], chosen: np.ndarray) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    first, clusters = next(iter(right)), np.arange(int(chosen.sum()))
    for k in (0, *PASS_AT):  # 0: greedy
        measure = f"Pass@{k}" if k else "greedy"
        tables = {name: table for name, table in right.items() if table["samples"].iloc[0] >= k}
        if first not in tables:
            continue
        values = {
            name: np.asarray(pass_at_k(int(table["samples"].iloc[0]), table["right"].to_numpy(), k))[chosen]
            if k
            else table["greedy"].to_numpy(float)[chosen]
            for name, table in tables.items()
        }
        for name, value in values.items():
            rows.append(_row(family, measure, name, mean(value, clusters)))
            if name != first:
                change = paired_difference(values[first], value, clusters)
                rows.append(_row(family, measure, f"{name} - {first}", change))
    return rows


def _row(family: str, measure: str, model: str, interval: Interval) -> dict[str, Any]:
    bounds = {"estimate": interval.estimate, "low": interval.low, "high": interval.high}
    return {"family": family, "measure": measure, "model": model, **bounds}


def as_markdown(table: pd.DataFrame) -> str:
    """A row per family and measure, a column per model, in percent with intervals."""
    text = [
        f"{100 * e:.0f} [{100 * lo:.0f}, {100 * hi:.0f}]"
        for e, lo, hi in zip(table["estimate"], table["low"], table["high"], strict=True)
    ]
    wide = (
        table.assign(text=text).pivot(index=["family", "measure"], columns="model", values="text").fillna("")
    )
    columns = [*dict.fromkeys(table["model"])]
    order = [*dict.fromkeys(zip(table["family"], table["measure"], strict=True))]
    lines = ["| family | | " + " | ".join(columns) + " |", "|---" * (len(columns) + 2) + "|"]
    lines += [
        f"| {family} | {measure} | " + " | ".join(wide.loc[(family, measure), columns]) + " |"
        for family, measure in order
    ]
    return "\n".join(lines)
