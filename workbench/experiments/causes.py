"""Cause rather than correlation: does the shift follow a cell's entropy, when nothing else is moved?

Low-entropy cells may shift more because their entropy is low, or because of what goes with it. Both models are run twice, as they
are and with one thing changed at half of the visual (of a text pair: text) positions, after one layer:

``sharpen``  the residual is turned, at the same norm, to where the base's lens has less entropy; ``flatten``: more.
``turn``     it is turned in a random direction, of which a head reads hardly anything.
``reword``   it is turned to where the base's lens says other words with the same entropy.
``scale``    its norm is multiplied in both models; the lens normalises, so that its entropy stays.
``cover``    what the picture shows at these positions is painted over with the picture's mean colour.

The turns add the very same vector in both models, so that their change at that layer stays what it was. What the later layers
make of it is measured: KL at the changed cells, all later layers but the last, over the same without the change. Beside it
stand the same of KL over matched noise (entropy alone moves KL), and how far entropy, the residual and the lens were moved.

``turn`` and ``reword`` are the controls: `like` a steered cause they turn each cell as far as that one did. If the claim is
causal, sharpened cells shift more than both, flattened less, scaled ones as before. At equal entropy and angle the lens'
distribution can't be moved as far as by sharpening (``moved_there``): the controls hold the turn equal, not what is read of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from workbench.analysis.verdicts import Claim, times
from workbench.columns import describe
from workbench.errors import InputError
from workbench.estimates import Array, Interval, bootstrap, divide
from workbench.lens.fused import compare, matched_noise
from workbench.lens.heads import LensHead
from workbench.lens.steering import angle_between, reworded, steered, turned
from workbench.models.batches import problem_seed
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem, listed
from workbench.replay.disturbances import covered
from workbench.tracing.both_models import compare_residuals
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.residuals import Edit, read_residuals
from workbench.views import markup

Kind = Literal["sharpen", "flatten", "turn", "reword", "scale", "cover"]
KINDS: tuple[str, ...] = get_args(Kind)
Change: TypeAlias = Callable[[Tensor], Tensor]
"""Residuals (cells, hidden) -> what they become."""
PLAIN = "plain"
_CALL = "causes(pair, load_problems('shapes', limit=64))"
STEERED: tuple[Kind, ...] = ("sharpen", "flatten")
CONTROLS: dict[Kind, str] = {"turn": "a random turn", "reword": "a turn to other words as sharp"}
"""What steered causes are set beside: kind and words."""
MEASURES = (
    *("entropy_there", "angle", "moved_there", "entropy", "factor", "over_null"),
    *(f"{measure}beside_{control}" for control in CONTROLS for measure in ("", "over_null_")),
)


@dataclass(frozen=True)
class Cause:
    """One thing that is changed: its kind, and how much (radians of a turn, factor of a norm; nothing for ``cover``).

    Raises:
        InputError: an unknown kind, a turn outside 0 to pi / 2, a factor that is not positive, ``like`` where it makes no sense.
    """

    kind: Kind
    strength: float = 0.3
    like: "Cause | None" = None
    """Of ``turn`` and ``reword``: not by ``strength``, but each cell as far as this cause (sharpen, flatten) turns it."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                f"`kind` is {self.kind!r}; expected one of {', '.join(KINDS)}: Cause('sharpen', 0.3)"
            )
        least, most = (0.0, np.inf) if self.kind == "scale" else (0.0, np.pi / 2)
        if self.kind != "cover" and not least < self.strength < most:
            raise InputError(
                f"`strength` of {self.kind!r} is {self.strength}; expected above {least:g} and below {most:.4g}: "
                f"Cause({self.kind!r}, 0.3)"
            )

        if self.like and (self.kind not in CONTROLS or self.like.kind not in STEERED):
            raise InputError(
                f"`like` of {self.kind!r} is {self.like.title!r}; expected a turn or reword like a sharpen or flatten: "
                "Cause('turn', like=Cause('sharpen', 0.3))"
            )

    @property
    def title(self) -> str:
        """Such as "sharpen 0.3", "turn like sharpen 0.3"."""
        if self.like:
            return f"{self.kind} like {self.like.title}"
        return self.kind if self.kind == "cover" else f"{self.kind} {self.strength:g}"


_SHARPEN, _FLATTEN = Cause("sharpen"), Cause("flatten")
DEFAULT = (
    _SHARPEN,
    _FLATTEN,
    *(Cause(kind, like=cause) for cause in (_SHARPEN, _FLATTEN) for kind in CONTROLS),
    Cause("scale", 2.0),
    Cause("scale", 0.5),
    Cause("cover"),
)


@dataclass(frozen=True, eq=False, repr=False)
class Causes:
    """What each change did to entropy and to the shift."""

    table: pd.DataFrame
    """One row a cause: kind, problems, cells; at the changed layer, of the base's residual: entropy_there, change of its lens'
    entropy (nats), angle, how far it was turned (radians), moved_there, KL of its lens before to after (nats); in later layers
    entropy, the change of entropy (nats), factor, KL with the change over KL without, over_null, the same of KL over matched
    noise; beside_turn, over_null_beside_turn, beside_reword and over_null_beside_reword, both over those of the controls; each
    with its interval."""
    verdict: str
    """The line to remember."""
    provenance: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        return f"Causes({', '.join(self.table['cause'])}; {max(self.table['problems'])} problems)\n{self.verdict}"

    def _repr_html_(self) -> str:
        return markup.paragraph(self.verdict, strong=True) + markup.table(self.table)

    @property
    def columns(self) -> pd.DataFrame:
        """Table, column, unit and meaning of every column of its table."""
        return describe({"causes": self.table})

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of ``table``."""
        return self.table.copy()

    @property
    def claims(self) -> list[Claim]:
        """Whether the shift follows the entropy: beside turns as far, raw and over matched noise."""
        claims = []
        for row in self.table.to_dict("records"):
            kind = str(row["cause"]).split()[0]
            if kind not in STEERED:
                continue
            sharper = kind == "sharpen"
            words = ("sharper", "more") if sharper else ("flatter", "less")
            claim = f"a {words[0]} lens at the same norm makes a cell shift {words[1]}"
            for control, other in CONTROLS.items():
                for measure, name in (("", "KL"), ("over_null_", "KL over matched noise")):
                    interval = Interval.in_row(row, f"{measure}beside_{control}")
                    if np.isnan(interval.estimate):
                        continue
                    what = f"{name} with {row['cause']}, over that with {other} (a factor), {row['kind']} tokens, later layers"
                    about: dict[str, Any] = {
                        "bound": 1.0,
                        "above": sharper,
                        "factor": True,
                        "kind": str(row["kind"]),
                    }
                    place = "cause rather than correlation"
                    claims.append(Claim(claim, place, what, interval, int(row["problems"]), **about))
        return claims

    def plot(self) -> Any:
        """What each cause does to the shift, as a plotly Figure."""
        from workbench.views.null_figures import cause_factors

        return cause_factors(self.table)


def causes(
    pair: ModelPair,
    problems: Sequence[Problem | EncodedPrompt],
    *,
    causes: Sequence[Cause] = DEFAULT,
    layer: int | None = None,
    null_draws: int = 3,
    seed: int = 0,
    resamples: int = 1000,
    progress: Callable[[int, int], None] | None = None,
) -> Causes:
    """Change one thing at half of the positions after one layer, in both models, and see whether the shift follows.

    Args:
        pair: what `load_pair` returned.
        problems: problems, or prompts already encoded (which nothing can be painted over).
        causes: what is changed, one after another. ``cover`` is left out where there is no picture.
        layer: after which decoder layer, 0-based; None: after the first third. At least one layer but the last follows.
        null_draws: of matched noise, per cell.
        seed: of the positions, the turns and the noise.
        resamples: of the bootstrap over problems.
        progress: called with (problems done, problems in all).

    Returns:
        The table, a verdict, claims; nats and factors.

    Raises:
        InputError: no causes, a layer with none behind it, a prompt with fewer than two such positions.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> sharpen = wb.Cause("sharpen", 0.2)
        >>> moved = wb.causes(pair, wb.load_problems("shapes", limit=8), causes=[sharpen, wb.Cause("turn", like=sharpen)])
        >>> bool(moved.table["entropy_there"].iloc[0] < 0)
        True
    """
    items = listed(problems, _CALL, Problem, EncodedPrompt)
    layer = _checked(pair, causes, layer, null_draws)
    run = _Run(pair, lens_heads(pair), layer, null_draws, seed)
    sums: dict[str, list[Array]] = {PLAIN: [], **{cause.title: [] for cause in causes}}
    kinds = set[str]()
    for done, item in enumerate(items):
        if progress:
            progress(done, len(items))
        prompt = pair.encode(item)
        kind, here = _places(prompt, seed)
        kinds.add(kind)
        before = run.there(prompt, here)
        sums[PLAIN].append(run.sums(prompt, here, before, before))
        for cause in causes:
            if cause.kind != "cover":
                change = run.change(prompt, before, cause)
                sums[cause.title].append(run.sums(prompt, here, before, change(before), change))
            elif isinstance(item, Problem) and kind == "visual" and item.images:
                other = pair.encode(covered(item, prompt, here))
                sums[cause.title].append(run.sums(other, here, before, run.there(other, here)))
    if progress:
        progress(len(items), len(items))
    whole = {name: np.stack(rows) for name, rows in sums.items() if len(rows) == len(items)}
    table = _table(whole, kinds, resamples, seed)
    used = {"layer": layer, "null_draws": null_draws, "seed": seed, "resamples": resamples}
    return Causes(table, _headline(table), {**pair.provenance, "causes": used})


@dataclass(frozen=True, eq=False)
class _Run:
    """Both models on one prompt, read after a layer."""

    pair: ModelPair
    heads: tuple[LensHead, LensHead]
    layer: int
    draws: int
    seed: int

    def there(self, prompt: EncodedPrompt, here: Int[Tensor, " cells"]) -> Float[Tensor, "cells hidden"]:
        """The base's residuals after the layer, at some positions."""
        take = lambda _, hidden: hidden[0, here.to(hidden.device)].to(self.heads[0].weight.device)  # noqa: E731
        return read_residuals(self.pair.base, prompt.model_inputs, layers=[self.layer], reduce=take)[
            self.layer
        ]

    def change(self, prompt: EncodedPrompt, there: Float[Tensor, "cells hidden"], cause: Cause) -> Change:
        """What becomes of residuals after the layer, in either model."""
        if cause.kind == "scale":
            return lambda rows: rows * cause.strength
        moved = self.moved(prompt, there, cause)
        delta = moved - there.to(moved.dtype)
        return lambda rows: (rows.to(delta.dtype) + delta.to(rows.device)).to(rows.dtype)

    def moved(
        self, prompt: EncodedPrompt, there: Float[Tensor, "cells hidden"], cause: Cause
    ) -> Float[Tensor, "cells hidden"]:
        """The base's residuals, turned."""
        if cause.kind in STEERED:
            return steered(there, self.heads[0], cause.strength, sharpen=cause.kind == "sharpen")
        far = angle_between(there, self.moved(prompt, there, cause.like)) if cause.like else cause.strength
        seed = problem_seed(self.seed, f"{prompt.problem_id}/{cause.kind}")
        generator = torch.Generator().manual_seed(seed)
        if cause.kind == "turn":
            return turned(there, far, generator)
        return reworded(there, self.heads[0], far, generator)

    def sums(
        self,
        prompt: EncodedPrompt,
        here: Int[Tensor, " cells"],
        before: Float[Tensor, "cells hidden"],
        after: Float[Tensor, "cells hidden"],
        change: Change | None = None,
    ) -> Array:
        """Sums over positions: KL, that of noise and entropy of later layers; at the layer entropy, angle and KL from before to
        after; cells later, and there.

        ``before``, ``after``: the base's residuals there without and with the change; ``change``: what is done to both models'.
        """
        edits = {self.layer + 1: written(here, change)} if change else None

        def measure(layer: int, h_base: Tensor, h_rlvr: Tensor) -> tuple[Tensor, ...]:
            base, rlvr = (h[here.to(h.device)] for h in (h_base, h_rlvr))
            seed = problem_seed(self.seed, f"{prompt.problem_id}/{layer}")
            noise = matched_noise(base, rlvr, draws=self.draws, seed=seed)
            stats = compare(base, rlvr, *self.heads, top_k=1, null=noise)
            null = cast(Tensor, stats.kl_null).double().mean(0)
            return stats.kl.double().sum(), null.sum(), stats.entropy_base.double().sum()

        layers = [*range(self.layer + 1, self.pair.depth - 1)]
        read = compare_residuals(self.pair, [prompt], measure, layers=layers, write_base=edits, write=edits)
        kl, null, later = (sum(float(values[i]) for values in read.values()) for i in range(3))
        lens = compare(before, after, self.heads[0], self.heads[0], top_k=1)
        turned_by = angle_between(before, after)
        there = [float(values.double().sum()) for values in (lens.entropy_rlvr, turned_by, lens.kl)]
        return np.array([kl, null, later, *there, len(here) * len(layers), len(here)], float)


def written(here: Int[Tensor, " cells"], change: Change) -> Edit:
    """What changes some positions of (1, positions, hidden), and leaves the others."""

    def edit(hidden: Tensor) -> Tensor:
        copy, place = hidden.clone(), here.to(hidden.device)
        copy[0, place] = change(hidden[0, place])
        return copy

    return edit


def _places(prompt: EncodedPrompt, seed: int) -> tuple[str, Int[Tensor, " cells"]]:
    """Half of the visual positions by lot, or of the text positions of a prompt without a picture."""
    kind = TokenKind.VISUAL if (prompt.kinds == TokenKind.VISUAL).any() else TokenKind.TEXT
    places = (prompt.kinds == kind).nonzero().flatten()
    if len(places) < 2:
        raise InputError(
            f"`problems`: {prompt.problem_id!r} has {len(places)} {kind.name.lower()} positions, expected at least 2"
        )
    generator = torch.Generator().manual_seed(problem_seed(seed, f"{prompt.problem_id}/places"))
    return kind.name.lower(), places[
        torch.randperm(len(places), generator=generator)[: len(places) // 2].sort().values
    ]


def _table(sums: Mapping[str, Array], kinds: set[str], resamples: int, seed: int) -> pd.DataFrame:
    """A row a cause, from the sums (problems, 8) of each, the plain run among them."""
    names, plain = [name for name in sums if name != PLAIN], sums[PLAIN]
    places = {name: place for place, name in enumerate(names)}
    controls = [[places.get(f"{kind} like {name}") for name in names] for kind in CONTROLS]

    def statistic(counts: Array) -> Array:
        before = counts @ plain
        after = np.stack([counts @ sums[name] for name in names], 1)  # (resamples, causes, sums)
        change = after - before[:, None]
        there, angle, moved = (divide(change[..., i], after[..., 7]) for i in (3, 4, 5))
        later = divide(change[..., 2], after[..., 6])
        factor = divide(after[..., 0], before[:, None, 0])
        over = divide(factor, divide(after[..., 1], before[:, None, 1]))
        beside = [
            np.full_like(values, np.nan) if place is None else divide(values, each[:, place])
            for control in controls
            for each in (factor, over)
            for values, place in zip(each.T, control, strict=True)
        ]
        return np.concatenate([there, angle, moved, later, factor, over, np.stack(beside, 1)], 1)

    least = np.repeat([-np.inf if "entropy" in measure else 0.0 for measure in MEASURES], len(names))
    intervals = bootstrap(statistic, len(plain), bounds=(least, np.inf), resamples=resamples, seed=seed)
    rows = []
    for place, name in enumerate(names):
        row: dict[str, Any] = {"cause": name, "kind": "all" if len(kinds) > 1 else min(kinds)}
        row |= {"problems": len(plain), "cells": int(sums[name][:, 6].sum())}
        for step, measure in enumerate(MEASURES):
            row |= intervals[step * len(names) + place].columns(measure)
        rows.append(row)
    return pd.DataFrame(rows)


def _headline(table: pd.DataFrame) -> str:
    parts = [
        f"{row['cause']} {times(Interval.in_row(row, 'factor'))} (entropy there {row['entropy_there']:+.2g} nats; over "
        f"matched noise {times(Interval.in_row(row, 'over_null'))})"
        for row in table.to_dict("records")
    ]
    return f"KL in later layers with the change over KL without it: {'; '.join(parts)}."


def _checked(pair: ModelPair, causes: Sequence[Cause], layer: int | None, null_draws: int) -> int:
    """The layer."""
    if not causes or not all(isinstance(cause, Cause) for cause in causes):
        raise InputError(
            f"`causes` is {causes!r}; expected some: causes(pair, problems, causes=[Cause('sharpen', 0.3)])"
        )
    titles = [cause.title for cause in causes]
    if len({*titles}) < len(titles):
        raise InputError(f"`causes` holds the same more than once: {', '.join(titles)}")
    if isinstance(null_draws, bool) or not isinstance(null_draws, int) or null_draws < 1:
        raise InputError(
            f"`null_draws` is {null_draws!r}; expected at least 1: causes(pair, problems, null_draws=3)"
        )
    last = pair.depth - 3
    if layer is None:
        layer = min(pair.depth // 3, last)
    if not 0 <= layer <= last:
        raise InputError(
            f"`layer` is {layer}; expected 0 to {last}, since {pair.name!r} has {pair.depth} layers and what later ones but the "
            f"last make of it is measured: causes(pair, problems, layer={max(0, min(pair.depth // 3, last))})"
        )
    return layer
