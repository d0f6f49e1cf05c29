"""Controls: models of a pair's own base that RL did not train, each in the RLVR model's place of a pair that shares the base.

1. Names and files are looked at first (`checkpoint_files.check_controls`), so that nothing is loaded in vain.
2. The model is loaded as the pair's were: whole, or an adapter merged into the pair's base; dtype, device and kernel are theirs.
3. It must be comparable with the base position by position, weight by weight, as an RLVR model must.

The pair reads, asks and cuts off as before: processor, preset and base are shared, and only one model is added to memory.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, dissect, probe
from workbench.models.checkpoint_files import check_controls
from workbench.models.checkpoints import Placement, load_model
from workbench.models.comparability import check_precisions, ends_of, equality
from workbench.models.loading import facts_of
from workbench.models.pairs import ModelPair
from workbench.models.preflight import check_pair, check_weights

_MEMORY = " in memory"


def load_controls(pair: ModelPair, sources: Mapping[str, str | Path]) -> dict[str, ModelPair]:
    """Pairs with the same base, and a control in the RLVR model's place, by the control's name.

    Args:
        pair: what `load_pair` returned.
        sources: folder of a model, adapter of the base, or hub id, by name.

    Raises:
        InputError: a name that is taken, files that are not there or of another shape, or a model that can't be compared; all of
            them are looked at before the first is loaded.

    Warns:
        UserWarning: a control with the weights of the base or of the RLVR model.
    """
    named = str(pair.provenance["base"]["id"]) if pair.preset is None else str(pair.preset.source("base"))
    base = None if named.endswith(_MEMORY) else named
    check_controls(sources, base)
    return {name: _loaded(pair, name, source, base) for name, source in sources.items()}


def _loaded(pair: ModelPair, name: str, source: str | Path, base: str | None) -> ModelPair:
    placement = Placement(
        dtype=pair.dtype,
        device=pair.device,
        attn_implementation=pair.provenance["base"]["attn_implementation"],
    )
    try:
        hub = {"revision": None, "trust_remote_code": False}
        anatomy = dissect(load_model("controls", source, placement, beside=base, **hub))
        check_pair(pair.base, anatomy, pair.tokenizer)
        _check_shapes(pair.base, anatomy)
        check_precisions(pair.base, anatomy)
        check_weights("controls", anatomy)
    except InputError as error:
        said = str(error).replace("`rlvr`", "`controls`")
        raise InputError(f"`controls` {name!r}: {said}") from error
    for role, other in (("base", pair.base), ("rlvr", pair.rlvr)):
        if equal := equality(other, anatomy):
            warnings.warn(
                f"`controls` {name!r} and `{role}` have weights that are {equal}: nothing tells them apart",
                stacklevel=4,
            )
    anatomy = replace(anatomy, ends=ends_of(anatomy) | ends_of(pair.rlvr))
    probe(anatomy)
    shared = {key: value for key, value in pair.provenance.items() if key != "remarks"}
    provenance = {**shared, "rlvr": facts_of(source, None, anatomy), "control": name}
    return replace(pair, name=f"{pair.name}, {name}", rlvr=anatomy, provenance=provenance)


def _check_shapes(base: Anatomy, control: Anatomy) -> None:
    """Refuse weights of other shapes; the vocabulary's rows may be padded differently.

    Raises:
        InputError: naming the first.
    """
    mine, theirs = (dict(anatomy.model.named_parameters()) for anatomy in (base, control))
    for name in sorted({*mine, *theirs}):
        shapes = [tuple(side[name].shape) if name in side else None for side in (mine, theirs)]
        vocabulary = [anatomy.vocab_size for anatomy in (base, control)]
        rows = [
            shape[1:] if shape and shape[0] == size else shape
            for shape, size in zip(shapes, vocabulary, strict=True)
        ]
        if rows[0] != rows[1]:
            found = " and ".join("none" if shape is None else str(shape) for shape in shapes)
            raise InputError(
                f"`base` and `rlvr` differ in the shape of {name}: {found}; give a model that was trained on from the "
                "pair's base: controls: {sft: ./sft}"
            )
