"""Two models that decode together, as values: whose draw is taken where, or how far beyond RLVR to go. Nothing that runs them is
needed here.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from workbench.conditions import PLAIN, Condition, Model, check_depth, signature_of
from workbench.errors import InputError, knows_its_fields

Criterion = Literal["divergence", "entropy", "dlogp", "random", "low_divergence"]
Where = Literal["all", "divergence", "dlogp"]
_CROSS = "CrossSample('base', 'divergence', threshold=0.1)"
_FURTHER = "Extrapolate(0.5)"
MOST = 1e6
"""The largest gamma, either way: logits stay finite."""


class DecodedTogether:
    """What both kinds of two models that decode together have in common: `CrossSample` and `Extrapolate`.

    Attributes:
        under: what is done to one of the models, or both, meanwhile (`Replay`, `Patch`); None for nothing.
    """

    under: Any

    @property
    def described(self) -> dict[str, Any]:
        """Every field."""
        return _described(self)

    @property
    def drawn_by_engine(self) -> bool:
        """Never: an engine has one model."""
        return False

    @property
    def needs_pictures(self) -> bool:
        """Never."""
        return False

    def check_depth(self, depth: int) -> None:
        """Refuse models that what is done meanwhile does not fit.

        Raises:
            InputError: it says so.
        """
        for condition in _under(self.under):
            check_depth(condition, depth)


@knows_its_fields
@dataclass(frozen=True)
class CrossSample(DecodedTogether):
    """One model decodes, and where a criterion says so the other's draw is taken (arXiv 2603.22446, 2603.22117).

    Both draw by the same random number, so that where they agree nothing is replaced but in name.

    Attributes:
        host: the model that decodes; the other is the guest. ``base`` is the forward direction, ``rlvr`` the reverse.
        criterion: ``divergence``: the Jensen-Shannon divergence of both next-token distributions, in nats (0 to ln 2).
            ``entropy``: that of the host's distribution, in nats. ``dlogp``: log p of the guest's draw in the guest minus that in
            the host, in nats. ``low_divergence``: smallest instead of largest. ``random``: by chance.
            All of the full vocabulary at temperature 1.
        threshold: the guest's draw is taken where the criterion is at least this (``low_divergence``: below it), in nats.
        budget: instead of a threshold, the share of tokens that may be replaced, from 0 to 1, the largest as they come: of a
            response's first t tokens the last is replaced if fewer than ``budget t`` of those before are as large, and at most
            ``ceil(budget t)`` are replaced so far. ``random`` replaces that share to within one token, one at a random place in
            each stretch of 1 / budget.
        seed: of ``random``.
        under: what is done to either model meanwhile: conditions such as `Replay` and `Patch`, one a model at most.

    Raises:
        InputError: a value outside its range, neither or both of threshold and budget, or a threshold of ``random``.

    Example:
        >>> wb.CrossSample("base", "divergence", budget=0.05).title
        'rlvr into base, 5% by divergence'
        >>> pair, problem = wb.load_pair("shapes"), wb.load_problems("shapes", limit=1)[0]
        >>> crossed = wb.CrossSample("base", "divergence", threshold=0.0)  # everywhere
        >>> wb.decode(pair, problem, model="base", intervention=crossed) == wb.decode(pair, problem, model="rlvr")
        True
    """

    host: Model = "base"
    criterion: Criterion = "divergence"
    threshold: float | None = None
    budget: float | None = None
    seed: int = 0
    under: Condition | tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        _known("host", self.host, PLAIN, _CROSS)
        _known("criterion", self.criterion, get_args(Criterion), _CROSS)
        if self.criterion == "random" and self.threshold is not None:
            raise InputError(
                f"`threshold` is {self.threshold!r} with criterion 'random', which has no values; give the share of tokens to "
                "replace: CrossSample('base', 'random', budget=0.05)"
            )
        if (self.threshold is None) == (self.budget is None):
            given = "neither" if self.budget is None else "both"
            raise InputError(
                f"`threshold` and `budget`: {given} given; expected one of them: {_CROSS}, or "
                f"CrossSample({self.host!r}, {self.criterion!r}, budget=0.05)"
            )
        if self.threshold is not None:
            _set(self, "threshold", _number("threshold", self.threshold, _CROSS))
        if self.budget is not None:
            share = _number("budget", self.budget, "CrossSample('base', 'divergence', budget=0.05)")
            if not 0 <= share <= 1:
                raise InputError(
                    f"`budget` is {self.budget}; expected a share of the tokens from 0 to 1: "
                    "CrossSample('base', 'divergence', budget=0.05)"
                )
            _set(self, "budget", share)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(
                f"`seed` is {self.seed!r}; expected a whole number of at least 0: "
                "CrossSample('base', 'random', budget=0.05, seed=1)"
            )
        _set(self, "under", _under(self.under))

    @property
    def guest(self) -> Model:
        """The model whose draws replace the host's."""
        return "rlvr" if self.host == "base" else "base"

    @property
    def title(self) -> str:
        """Who into whom, and where."""
        named = self.criterion.replace("_", " ")
        if self.budget is not None:
            where = f"{100 * self.budget:g}% {'at' if self.criterion == 'random' else 'by'} {named}"
        else:
            where = f"{named} {'<' if self.criterion == 'low_divergence' else '≥'} {self.threshold:g}"
        return f"{self.guest} into {self.host}, {where}{_titles(self.under)}"

    @property
    def answered_by(self) -> Model:
        """The host."""
        return self.host


@knows_its_fields
@dataclass(frozen=True)
class Extrapolate(DecodedTogether):
    """Decode from ``softmax(z_rlvr + gamma (z_rlvr - z_base))``: along the update and beyond it (arXiv 2603.22117).

    Of log probabilities it is the same. 0 is the RLVR model, -1 the base, between them a mixture.

    Attributes:
        gamma: how far, in multiples of the update.
        where: ``all`` positions; or only those where ``divergence`` (Jensen-Shannon, nats) or ``dlogp`` (log p of RLVR's draw in
            RLVR minus in base, nats) is at least ``threshold``, and the RLVR model elsewhere.
        threshold: in nats; belongs to a ``where`` other than ``all``.
        under: what is done to either model meanwhile: conditions such as `Replay` and `Patch`, one a model at most.

    Raises:
        InputError: gamma is not finite, or a threshold is absent or too many.

    Example:
        >>> wb.Extrapolate(0.5, where="divergence", threshold=0.1).title
        'extrapolated by 0.5 where divergence ≥ 0.1'
        >>> pair, problem = wb.load_pair("shapes"), wb.load_problems("shapes", limit=1)[0]
        >>> wb.decode(pair, problem, intervention=wb.Extrapolate(-1)) == wb.decode(pair, problem, model="base")
        True
    """

    gamma: float
    where: Where = "all"
    threshold: float | None = None
    under: Condition | tuple[Condition, ...] = ()

    def __post_init__(self) -> None:
        gamma = _number("gamma", self.gamma, _FURTHER)
        if not abs(gamma) <= MOST:
            raise InputError(
                f"`gamma` is {self.gamma}; expected a finite number, at most {MOST:g} either way: {_FURTHER}"
            )
        _set(self, "gamma", gamma)
        _known("where", self.where, get_args(Where), _FURTHER)
        if (self.where == "all") != (self.threshold is None):
            raise InputError(
                f"`threshold` is {self.threshold!r} with where={self.where!r}; a threshold in nats belongs to 'divergence' and "
                "'dlogp', and only to them: Extrapolate(0.5, where='divergence', threshold=0.1)"
            )
        if self.threshold is not None:
            _set(self, "threshold", _number("threshold", self.threshold, _FURTHER))
        _set(self, "under", _under(self.under, "Extrapolate(0.5, under=Replay())"))

    @property
    def title(self) -> str:
        """How far, and where."""
        where = "" if self.where == "all" else f" where {self.where} ≥ {self.threshold:g}"
        return f"extrapolated by {self.gamma:g}{where}{_titles(self.under)}"

    @property
    def answered_by(self) -> Model:
        """The RLVR model, at whose end the extrapolation begins."""
        return "rlvr"


Mixture = CrossSample | Extrapolate
"""What two models that decode together are told."""


def conditions_under(mixture: Mixture) -> tuple[Condition, ...]:
    """What is done to either model meanwhile."""
    return _under(mixture.under)


def _set(value: Any, name: str, of: Any) -> None:
    object.__setattr__(value, name, of)


def _known(name: str, value: Any, known: tuple[str, ...], call: str) -> None:
    if value not in known:
        raise InputError(f"`{name}` is {value!r}; expected one of {', '.join(known)}: {call}")


def _number(name: str, value: Any, call: str) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise InputError(f"`{name}` is {value!r}; expected a number: {call}")
    return float(value)


def _under(
    given: Any, call: str = "CrossSample('base', 'divergence', threshold=0.1, under=Replay())"
) -> tuple[Condition, ...]:
    """What is done meanwhile, one condition a model at most."""
    one = isinstance(given, Condition) or hasattr(given, "problem_id")
    conditions: tuple[Any, ...] = (
        (given,) if one or not isinstance(given, list | tuple | None) else tuple(given or ())
    )
    for condition in conditions:
        if not isinstance(condition, Condition) or isinstance(condition, Mixture | type):
            raise InputError(
                f"`under` has a {type(condition).__name__}; expected a Replay, a Patch or an Adapter: {call}"
            )
    models = [condition.answered_by for condition in conditions]
    if len({*models}) < len(models):
        raise InputError(
            f"`under` has two conditions of the {models[0]} model; expected one a model at most: {call}"
        )
    return conditions


def _titles(under: Any) -> str:
    return "".join(f", {condition.answered_by} with {condition.title}" for condition in _under(under))


def _described(mixture: Any) -> dict[str, Any]:
    """Every field, as JSON's types; infinity by its name."""
    values = {name: getattr(mixture, name) for name in mixture.__dataclass_fields__ if name != "under"}
    values = {n: str(v) if isinstance(v, float) and math.isinf(v) else v for n, v in values.items()}
    if under := _under(mixture.under):
        values["under"] = [signature_of(condition) for condition in under]
    return values
