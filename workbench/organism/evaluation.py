"""What the organism can do: the table of its model card."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from workbench.decoding.decode import Model, decode_many
from workbench.errors import InputError
from workbench.estimates import Interval, pass_at_k, share, share_difference
from workbench.experiments.agent import run_agent
from workbench.models.loading import load_pair
from workbench.models.pairs import ModelPair
from workbench.organism.recipes import check_trained
from workbench.problems import answers
from workbench.problems.problem import Problem, load_problems

PASS_AT = (1, 4, 16, 64)
BATCH = 20
MAX_NEW_TOKENS = 64
TURNS = 3
Scores = dict[Model, np.ndarray]
"""By model, a value a problem."""


def evaluate(
    folder: Path,
    *,
    problems: int = 300,
    samples: int = 64,
    videos: int = 150,
    scenes: int = 100,
    easy_vqa: int = 1000,
    split: str = "test",
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Accuracies of ``folder``/base and ``folder``/rlvr.

    Columns: measure, model, estimate, estimate_low, estimate_high (shares of 1).

    ``problems`` boards, ``videos`` and ``easy_vqa`` pictures are answered at once, greedily and (not easy-VQA) in
    ``samples`` samples; ``scenes`` by an agent with the zoom tool, greedily. 0 leaves a set out.

    Intervals are 95%, over problems. Rows with model ``rlvr - base`` are paired differences;
    ``chance`` is what the best constant answer gets.

    Raises:
        InputError: no trained pair in `folder`, or easy-VQA asked for and not installed.
    """
    if samples < 1:
        raise InputError(
            f"`samples` is {samples}; expected at least 1: `workbench organism evaluate --samples 64`"
        )
    pair = _load(folder)
    tell = progress or (lambda what, done, total: None)
    rows: list[dict[str, Any]] = []
    sets = {"shapes": problems, "shapes-video": videos, "shapes-agent": scenes, "easy-vqa": easy_vqa}
    for name, limit in sets.items():
        if limit:
            listed = load_problems(
                name, split="test" if name == "easy-vqa" else split, limit=limit, seed=seed
            )
            rows += _measure(pair, name, listed, samples, seed, tell)
    return pd.DataFrame(rows)


def as_markdown(table: pd.DataFrame) -> str:
    """The table with one row per measure and one column per model, in percent."""

    def percent(row: dict[str, float]) -> str:
        estimate, low, high = (100 * row[name] for name in Interval.names("estimate"))
        return f"{estimate:.1f}{f' [{low:.1f}, {high:.1f}]' if np.isfinite(low) else ''}"

    texts = table.assign(text=[percent(row) for row in table.to_dict("records")])
    wide = texts.pivot(index="measure", columns="model", values="text").reindex(table["measure"].unique())
    columns = [c for c in ("chance", "base", "rlvr", "rlvr - base") if c in wide]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join("" if pd.isna(v) else v for v in row[columns]) + " |"
        for name, row in wide.iterrows()
    ]
    return "\n".join(lines)


def _load(folder: Path) -> ModelPair:
    check_trained(folder)
    return load_pair(base=folder / "base", rlvr=folder / "rlvr", processor=folder / "base")


def _measure(
    pair: ModelPair,
    name: str,
    problems: Sequence[Problem],
    samples: int,
    seed: int,
    tell: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    """The rows of one problem set."""
    models: tuple[Model, ...] = ("base", "rlvr")
    if name == "shapes-agent":
        greedy: Scores = {model: _zoom(pair, problems, model, tell) for model in models}
    else:
        greedy = {model: _answer(pair, problems, model, 1, 0.0, seed, tell)[:, 0] for model in models}
    prefix = "" if name == "shapes" else f"{name}, "
    rows = _accuracies(f"{prefix}greedy", greedy, problems)
    for family in dict.fromkeys(problem.family for problem in problems):
        members = np.array([problem.family == family for problem in problems])
        if name != "easy-vqa":
            picked = [problem for problem in problems if problem.family == family]
            of_family: Scores = {model: right[members] for model, right in greedy.items()}
            rows += _accuracies(f"{prefix}greedy, {family}", of_family, picked)
    if name in ("shapes", "shapes-video"):
        counts: Scores = {
            model: _answer(pair, problems, model, samples, 1.0, seed, tell).sum(1) for model in models
        }
        for k in (k for k in PASS_AT if k <= samples):
            passed: Scores = {
                model: np.asarray(pass_at_k(samples, right, k)) for model, right in counts.items()
            }
            rows += _intervals(f"{prefix}Pass@{k}", passed)
    return rows


def _answer(
    pair: ModelPair,
    problems: Sequence[Problem],
    model: Model,
    samples: int,
    temperature: float,
    seed: int,
    tell: Callable[[str, int, int], None],
) -> np.ndarray:
    """(problems, samples) bool: which responses are right."""
    what = f"{model}, {'greedy' if temperature == 0 else 'sampled'}"
    responses = decode_many(
        pair,
        [pair.encode(problem) for problem in problems],
        model=model,
        samples=samples,
        temperature=temperature,
        seed=seed,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=BATCH,
        progress=lambda done, total: tell(what, done, total),
    )
    right = [
        [answers.verify(r.text, p.answer or "").correct for r in rs]
        for p, rs in zip(problems, responses, strict=True)
    ]
    return np.array(right, dtype=bool).reshape(len(problems), samples)


def _zoom(
    pair: ModelPair, problems: Sequence[Problem], model: Model, tell: Callable[[str, int, int], None]
) -> np.ndarray:
    """(problems,) bool: whether an agent's answer is right."""
    right = []
    for number, problem in enumerate(problems, 1):
        transcript = run_agent(pair, problem, model=model, turns=TURNS, max_new_tokens=MAX_NEW_TOKENS)
        right.append(bool(transcript.outcome().correct))
        tell(f"{model}, agent", number, len(problems))
    return np.array(right)


def _accuracies(measure: str, right: Scores, problems: Sequence[Problem]) -> list[dict[str, Any]]:
    """Rows of a measure that guessing can pass."""
    best = Counter(problem.answer for problem in problems).most_common(1)[0][1] / len(problems)
    chance = _row(measure, "chance", Interval(best, np.nan, np.nan))
    return [chance, *_intervals(measure, {model: r.astype(float) for model, r in right.items()})]


def _intervals(measure: str, values: Scores) -> list[dict[str, Any]]:
    clusters = np.arange(len(values["base"]))
    difference = share_difference(values["base"], values["rlvr"], clusters)
    rows = [_row(measure, model, share(value, clusters)) for model, value in values.items()]
    return [*rows, _row(measure, "rlvr - base", difference)]


def _row(measure: str, model: str, interval: Interval) -> dict[str, Any]:
    return {"measure": measure, "model": model, **interval.columns("estimate")}
