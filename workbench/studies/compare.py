"""Finished studies and sweeps of several pairs side by side: claims and answers by pair, together, and how the pairs differ.

Folders in, one page out: no model is loaded, and no part of PyTorch imported.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from workbench.analysis.pooled_claims import NUMBER, claims_by_pair, pooled_claims
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import ENOUGH, Interval
from workbench.names import STATES, TOO_FEW
from workbench.studies.compare_answers import PLAIN, answers_by_pair
from workbench.studies.finished import Finished, labels, read_runs
from workbench.studies.finished_sweep import read_sweep_runs
from workbench.views import markup

SETTINGS = {
    "strata": "strata of entropy",
    "samples": "samples",
    "null_draws": "draws of matched noise",
    "seed": "seed",
    "resamples": "resamples",
}
VERSIONS = ("workbench", "torch", "transformers")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Several pairs: their claims, what they show together, and what differs between them."""

    claims: pd.DataFrame
    """One row a claim and pair, with interval and verdict."""
    pooled: pd.DataFrame
    """One row a number: the random-effects estimate over pairs, and how much they differ."""
    pairs: pd.DataFrame
    """One row a pair: models, size, problems, settings, versions, what it lacks."""
    depths: pd.DataFrame
    """KL by layer and relative depth."""
    shares: pd.DataFrame
    """Share of the total KL by entropy stratum."""
    answers: pd.DataFrame
    """One row a condition, measure and pair: accuracy in percent, and its difference to the plain RLVR model in points."""
    pooled_answers: pd.DataFrame
    """One row a condition and measure: the difference, pooled as `pooled` is, with Holm's adjustment of its own."""
    notes: tuple[str, ...]
    """What differs, what is missing, and what is therefore not compared, in words."""
    twins: Mapping[str, str] = field(default_factory=dict)
    """Runs whose models are those of an earlier one, and which: they are shown, and count once."""

    def __post_init__(self) -> None:
        if len(self.pairs) < 2 or self.pairs["pair"].duplicated().any():
            raise InputError(
                f"`pairs` holds {list(self.pairs['pair'])}; expected two or more, all different: compare('runs/a', 'runs/b')"
            )

    @property
    def counted(self) -> str:
        """How many pairs there are, and in how many runs where some are of equal models."""
        count = len(self.pairs) - len(self.twins)
        words = "1 pair" if count == 1 else f"{count} pairs"
        return f"{words} in {len(self.pairs)} runs" if self.twins else words

    @property
    def verdict(self) -> str:
        """What holds over the pairs, in a sentence."""
        tested = self.pooled.loc[self.pooled["pooled"] >= 2]
        if tested.empty:
            what, few = "claim" if self._answered else "number", _too_few(self.pooled)
            least = f" from {ENOUGH} problems or more: {few} are of too few problems" if few else ""
            return f"{self.counted}, and no {what} that two of them have with an interval{least}.{self._answered}"
        counted = Counter(tested["verdict"])
        left = int(tested["adjusted"].isin([STATES[True], STATES[False]]).sum())
        return (
            f"Over {self.counted}, {len(tested)} numbers are those of at least two: "
            f"{counted[STATES[True]]} of their claims hold, {counted[STATES[False]]} do not and {counted[STATES[None]]} are "
            f"undecided. With nothing behind any of them, about {0.05 * len(tested):.1f} would be decided by chance; after "
            f"Holm's adjustment {left} stay decided.{_beside(self.pooled)}{self._answered}"
        )

    @property
    def _answered(self) -> str:
        """What conditions do to the answers, over pairs."""
        tested = self.pooled_answers.loc[self.pooled_answers["pooled"] >= 2]
        few = _too_few(self.pooled_answers)
        if tested.empty:
            none = "no difference to the plain RLVR model is pooled"
            return f" Of answers, {none}: {few} are of too few problems." if few else ""
        counted = Counter(tested["adjusted"])
        return (
            f" Of answers, {len(tested)} differences to the plain RLVR model are those of at least two: {counted[STATES[True]]} "
            f"are gains, {counted[STATES[False]]} losses and {counted[STATES[None]]} undecided, after Holm's adjustment."
            f"{_beside(self.pooled_answers)}"
        )

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe(self.tables())

    def tables(self) -> dict[str, pd.DataFrame]:
        """Its tables by the names that they have as files."""
        return {
            "claims_by_pair": self.claims,
            "pooled_claims": self.pooled,
            "pairs": self.pairs,
            "kl_by_depth": self.depths,
            "kl_shares": self.shares,
            "answers_by_pair": self.answers,
            "pooled_answers": self.pooled_answers,
        }

    def save(self, path: str | Path) -> Path:
        """Write the page, and return its path.

        Raises:
            InputError: the path can't be written.
        """
        from workbench.studies.compare_page import write_comparison

        return write_comparison(path, self)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.pairs['pair'])}: {self.verdict})"

    def _repr_html_(self) -> str:
        together = self.pooled.loc[self.pooled["pooled"] >= 2]
        short = together.loc[
            :,
            [
                "claim",
                "measured",
                *Interval.names("estimate"),
                "pooled",
                "i2",
                "expected",
                "verdict",
                "adjusted",
            ],
        ]
        by_pair = self.claims.loc[
            :, ["pair", "claim", "measured", *Interval.names("estimate"), "expected", "problems", "verdict"]
        ]
        return (
            markup.paragraph(self.verdict, strong=True)
            + markup.listing(self.notes)
            + markup.table(short)
            + markup.folded(f"{len(self.claims)} claims by pair", markup.table(by_pair))
            + markup.folded(self.counted, markup.table(self.pairs))
        )


def compare(*runs: str | Path, names: Sequence[str] | None = None) -> Comparison:
    """Set finished studies and sweeps of different pairs side by side.

    A number that several pairs have, in the same words, is pooled: a random-effects mean over pairs with an interval
    (`estimates.pool`), and I², the share of the variance between pairs that their own intervals don't explain. Factors are pooled
    in logarithms; a pair's standard error is half its interval's width over t. Runs of equal models count once; a number from
    fewer than ``estimates.ENOUGH`` problems is shown, and not pooled.

    Args:
        runs: folders that `workbench study` wrote, or `workbench sweep`, of which each pair counts; two or more.
        names: what to call the pairs; the default is their own names, or the folder's where they have none.

    Returns:
        The comparison; `Comparison.save` writes the page. What runs lack, or have otherwise, stands in its ``notes``.

    Raises:
        InputError: fewer than two runs, one twice, a folder that is no finished study or sweep, names that don't fit.

    Example:
        >>> wb.compare("runs/shapes", "runs/smol").save("compare.html")  # doctest: +SKIP
    """
    finished = read_runs(runs, read_sweep_runs)
    by_name = dict(zip(labels(finished, names), finished, strict=True))
    twins = _twins(by_name)
    tables = {name: run.tables["claims"] for name, run in by_name.items() if "claims" in run.tables}
    claims = claims_by_pair(tables, twins)
    pooled = pooled_claims(claims)
    answers = answers_by_pair(
        {name: run.tables["ablation"] for name, run in by_name.items() if "ablation" in run.tables}, twins
    )
    pairs = pd.DataFrame([{"pair": name, **run.facts} for name, run in by_name.items()])
    changes = answers.loc[answers["claim"] != PLAIN]
    notes = [
        *_notes(by_name, pairs, pooled, twins),
        *_few(claims, "claims"),
        *_few(changes, "differences of answers"),
    ]
    depths, shares = _depths(by_name), _shares(by_name)
    together = pooled_claims(changes)
    return Comparison(claims, pooled, pairs, depths, shares, answers, together, tuple(notes), twins)


def _twins(runs: Mapping[str, Finished]) -> dict[str, str]:
    """Runs whose models are those of an earlier one, and which."""
    first: dict[str, Finished] = {}
    twins = {}
    for name, run in runs.items():
        other = next((known for known, one in first.items() if run.same_models(one)), None)
        if other is None:
            first[name] = run
        else:
            twins[name] = other
    return twins


def _depths(runs: Mapping[str, Finished]) -> pd.DataFrame:
    columns = ["pair", "kind", "layer", "depth", "problems", *Interval.names("kl")]
    parts = []
    for name, run in runs.items():
        if (table := run.tables.get("agreement")) is not None and run.depth:
            parts.append(table.assign(pair=name, depth=(table["layer"] + 1) / run.depth).loc[:, columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _shares(runs: Mapping[str, Finished]) -> pd.DataFrame:
    """Shares over several layers together, with how many strata there are."""
    columns = ["pair", "scope", "kind", "strata_by", "strata", "stratum", *Interval.names("share")]
    parts = []
    for name, run in runs.items():
        if (table := run.tables.get("shift")) is not None:
            part = table.loc[table["scope"] != "layer"].assign(pair=name)
            part["strata"] = part.groupby(["scope", "kind", "strata_by"])["stratum"].transform("nunique")
            parts.append(part.loc[:, columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _notes(
    runs: Mapping[str, Finished], pairs: pd.DataFrame, pooled: pd.DataFrame, twins: Mapping[str, str]
) -> Iterator[str]:
    """What differs between the runs and what is missing, a sentence each."""
    sets = _groups(pairs, "problem_set")
    if unknown := sets.pop("unknown", []):
        tell = "do" if len(unknown) > 1 else "does"
        yield f"Problems unknown: {_listed(unknown)} {tell} not tell which problems were asked, by their texts and pixels."
    if len(sets) > 1:
        groups = " / ".join(_listed(names) for names in sets.values())
        yield f"Other problems: {groups} were asked {len(sets)} different sets; a pair's number is of its own problems."
    for column, words in SETTINGS.items():
        values = _groups(pairs, column)
        if len(values) > 1:
            yield f"Other settings: {words} {_valued(values)}."
    for column in VERSIONS:
        values = _groups(pairs, column)
        if len(values) > 1:
            yield f"Other versions: {column} {_valued(values)}."
    bases: dict[str, list[str]] = {}
    for name, run in runs.items():
        if run.models is not None and name not in twins:
            bases.setdefault(run.models[0], []).append(name)
    for shared in bases.values():
        if len(shared) > 1:
            less = f"so that they are less than {len(shared)} separate models"
            yield f"One base model: {_listed(shared)} were trained from the same, {less}."
    for name, other in twins.items():
        yield f"The same models: {name} has those of {other}; it is shown, and pooled once, as {other}."
    lacking: dict[tuple[str, str], list[str]] = {}
    for name, run in runs.items():
        for reason in run.lacks.items():
            lacking.setdefault(reason, []).append(name)
    for (part, why), names in lacking.items():
        where = "all pairs" if len(names) == len(runs) else _listed(names)
        yield f"Missing: {part}, in {where} ({why})."
    for run in runs.values():
        yield from run.notes
    alone = sum(row["pairs"] == 1 for row in pooled.to_dict("records"))
    if alone:
        yield f"{alone} numbers are of one pair alone; they are listed, and not pooled."
    several = pooled.loc[(pooled["pairs"] > 1) & (pooled["verdict"] != TOO_FEW)]
    without = int((several["pooled"] < 2).sum())
    if without:
        yield f"{without} numbers have an interval to pool in fewer than two pairs, and are not pooled."


def _few(by_pair: pd.DataFrame, what: str) -> Iterator[str]:
    """Which pairs have numbers from too few problems."""
    few = by_pair.loc[by_pair["problems"] < ENOUGH]
    if len(few):
        names = _listed([*dict.fromkeys(few["pair"])])
        count = len(few[NUMBER].drop_duplicates())
        yield f"Too few problems: {count} {what} in {names} are of fewer than {ENOUGH}; they are shown, and not pooled."


def _too_few(pooled: pd.DataFrame) -> int:
    """How many numbers several pairs have, but fewer than two from enough problems."""
    return pooled["verdict"].tolist().count(TOO_FEW)


def _beside(pooled: pd.DataFrame) -> str:
    """What is not pooled beside what is."""
    few = _too_few(pooled)
    return f" {few} more are of too few problems, and not pooled." if few else ""


def _groups(pairs: pd.DataFrame, column: str) -> dict[str, list[str]]:
    """Value -> the pairs that have it."""
    groups: dict[str, list[str]] = {}
    for row in pairs.to_dict("records"):
        value = row[column]
        text = (
            "unknown"
            if value in (None, "") or pd.isna(value)
            else f"{value:g}"
            if isinstance(value, float)
            else str(value)
        )
        groups.setdefault(text, []).append(str(row["pair"]))
    return groups


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _valued(groups: Mapping[str, Sequence[str]]) -> str:
    """ "5 (a, b), 2 (c)"."""
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in groups.items())
