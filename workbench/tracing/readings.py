"""Readings: through what a model's own norm and unembedding look at a layer's residual stream.

`trace`, `follow`, `explore`, `weight_nulls` and `study` take one as ``reading=``. A reading that gives a distribution maps
the residual after a layer to what the head reads (`Reading.view`), and entropy, KL, top predictions and matched noise follow:

* `LogitLens`: the residual itself.
* `TunedLens`: h + A h + b with A and b of the layer (Belrose et al., arXiv 2303.08112), fitted here or by others. One model's
  translators read both models, unless the RLVR model brings its own; then KL also holds how these differ.

Norms and cosines of a trace are those of the residual stream whatever reads it. `latent_lens.LatentLens` has no distribution:
`neighbours.read_neighbours` gives its nearest states, overlap and rank shift instead. `explore` and `study` take it, too, trace
through the logit lens, whose entropies make the strata, and show neighbours beside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from workbench.conditions import Model
from workbench.errors import InputError
from workbench.models.identity import recorded_weights
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt
from workbench.problems.problem import Problem
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.published_translators import read_published
from workbench.tracing.tuned_lens import Translators, fit_translators

_FIT = (
    "TunedLens.fit(pair, load_problems('shapes', split='train'), load_problems('shapes', split='validation'))"
)


@runtime_checkable
class Reading(Protocol):
    """What stands between the residual stream and a model's head."""

    @property
    def name(self) -> str:
        """What it is called in claims and on pages."""
        ...

    @property
    def described(self) -> dict[str, Any]:
        """All that its numbers depend on beside the pair; stands in a trace's provenance."""
        ...

    @property
    def shared(self) -> bool:
        """Whether it reads every model that descends from the base in one way."""
        ...

    def check(self, pair: ModelPair) -> None:
        """Refuse a pair that it was not made for, with an `InputError`."""
        ...

    def view(
        self, model: Model, layer: int, hidden: Float[Tensor, "positions hidden"]
    ) -> Float[Tensor, "positions hidden"]:
        """What the head of ``model`` is to read of its residuals after ``layer``; same shape, dtype and device."""
        ...


@dataclass(frozen=True)
class LogitLens:
    """The residual stream as it is."""

    @property
    def name(self) -> str:
        """``"logit lens"``."""
        return "logit lens"

    @property
    def described(self) -> dict[str, Any]:
        """Its name alone."""
        return {"name": self.name}

    @property
    def shared(self) -> bool:
        """It does."""
        return True

    def check(self, pair: ModelPair) -> None:
        """Every pair will do."""

    def view(
        self, model: Model, layer: int, hidden: Float[Tensor, "positions hidden"]
    ) -> Float[Tensor, "positions hidden"]:
        """The very tensor."""
        return hidden


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens:
    """Affine translators, the base model's for both models unless the RLVR model has its own."""

    base: Translators
    rlvr: Translators | None = None
    """None: those of the base read both models, so that KL is about the residual streams alone."""

    def __post_init__(self) -> None:
        for name, some in (("base", self.base), ("rlvr", self.rlvr)):
            if not isinstance(some, Translators) and not (some is None and name == "rlvr"):
                raise InputError(f"`{name}` is a {type(some).__name__}, expected Translators: {_FIT}")
            if some is not None:
                _check_recorded(some, f"`{name}`")
        if self.rlvr is not None and self.rlvr.bias.shape != self.base.bias.shape:
            raise InputError(
                f"`rlvr` is {self.rlvr!r}, but `base` {self.base!r}; expected translators of models of one shape: {_FIT}"
            )

    @property
    def name(self) -> str:
        """``"tuned lens"``."""
        return "tuned lens"

    @property
    def described(self) -> dict[str, Any]:
        """Digests of the translators of both models; None where the RLVR model has those of the base."""
        own = None if self.rlvr is None else self.rlvr.digest
        return {"name": self.name, "base": self.base.digest, "rlvr": own}

    @property
    def shared(self) -> bool:
        """Whether the base's translators read the RLVR model too."""
        return self.rlvr is None

    def __repr__(self) -> str:
        own = "those of the base" if self.rlvr is None else repr(self.rlvr)
        return f"TunedLens(base: {self.base!r}; rlvr: {own})"

    def of(self, model: Model) -> Translators:
        """The translators that read a model."""
        return self.rlvr if model == "rlvr" and self.rlvr is not None else self.base

    def check(self, pair: ModelPair) -> None:
        """Refuse another model's translators.

        Raises:
            InputError: translators of other sizes, or fitted on other weights than the model that they are for. Those of the
                base may read both models; where no weights are recorded, as with published ones, sizes alone are compared.
        """
        models: tuple[Model, ...] = ("base", "rlvr")
        size = (pair.base.depth, pair.base.hidden_size)
        for model in models if self.rlvr is not None else models[:1]:
            translators, own = self.of(model), recorded_weights(pair.provenance, model)
            if translators.bias.shape != size:
                layers, width = translators.bias.shape
                raise InputError(
                    f"`reading`: translators of {model} have {layers} layers of width {width}; the {model} model of "
                    f"{pair.name!r} has {size[0]} of width {size[1]}; fit some on it: {_FIT}"
                )
            # Under whichever name: translators know the place that their model had in the pair that they were fitted on.
            for place in models:
                if (weights := recorded_weights(translators.provenance, place)) not in (None, own):
                    raise InputError(
                        f"`reading`: translators of {model} were fitted on weights {weights}, of the {place} model of "
                        f"{translators.provenance.get('pair')!r}; the {model} model of {pair.name!r} has {own}; give the base's "
                        f"alone for both models, TunedLens(tuned.base), or fit some: {_FIT}"
                    )

    def view(
        self, model: Model, layer: int, hidden: Float[Tensor, "positions hidden"]
    ) -> Float[Tensor, "positions hidden"]:
        """Translated residuals."""
        return self.of(model).translate(layer, hidden)

    @classmethod
    def fit(
        cls,
        pair: ModelPair,
        train: Sequence[Problem | EncodedPrompt],
        validation: Sequence[Problem | EncodedPrompt],
        *,
        own: bool = False,
        **settings: Any,
    ) -> "TunedLens":
        """Fit on KL(final || lens) at every position of training prompts (`tuned_lens.fit_translators`), with a seed.

        Args:
            pair: what `load_pair` returned.
            train: problems to fit on.
            validation: others, which decide when to stop.
            own: fit the RLVR model's translators too, rather than read it through those of the base.
            **settings: of `fit_translators` and `tuned_lens.fit`: batch_size, epochs, seed, keep, ...

        Raises:
            InputError: as `fit_translators`.
        """
        base = fit_translators(pair, train, validation, **settings)
        return cls(base, fit_translators(pair, train, validation, model="rlvr", **settings) if own else None)

    def save(self, folder: str | Path) -> Path:
        """Write translators as safetensors into ``folder/base``, and ``folder/rlvr`` if the RLVR model has its own.

        Raises:
            InputError: the folder cannot be written.
        """
        self.base.save(Path(folder) / "base")
        if self.rlvr is not None:
            self.rlvr.save(Path(folder) / "rlvr")
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, rlvr: str | Path | None = None) -> "TunedLens":
        """Read translators: what `save` or `Translators.save` wrote, or what others published (`published_translators`).

        Args:
            folder: of both models, or of the base's.
            rlvr: of the RLVR model's own, if these lie elsewhere.

        Raises:
            InputError: no such folder, or no translators in it; files that hold more than tensors and numbers.
        """
        home = Path(folder)
        if (home / "base").is_dir():
            own = home / "rlvr" if (home / "rlvr").is_dir() and rlvr is None else rlvr
            return cls(_read(home / "base"), None if own is None else _read(Path(own)))
        return cls(_read(home), None if rlvr is None else _read(Path(rlvr)))


def chosen(reading: Any, pair: ModelPair) -> Reading:
    """The reading, checked against a pair; None is the logit lens.

    Raises:
        InputError: no reading, one without a distribution, or one that was made for other models.
    """
    given = LogitLens() if reading is None else reading
    is_class = isinstance(given, type)  # which has all that a reading has, by name
    if is_class or not isinstance(given, Reading):
        found = f"the class {given.__name__}" if is_class else f"a {type(given).__name__}"
        raise InputError(
            f"`reading` is {found}, expected one that gives a distribution: trace(pair, problems, "
            "reading=TunedLens.load(folder)); a LatentLens has none: read_neighbours(pair, problems, lens), explore or study"
        )
    given.check(pair)
    return given


def apart(reading: Reading | LatentLens | None) -> tuple[Reading | None, LatentLens | None]:
    """What a trace is read through, and the text states beside it: a `LatentLens` stands beside the logit lens."""
    return (None, reading) if isinstance(reading, LatentLens) else (reading, None)


def load_reading(folder: str | Path) -> "TunedLens | LatentLens":
    """A reading from a folder: text states that `LatentLens.save` or the package ``latentlens`` wrote, else translators.

    Raises:
        InputError: what `LatentLens.load` and `TunedLens.load` refuse.
    """
    home = Path(folder)
    if (home / "states.json").exists() or [*home.glob("layer_*/embeddings_cache.pt")]:
        return LatentLens.load(home)
    return TunedLens.load(home)


def same_reading(reading: Any, pair: ModelPair, provenance: Mapping[str, Any], call: str) -> Reading:
    """The reading, which must be that of a trace with this provenance; ``call`` is how the caller was called, left open.

    Raises:
        InputError: as `chosen`, or it is another one.
    """
    given, plain = chosen(reading, pair), LogitLens().described
    traced = provenance.get("reading") or plain
    if given.described != traced:
        better = "" if traced == plain else ", reading=tuned"
        raise InputError(
            f"`reading` is {given.described}, but the trace was read by {traced}; give the same one: {call}{better})"
        )
    return given


def check_shared(reading: Reading | None, call: str) -> None:
    """Refuse a reading that knows the pair's own two models alone, where others are traced.

    Raises:
        InputError: it is one.
    """
    if isinstance(reading, Reading) and not reading.shared:
        raise InputError(
            f"`reading` has translators of the RLVR model's own, which null models and controls have not; read all of them "
            f"through those of the base: {call}, reading=TunedLens(tuned.base))"
        )


def in_words(measured: str, reading: str) -> str:
    """What a claim measured, with what it was read through unless that is the logit lens."""
    return measured if reading == LogitLens().name else f"{measured}, {reading}"


def labelled(claims: Sequence[Any], reading: str) -> list[Any]:
    """Claims that say what they were read through."""
    return [replace(claim, measured=in_words(claim.measured, reading)) for claim in claims]


def _read(folder: Path) -> Translators:
    file = folder / "translators.json"
    if not file.exists():
        return read_published(folder)
    translators = Translators.load(folder)
    _check_recorded(translators, f"`folder`: {str(file)!r}")
    return translators


def _check_recorded(translators: Translators, named: str) -> None:
    """Refuse a provenance that does not say what was fitted in the way that `fit_translators` does."""
    held = translators.provenance
    if not isinstance(held, Mapping) or not all(
        isinstance(held.get(place, {}), Mapping) for place in ("base", "rlvr")
    ):
        raise InputError(
            f"{named} has the provenance {held!r:.80}; expected a dict that says of which weights the translators are, "
            f"{{'base': {{'weights': ...}}}}, or says nothing of it: {_FIT}"
        )
