"""What the organism can do: the table of its model card."""

from collections import Counter
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from workbench import answers
from workbench.anatomy import Anatomy, dissect
from workbench.decoding import respond
from workbench.errors import InputError
from workbench.estimates import Interval, mean, paired_difference, pass_at_k
from workbench.problems import Problem, load_problems
from workbench.prompts import encode

WEIGHTS = Path(str(files("workbench") / "organism" / "weights"))
PASS_AT = (1, 4, 16, 64)
BATCH = 20
MAX_NEW_TOKENS = 64


def evaluate(
    folder: Path,
    *,
    problems: int = 300,
    samples: int = 64,
    easy_vqa: int = 1000,
    split: str = "test",
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Accuracies of ``folder``/base and ``folder``/rlvr; columns measure, model, estimate, low, high (shares of 1).

    Intervals are 95%, by bootstrap over problems. Rows with model ``rlvr - base`` are paired differences;
    ``chance`` is what the best constant answer gets.

    Raises:
        InputError: no trained pair in `folder`, or easy-VQA asked for and not installed.
    """
    tell = progress or (lambda what, done, total: None)
    if samples < 1:
        raise InputError(
            f"`samples` is {samples}; expected at least 1: `workbench organism evaluate --samples 64`"
        )
    boards = load_problems("shapes", split=split, limit=problems, seed=seed)
    pictures = load_problems("easy-vqa", split="test", limit=easy_vqa, seed=seed) if easy_vqa else []
    results: dict[str, dict[str, Any]] = {}
    for model in ("base", "rlvr"):
        organism, processor = _load(folder / model)
        what = f"{model} on shapes"
        greedy = _run(
            organism, processor, boards, 1, 0.0, seed, lambda n, w=f"{what}, greedy": tell(w, n, problems)
        )[:, 0]
        sampled = _run(
            organism,
            processor,
            boards,
            samples,
            1.0,
            seed,
            lambda n, w=f"{what}, sampled": tell(w, n, problems),
        )
        easy = _run(
            organism,
            processor,
            pictures,
            1,
            0.0,
            seed,
            lambda n, w=f"{model} on easy-VQA": tell(w, n, len(pictures)),
        )
        results[model] = {"greedy": greedy, "sampled": sampled, "easy": easy[:, 0]}
    return _table(results, boards, pictures, samples)


def as_markdown(table: pd.DataFrame) -> str:
    """The table with one row per measure and one column per model, in percent."""

    def percent(row: dict[str, float]) -> str:
        interval = f" [{100 * row['low']:.1f}, {100 * row['high']:.1f}]" if np.isfinite(row["low"]) else ""
        return f"{100 * row['estimate']:.1f}{interval}"

    shown = table.assign(text=[percent(row) for row in table.to_dict("records")])
    wide = shown.pivot(index="measure", columns="model", values="text").reindex(table["measure"].unique())
    columns = [c for c in ("chance", "base", "rlvr", "rlvr - base") if c in wide]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join("" if pd.isna(v) else v for v in row[columns]) + " |"
        for name, row in wide.iterrows()
    ]
    return "\n".join(lines)


def _load(folder: Path) -> tuple[Anatomy, Any]:
    if not (folder / "model.safetensors").is_file():
        raise InputError(f"`folder` {folder} holds no model; train one with `workbench organism train`")
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    home = folder if (folder / "tokenizer.json").exists() else folder.parent / "base"
    return dissect(model.eval()), AutoProcessor.from_pretrained(home)


def _run(
    anatomy: Anatomy,
    processor: Any,
    problems: Sequence[Problem],
    samples: int,
    temperature: float,
    seed: int,
    tell: Callable[[int], None],
) -> np.ndarray:
    """(problems, samples) bool: which responses are right."""
    prompts = [encode(processor, anatomy, problem) for problem in problems]
    responses = respond(
        anatomy,
        processor,
        prompts,
        samples=samples,
        temperature=temperature,
        seed=seed,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=BATCH,
        progress=lambda done, total: tell(done),
    )
    right = [
        [answers.verify(r.text, p.answer or "").correct for r in rs]
        for p, rs in zip(problems, responses, strict=True)
    ]
    return np.array(right, dtype=bool).reshape(len(problems), samples)


def _table(
    results: dict[str, dict[str, Any]], boards: Sequence[Problem], pictures: Sequence[Problem], samples: int
) -> pd.DataFrame:
    families = np.array([p.family for p in boards])
    measures: dict[str, tuple[dict[str, np.ndarray], Sequence[Problem]]] = {}
    measures["greedy"] = {m: r["greedy"].astype(float) for m, r in results.items()}, boards
    for family in dict.fromkeys(families):
        chosen = families == family
        picked = [p for p in boards if p.family == family]
        measures[f"greedy, {family}"] = (
            {m: r["greedy"][chosen].astype(float) for m, r in results.items()},
            picked,
        )
    for k in (k for k in PASS_AT if k <= samples):
        measures[f"Pass@{k}"] = (
            {m: pass_at_k(samples, r["sampled"].sum(1), k) for m, r in results.items()},
            boards,
        )
    if pictures:
        measures["easy-VQA, greedy"] = {m: r["easy"].astype(float) for m, r in results.items()}, pictures
    rows = []

    def add(measure: str, model: str, interval: Interval) -> None:
        rows.append(
            {
                "measure": measure,
                "model": model,
                "estimate": interval.estimate,
                "low": interval.low,
                "high": interval.high,
            }
        )

    for measure, (values, asked) in measures.items():
        clusters = np.arange(len(asked))
        if "greedy" in measure:
            best = Counter(p.answer for p in asked).most_common(1)[0][1] / len(asked)
            add(measure, "chance", Interval(best, np.nan, np.nan))
        for model, value in values.items():
            add(measure, model, mean(value, clusters))
        add(measure, "rlvr - base", paired_difference(values["base"], values["rlvr"], clusters))
    return pd.DataFrame(rows)
