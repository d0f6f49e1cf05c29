"""The parts of a study, each a value that checks itself, says what it depends on, and runs.

A part that fails must not cost the others: `Attempts` keeps what went wrong, for the page and for the last line.
"""

import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from workbench.analysis.null_models import NullKind, same_base
from workbench.analysis.weight_nulls import NullShift, weight_nulls
from workbench.conditions import Named, condition_of
from workbench.errors import InputError
from workbench.experiments.ablation import Ablation, ablate
from workbench.experiments.perturbation import Perturbation, perturb, responses_for
from workbench.models.checkpoint_files import TAKEN
from workbench.models.pairs import ModelPair
from workbench.problems.problem import Problem, listed
from workbench.replay.prepared import check_fits
from workbench.sampling import Sampling
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.neighbours import check_states
from workbench.tracing.readings import Reading, chosen

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, steps done, steps in all)."""
Made = TypeVar("Made")
KINDS: tuple[NullKind, ...] = get_args(NullKind)
"""Of null models."""
NEAREST, FIDELITY = "nearest text states", "fidelity of the reading"
"""What progress calls these parts; text states of a control with its name behind."""
_CALL = "study(pair, load_problems('shapes', limit=64), 'runs/mine')"


@dataclass(frozen=True)
class Measures:
    """What is measured at every cell, and how sure of it one is."""

    seed: int
    top_k: int
    null_draws: int
    bins: int
    resamples: int
    batch_size: int
    reading: Reading | None = None
    """Through what layers are read; None: the logit lens."""
    states: LatentLens | None = None
    """Text states that stand beside it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its tables depend on."""
        own = {name: value for name, value in vars(self).items() if name not in ("reading", "states")}
        read = self.reading or self.states
        return own | ({"reading": read.described} if read else {})

    @property
    def tracing(self) -> dict[str, Any]:
        """What a trace depends on."""
        return {
            name: getattr(self, name) for name in ("seed", "top_k", "null_draws", "batch_size", "reading")
        }

    @property
    def judging(self) -> dict[str, Any]:
        """What every part after it depends on."""
        return {name: getattr(self, name) for name in ("seed", "resamples", "batch_size")}

    def check(self, pair: ModelPair) -> None:
        """Refuse what is out of range, and a reading of other models.

        Raises:
            InputError: names it.
        """
        chosen(self.reading, pair)
        if self.states is not None:
            check_states(self.states, pair)
        least = {"seed": 0, "top_k": 1, "null_draws": 0, "bins": 2, "resamples": 1, "batch_size": 1}
        for name, value in least.items():
            whole(name, getattr(self, name), value)


@dataclass(frozen=True)
class Answers:
    """Whether both models answer, under which interventions, and how many times."""

    interventions: Mapping[str, Named]
    sampling: Sampling
    count: int | None = None
    """Of the problems, the first so many are answered; None: all of them."""

    def of(self, problems: Sequence[Problem]) -> Sequence[Problem]:
        """The problems that are answered."""
        return problems[: self.count]

    @property
    def settings(self) -> dict[str, Any]:
        """What its tables depend on."""
        if not self.interventions:
            return {}
        interventions = {name: condition_of(c).described for name, c in self.interventions.items()}
        settings = self.sampling.settings
        own = ("samples", "max_new_tokens", "engine")  # the others are of the whole study
        counted = {} if self.count is None else {"answers": self.count}
        return {
            "interventions": interventions,
            **{name: settings[name] for name in own if name in settings},
            **counted,
        }

    def check(self, pair: ModelPair, problems: Sequence[Problem], controls: Mapping[str, ModelPair]) -> None:
        """Refuse what could only be refused after an hour of tracing.

        Raises:
            InputError: a number out of range, a condition that does not fit the models or has a control's name, a problem without
                an answer.
        """
        if both := [name for name in controls if name in self.interventions]:
            raise InputError(
                f"`controls` and `interventions` both have {both[0]!r}; name one of them otherwise: study(pair, problems, "
                "'runs/mine', controls=controls_of(pair, {'sft': 'runs/sft'}))"
            )
        for condition in self.interventions.values():
            check_fits(condition, pair)
        asked = self.of(problems)
        absent = [problem.id for problem in asked if problem.answer is None]
        if self.interventions and absent:
            raise InputError(
                f"`interventions`: {len(absent)} of {len(asked)} problems, such as {absent[0]!r}, have no answer to judge "
                "responses by; add it, or leave the part out: study(..., interventions=None)"
            )

    def run(
        self,
        pair: ModelPair,
        problems: Sequence[Problem],
        how: Measures,
        controls: Mapping[str, ModelPair],
        work: Path,
        tell: Progress,
    ) -> Ablation:
        """What the models answer, and each control as it is."""
        return ablate(
            pair,
            self.of(problems),
            self.interventions,
            samples=self.sampling.samples,
            max_new_tokens=self.sampling.max_new_tokens,
            engine=self.sampling.engine,
            keep=work / "ablation",
            controls=controls,
            progress=lambda what, done, total: tell(f"answering: {what}", done, total),
            **how.judging,
        )


@dataclass(frozen=True)
class Disturbances:
    """Whether pictures and weights are disturbed, and which other trainings stand beside the latter."""

    pictured: bool
    null_models: int
    """Of each kind; 0: none."""
    controls: Mapping[str, ModelPair]
    """Pairs of the same base that RL did not train."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its tables depend on."""
        controls = {name: dict(control.provenance) for name, control in self.controls.items()}
        weights = {"null_models": self.null_models} if self.null_models else {}
        weights |= {"controls": controls} if self.null_models or controls else {}
        return weights | ({"perturbed": True} if self.pictured else {})

    @property
    def names(self) -> list[str]:
        """Of the null models, as `weight_nulls` tells of them."""
        return [f"{kind} {draw + 1}" for kind in KINDS for draw in range(self.null_models)]

    @property
    def weighed(self) -> bool:
        """Whether other models are traced beside the pair's."""
        return bool(self.null_models or self.controls)

    def check(self, pair: ModelPair, problems: Sequence[Problem]) -> None:
        """Refuse a number out of range, controls of another base, and problems without pictures where these are disturbed.

        Raises:
            InputError: names it.
        """
        whole("null_models", self.null_models, 0)
        for name, control in self.controls.items():
            if not isinstance(control, ModelPair) or name in TAKEN or not same_base(pair, control):
                wrong = (
                    f"{name!r} is a {type(control).__name__}"
                    if not isinstance(control, ModelPair)
                    else f"the name {name!r} stands for something else"
                    if name in TAKEN
                    else f"{name!r} has another base than `pair`"
                )
                raise InputError(
                    f"`controls`: {wrong}; expected pairs with the same base by names of their own: study(pair, problems, "
                    "'runs/mine', controls=controls_of(pair, {'sft': 'runs/sft'}))"
                )
        blind = [problem.id for problem in problems if not (problem.images or problem.video)]
        if self.pictured and blind:
            raise InputError(
                f"`perturbed`: {len(blind)} of {len(problems)} problems, such as {blind[0]!r}, have no picture to disturb; leave "
                "them or the part out: study(..., perturbed=False)"
            )

    def pictures(
        self,
        pair: ModelPair,
        problems: Sequence[Problem],
        how: Measures,
        max_new_tokens: int,
        work: Path,
        tell: Progress,
    ) -> Perturbation:
        """What drift has to do with how probable responses are."""
        return perturb(
            pair,
            problems,
            responses=responses_for(problems),
            max_new_tokens=max_new_tokens,
            keep=work / "perturbation",
            progress=lambda done, total: tell("disturbing the pictures", done, total),
            **how.judging,
        )

    def weights(
        self,
        pair: ModelPair,
        problems: Sequence[Problem],
        traced: LensTrace,
        controls: Mapping[str, LensTrace],
        how: Measures,
        tell: Progress,
    ) -> NullShift:
        """The shift beside that of random changes of the weights, and of the controls, whose traces there are."""
        return weight_nulls(
            pair,
            problems,
            kinds=KINDS if self.null_models else (),
            draws=max(1, self.null_models),
            others=controls,
            bins=how.bins,
            traced=traced,
            reading=how.reading,
            progress=lambda what, done, total: tell(f"null model: {what}", done, total),
            **how.judging,
        )


@dataclass
class Attempts:
    """What could not be made, by part, and why; the rest goes on."""

    skipped: dict[str, str] = field(default_factory=dict)
    traces: list[str] = field(default_factory=list)
    """Tracebacks of what was nobody's input's fault."""

    def at(self, what: str, make: Callable[[], Made]) -> Made | None:
        """What `make` returns; None where it can't. A full disk and Ctrl-C end the run, which goes on from there."""
        try:
            return make()
        except OSError:
            raise
        except InputError as error:
            self.skipped[what] = str(error)
        except Exception as error:
            self.skipped[what] = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
            self.traces.append(f"{what}\n{traceback.format_exc()}")
        warnings.warn(f"{what} could not be made and is left out: {self.skipped[what]}", stacklevel=2)
        return None


def check_problems(problems: Sequence[Problem]) -> list[Problem]:
    """Problems as a list.

    Raises:
        InputError: none, or something else.
    """
    return listed(problems, _CALL)


def whole(name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number of at least ``least``.

    Raises:
        InputError: it is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(
            f"`{name}` is {value!r}; expected a whole number of at least {least}: study(pair, problems, 'runs/mine', "
            f"{name}={max(least, 1)})"
        )
