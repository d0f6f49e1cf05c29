"""Perturbation study: disturb what the models see, and ask what drift has to do with how probable responses are.

After observation 3 of arXiv 2511.19972. For every problem, disturbance and draw (draw 0: undisturbed):

1. Drift: mean KL(base || RLVR) in nats over visual cells of low and of high entropy (``experiments.drift``), the
   RLVR model on the
   disturbed input, the base on the clean one (or on the disturbed one, if asked). Strata are those of the base's entropy
   on the clean input, so they never change with a draw.
2. Nats per token, the logarithm of the perplexity, of a right and of a wrong response under the RLVR model on the
   disturbed input, teacher-forced.
3. Slopes of 2 on 1 within problems (``slopes``), with intervals over problems.

The paper's claim: smaller low-entropy drift goes with lower perplexity of the right response and with higher perplexity
of the wrong one. Both halves are tested, and beside them the margin: a wrong response shares most of its tokens with
the right one, so what makes every token less probable moves both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import pandas as pd

from workbench.analysis.verdicts import Claim
from workbench.backoff import piecewise
from workbench.columns import describe
from workbench.decoding.decode import decode_many
from workbench.decoding.likelihoods import response_ids, response_nats
from workbench.errors import InputError
from workbench.experiments.drift import SCOPES, Reference, by_stratum, drift, low_cells
from workbench.experiments.slopes import headline, judge, slope_table
from workbench.models.batches import batches
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.names import CLEAN
from workbench.problems.answers import verify
from workbench.problems.problem import Problem, listed
from workbench.replay.disturbances import DEFAULT_DISTURBANCES, Disturbance, EmbeddingNoise, disturb
from workbench.runs import kept
from workbench.tracing.edits import Intervention, batch_edits
from workbench.views import markup

__all__ = ["DEFAULT_DISTURBANCES", "Disturbance", "Perturbation", "perturb"]

Input = Literal["clean", "disturbed"]
Responses = Literal["reference", "sampled"]
SHARD = 32
"""Problems between two saves."""
_CALL = "perturb(pair, load_problems('shapes', limit=64))"
COLUMNS = (
    *("problem", "family", "kind", "strength", "draw", "scope", "drift_low", "drift_high"),
    *("nats_correct", "nats_incorrect", "tokens_correct", "tokens_incorrect"),
)


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What `perturb` found."""

    table: pd.DataFrame = field(repr=False)
    """One row a problem, disturbance, draw and scope: problem, family, kind, strength, draw (0: undisturbed, kind "none"),
    scope, drift_low and drift_high (nats, mean over cells; NaN: no cell), nats_correct and nats_incorrect (per token: log
    perplexity of the two responses), tokens_correct, tokens_incorrect."""
    slopes: pd.DataFrame = field(repr=False)
    """Slopes of log perplexity on drift, in nats per token a nat, by kind, scope, stratum, outcome (correct, incorrect,
    margin: incorrect - correct), method and fit (``slopes`` tells which), with intervals, problems and rows."""
    per_problem: pd.DataFrame = field(repr=False)
    """The same problem by problem, by least squares."""
    verdicts: tuple[Claim, ...] = field(repr=False)
    """On both halves of the paper's claim and on the margin, all disturbances pooled, by scope, method and fit."""
    verdict: str
    """The one line to remember."""
    left_out: int
    """Problems without a right or without a wrong response among the samples."""
    settings: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        problems, inputs = self.table["problem"].nunique(), len(self.table) // len(SCOPES)
        remainder = f", {self.left_out} left out" * bool(self.left_out)
        return f"Perturbation({problems} problems{remainder}, {inputs} inputs)\n{self.verdict}"

    def _repr_html_(self) -> str:
        slopes = self.slopes.loc[(self.slopes["method"] == "within") & (self.slopes["fit"] == "alone")]
        slopes = slopes.drop(columns=["method", "fit"])
        pooled = slopes.loc[slopes["kind"] == "all"].drop(columns="kind")
        return (
            markup.paragraph(self.verdict, strong=True)
            + markup.folded(f"{len(self.verdicts)} verdicts", markup.listing(v.text for v in self.verdicts))
            + markup.table(pooled)
            + markup.paragraph(
                "Slopes of log perplexity within problems, all disturbances pooled, nats per token a nat of drift at cells "
                f"of that stratum; {len(pooled)} of {len(self.slopes)} rows."
            )
            + markup.folded("by disturbance", markup.table(slopes))
        )

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its tables."""
        return describe(self.tables())

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    def claims(self) -> str:
        """Every verdict in plain words, one a line."""
        return "\n".join(verdict.text for verdict in self.verdicts)

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything that was found, by the names that a run folder gives it."""
        return {
            "perturbation": self.table,
            "perturbation_slopes": self.slopes,
            "perturbation_per_problem": self.per_problem,
        }

    def plot(self, kind: str = "all", scope: str = "without last layer") -> Any:
        """Change of log perplexity against change of drift within problems, as a plotly Figure."""
        from workbench.views.perturbation_figures import perplexity_against_drift

        return perplexity_against_drift(self.table, self.slopes, kind=kind, scope=scope)

    def plot_slopes(self, scope: str = "without last layer", method: str = "within") -> Any:
        """Slopes with intervals by kind, stratum and outcome, as a plotly Figure."""
        from workbench.views.perturbation_figures import slope_forest

        return slope_forest(self.slopes, scope=scope, method=method)


def perturb(
    pair: ModelPair,
    problems: Sequence[Problem],
    disturbances: Sequence[Disturbance] = DEFAULT_DISTURBANCES,
    *,
    draws: int = 3,
    reference: Input = "clean",
    responses: Responses = "reference",
    samples: int = 16,
    seed: int = 0,
    batch_size: int | None = None,
    max_new_tokens: int | None = None,
    resamples: int = 1000,
    keep: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Perturbation:
    """Disturb the pictures, and set drift against the perplexity of a right and of a wrong response.

    1. Drift: mean KL (base || RLVR) over visual cells of low and of high entropy, nats, the RLVR model on the disturbed input,
       the base on the clean one. Strata are those of the base's entropy on the clean input.
    2. Nats per token (log perplexity) of a right and of a wrong response under the RLVR model on the disturbed input.
    3. Slopes of 2 on 1 within problems, with intervals over problems.

    Args:
        pair: what `load_pair` returned, with a processor.
        problems: problems with an image or a video.
        disturbances: what is done to what the models see.
        draws: of each disturbance, beside the undisturbed input.
        reference: what the base model sees in the drift: the clean input, which is what replay aims at, or the disturbed.
        responses: ``"reference"``: ``metadata["chain"]`` and ``metadata["wrong"]`` of each problem. ``"sampled"``: the
            first right and the first wrong of the RLVR model's own samples on the clean input; problems that lack one
            are left out and counted.
        samples: per problem, for ``"sampled"``, at temperature 1.
        seed: of noise, samples and bootstrap.
        batch_size: problems per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        max_new_tokens: where a sample is cut off; None: what suits the pair.
        resamples: of the bootstrap over problems.
        keep: a folder for finished shards; the same call with the same folder goes on from there.
        progress: called with (problems done, problems in all).

    Returns:
        Tables of both by problem, disturbance and draw, slopes, and verdicts on the paper's claim.

    Raises:
        InputError: no problems, a problem without picture, responses or answer, no disturbances, a bad argument, or
            sampled responses that leave no problem.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> problems = wb.load_problems("shapes", limit=3)
        >>> found = wb.perturb(pair, problems, [wb.Disturbance("pixels", 0.1)], draws=2, resamples=50)
        >>> found.table["kind"].unique().tolist(), found.left_out
        (['none', 'pixels'], 0)
    """
    problems = listed(problems, _CALL)
    _check(problems, disturbances, draws, reference, responses, samples)
    length = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    sampling = pair.sampling(samples=samples, temperature=1.0, seed=seed, **length)
    settings: dict[str, Any] = {"disturbances": [asdict(how) for how in disturbances], "draws": draws}
    settings |= {"reference": reference, "responses": responses, "seed": seed}
    settings |= {"batch_size": sampling.batch_size} if responses == "reference" else sampling.settings
    folder, parts = Path(keep) if keep is not None else None, []
    for start in range(0, len(problems), SHARD):
        part = problems[start : start + SHARD]
        spec = {"pair": pair.provenance, "problems": [p.fingerprint for p in part], "settings": settings}
        compute = partial(_shard, pair, part, disturbances, settings)
        parts += kept(folder, spec, ["perturbation"], compute)
        if progress:
            progress(min(start + SHARD, len(problems)), len(problems))
    table = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    measurable = len(set(table["problem"]))
    _check_found(measurable, len(problems), samples)
    slopes, per_problem = slope_table(table, resamples=resamples, seed=seed)
    verdicts = judge(slopes)
    settings |= {"resamples": resamples, "pair": dict(pair.provenance)}
    parts = (table, slopes, per_problem, verdicts, headline(verdicts))
    return Perturbation(*parts, len(problems) - measurable, settings)


def _check_found(found: int, total: int, samples: int) -> None:
    if not found:
        raise InputError(
            f"`responses` 'sampled' found a right and a wrong response among {samples} samples for none of the "
            f"{total} problems; draw more: perturb(..., samples={4 * samples})"
        )


def _shard(*work: Any) -> list[pd.DataFrame]:
    return [_run(*work)]


def responses_for(problems: Sequence[Problem]) -> Responses:
    """``"reference"`` where every problem brings a right and a wrong response, else ``"sampled"``."""
    brought = all({"chain", "wrong"} <= {*problem.metadata} for problem in problems)
    return "reference" if brought else "sampled"


def _run(
    pair: ModelPair,
    problems: Sequence[Problem],
    disturbances: Sequence[Disturbance],
    settings: Mapping[str, Any],
) -> pd.DataFrame:
    """The table of some problems."""
    prompts = [pair.encode(problem) for problem in problems]
    responses = _responses(pair, problems, prompts, settings)
    cases = [
        (problem, prompt, texts)
        for problem, prompt, texts in zip(problems, prompts, responses, strict=True)
        if texts is not None
    ]

    def measured(batch: Sequence[EncodedPrompt], here: slice) -> list[tuple[Any, ...]]:
        return _measure(pair, batch, cases[here], disturbances, settings)

    groups = batches([prompt for _, prompt, _ in cases], settings["batch_size"])
    parts = piecewise(groups, measured, model=pair.base, what="perturbing")
    return pd.DataFrame([row for _, rows in parts for row in rows], columns=pd.Index(COLUMNS))


def _measure(
    pair: ModelPair,
    batch: Sequence[EncodedPrompt],
    known: Sequence[tuple[Problem, EncodedPrompt, tuple[str, str]]],
    disturbances: Sequence[Disturbance],
    settings: Mapping[str, Any],
) -> list[tuple[Any, ...]]:
    """The rows of one batch."""
    ids = [response_ids(pair, texts[which]) for which in (0, 1) for *_, texts in known]
    clean, rows = Reference.of(pair, batch), []
    low = [
        low_cells(pair, prompt, entropy)
        for prompt, (_, entropy) in zip(batch, drift(pair, batch, clean), strict=True)
    ]
    shows = _inputs(pair, [problem for problem, *_ in known], batch, disturbances, settings)
    for kind, strength, draw, prompts, edits in shows:
        write = batch_edits(prompts, edits)
        base = clean if settings["reference"] == "clean" else Reference.of(pair, prompts, write)
        moved = [kl for kl, _ in drift(pair, prompts, base, write)]
        nats = response_nats(
            pair.rlvr, [*prompts, *prompts], ids, pad_id=pair.pad_id, interventions=[*edits, *edits]
        )
        for place, (problem, *_) in enumerate(known):
            means = {
                (scope, stratum): moved[place][mask].mean().item()
                for scope, stratum, mask in by_stratum(low[place])
            }
            both = (place, place + len(known))  # the right response, and the wrong one
            nats_and_lengths = (*(nats[i] for i in both), *(len(ids[i]) for i in both))
            for scope in SCOPES:
                key = (problem.id, problem.family, kind, strength, draw, scope)
                rows.append((*key, means[scope, "low"], means[scope, "high"], *nats_and_lengths))
    return rows


def _inputs(
    pair: ModelPair,
    problems: Sequence[Problem],
    prompts: Sequence[EncodedPrompt],
    disturbances: Sequence[Disturbance],
    settings: Mapping[str, Any],
) -> Iterator[tuple[str, float, int, Sequence[EncodedPrompt], Sequence[Intervention | None]]]:
    """Kind, strength and draw of everything that a batch is shown, with the prompts and what is written into them."""
    nothing: Sequence[Intervention | None] = [None] * len(prompts)
    yield CLEAN, 0.0, 0, prompts, nothing
    for how in disturbances:
        for draw in range(1, settings["draws"] + 1):
            views, edits = prompts, nothing
            if how.kind == "embeddings":
                edits = [
                    EmbeddingNoise.of(
                        prompt, how.strength, how.seed(settings["seed"], prompt.problem_id, draw)
                    )
                    for prompt in prompts
                ]
            else:
                views = [
                    pair.encode(disturb(problem, prompt, how, settings["seed"], draw))
                    for problem, prompt in zip(problems, prompts, strict=True)
                ]
            yield how.kind, how.strength, draw, views, edits


def _responses(
    pair: ModelPair,
    problems: Sequence[Problem],
    prompts: Sequence[EncodedPrompt],
    settings: Mapping[str, Any],
) -> list[tuple[str, str] | None]:
    """A right and a wrong response for each problem; None where the samples lack one."""
    if settings["responses"] == "reference":
        return [(str(p.metadata["chain"]), str(p.metadata["wrong"])) for p in problems]
    sampled = decode_many(
        pair,
        prompts,
        samples=settings["samples"],
        temperature=1.0,
        seed=settings["seed"],
        max_new_tokens=settings["max_new_tokens"],
        batch_size=settings["batch_size"],
    )
    pairs: list[tuple[str, str] | None] = []
    for problem, answers in zip(problems, sampled, strict=True):
        first: dict[bool, str] = {}
        for text in (answer.text for answer in answers if answer.text):
            right = verify(text, problem.answer or "", problem.verifier, choices=problem.choices).correct
            first.setdefault(right, text)
        pairs.append((first[True], first[False]) if len(first) == 2 else None)
    return pairs


def _check(
    problems: Sequence[Problem],
    disturbances: Sequence[Disturbance],
    draws: int,
    reference: str,
    responses: str,
    samples: int,
) -> None:
    for name, value, values in (
        ("reference", reference, get_args(Input)),
        ("responses", responses, get_args(Responses)),
    ):
        if value not in values:
            raise InputError(f"`{name}` is {value!r}; expected {' or '.join(map(repr, values))}: {_CALL}")
    if not disturbances or not all(isinstance(how, Disturbance) for how in disturbances):
        raise InputError(
            f"`disturbances` is {disturbances!r}; expected at least one Disturbance: "
            "perturb(pair, problems, [Disturbance('pixels', 0.1)])"
        )
    if len({*disturbances}) < len(disturbances):
        raise InputError("`disturbances` holds one twice; ask for more `draws` of it instead")
    for name, value in (("draws", draws), ("samples", samples)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"`{name}` is {value!r}; expected at least 1: perturb(pair, problems, {name}=3)")
    for problem in problems:
        if not problem.images and not problem.video:
            raise InputError(
                f"`problems`: {problem.id!r} has no image to disturb; leave it out, or give it one: "
                "Problem(..., images=(picture,))"
            )
        lacks = [name for name in ("chain", "wrong") if not problem.metadata.get(name)]
        if responses == "reference" and lacks:
            raise InputError(
                f"`problems`: {problem.id!r} has no reference response (metadata {lacks[0]!r}); let the model's own samples "
                "serve: perturb(pair, problems, responses='sampled')"
            )
        if responses == "sampled" and problem.answer is None:
            raise InputError(
                f"`problems`: {problem.id!r} has no answer to verify samples with; give one, or leave it out"
            )
