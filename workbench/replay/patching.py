"""Cross-model patching: overwrite one model's residual stream with another's, at chosen cells of a prompt.

1. Source: the base model's residual stream at the *input* of each patched layer, on the same prompt (or any other
   recording of it).
2. Mask: cells chosen by the base model's logit-lens entropy at the *output* of each layer
   (``lens.strata.mask``), both models run unpatched; optionally only where the base's entropy is below the RLVR
   model's.
3. In the RLVR model's prefill the input of each patched layer becomes the source's at the masked positions. Later
   tokens are decoded by the unmodified model from what the prefill left in its cache, unless ``Patch(when=...)`` has them
   patched too: ``decoding.patched`` does that, from what is prepared here.

The released code (arXiv 2511.19972, agent and video scripts) patches layers 0 to 6 at all positions, with a fixed
entropy for each
layer: ``Patch(layers=7, threshold="fixed", levels=(...), only_where_base_lower=True, positions="all")``.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Patch
from workbench.lens.fused import summarise
from workbench.models.anatomy import Anatomy
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem
from workbench.replay.chosen_cells import select
from workbench.selection import Selection
from workbench.tracing.model_heads import lens_head
from workbench.tracing.residuals import LayerCall, read_calls
from workbench.views import markup
from workbench.views.markup import settings_text


@dataclass(frozen=True, eq=False)
class Recording:
    """A model's residual stream at the input of some layers, over one prompt of T positions."""

    problem_id: str
    input_ids: Int[Tensor, " positions"] = field(repr=False)
    layers: tuple[int, ...]
    hidden: Float[Tensor, "layers positions hidden"] = field(repr=False)


@dataclass(frozen=True, eq=False)
class PreparedPatch:
    """A patch for one prompt: which cells, and what they become."""

    problem_id: str
    patch: Patch
    mask: Bool[Tensor, "layers positions"]
    source: Recording = field(repr=False)
    pair: ModelPair | None = field(default=None, repr=False)
    """Whose base is read beside the response, of a patch while decoding; None: the prompt alone is patched."""

    def __repr__(self) -> str:
        return f"PreparedPatch({self.problem_id!r}, {int(self.mask.sum())} of {self.mask.numel()} cells, {self.patch})"

    def _repr_html_(self) -> str:
        return patch_html(self)

    @property
    def summary(self) -> dict[str, float]:
        """In a line of a table: share of cells that are overwritten."""
        return {"cells": float(self.mask.float().mean())}

    @property
    def sites(self) -> tuple[int, ...]:
        """The layers whose input is written in the prompt."""
        return () if self.patch.when == "decoding" else self.source.layers

    @property
    def while_decoding(self) -> bool:
        """Whether the response is overwritten too."""
        return self.patch.while_decoding

    def apply(self, layer: int, hidden: Tensor) -> Tensor:
        """The input of `layer`, (..., T or more, hidden), with masked positions overwritten; any after the prompt stay."""
        row = self.source.layers.index(layer)
        replacement = self.source.hidden[row].to(hidden.device, hidden.dtype)
        prompt, after = hidden.split([len(replacement), hidden.shape[-2] - len(replacement)], -2)
        return torch.cat(
            [torch.where(self.mask[row].to(hidden.device)[:, None], replacement, prompt), after], -2
        )


def record(anatomy: Anatomy, prompt: EncodedPrompt, layers: Sequence[int]) -> Recording:
    """Record the residual stream at the input of `layers`, in order.

    Raises:
        InputError: a layer that the model does not have.
    """
    numbers = tuple(layers)
    calls = read_calls(anatomy, prompt.model_inputs, max(numbers) + 1)
    return Recording(prompt.problem_id, prompt.input_ids, numbers, _stacked(anatomy, calls, numbers))


def _stacked(anatomy: Anatomy, calls: Sequence[LayerCall], layers: Sequence[int]) -> Tensor:
    """What the layers received, on one device, though the model may be spread over several."""
    return torch.stack([calls[layer].hidden[0].to(anatomy.device) for layer in layers])


def takes_all(patch: Patch) -> bool:
    """Whether no entropy chooses its cells."""
    return patch.select == "all" and not patch.only_where_base_lower


@dataclass(frozen=True, eq=False)
class Readings:
    """What a patch of some layers is chosen by and, unless another source is given, made of; the same for every threshold."""

    entropy: dict[str, Float[Tensor, "layers positions"]] = field(repr=False)
    """In nats, by model."""
    source: Recording
    """The base model's."""

    @classmethod
    def needed(cls, pair: ModelPair, prompt: EncodedPrompt, patch: Patch) -> "Readings":
        """What this patch needs: of one that takes all cells the source alone, with entropies of 0, which choose nothing."""
        if takes_all(patch):
            source, nothing = (
                record(pair.base, prompt, patch.patched),
                torch.zeros(len(patch.patched), len(prompt)),
            )
            return cls({"base": nothing, "rlvr": nothing}, source)
        return cls.of(pair, prompt, patch.patched)

    @classmethod
    def of(cls, pair: ModelPair, prompt: EncodedPrompt, layers: Sequence[int]) -> "Readings":
        """Run both models unpatched up to the last of `layers`."""
        entropy, hidden = {}, torch.empty(0)
        for role, anatomy in (("base", pair.base), ("rlvr", pair.rlvr)):
            calls = read_calls(anatomy, prompt.model_inputs, layers[-1] + 1)
            head, device = lens_head(anatomy, pair.vocab_size), anatomy.unembedding.weight.device
            rows = [
                summarise(calls[layer].output[0].to(device), head, top_k=1).entropy.cpu() for layer in layers
            ]
            entropy[role] = torch.stack(rows)
            if role == "base":
                hidden = _stacked(anatomy, calls, layers)
        return cls(entropy, Recording(prompt.problem_id, prompt.input_ids, tuple(layers), hidden))


def prepare_patch(
    pair: ModelPair,
    prompt: Problem | EncodedPrompt,
    patch: Patch,
    *,
    source: Recording | None = None,
    readings: Readings | None = None,
) -> PreparedPatch:
    """Choose the cells of a patch, and record what goes there.

    1. Source: the base model's residual stream at the *input* of each patched layer, on the same prompt (or another recording).
    2. Mask: cells chosen by the base's lens entropy at the *output* of each layer, both models run unpatched.
    3. Applied in the RLVR model's prefill, the input of each patched layer becomes the source's at the masked positions.
    4. With ``when="decoding"`` or ``"both"`` `decode` does the same at every token of the response.

    Args:
        pair: what `load_pair` returned.
        prompt: the prompt that is to be patched.
        patch: the settings.
        source: what is written; None: the base model's residual stream on the same prompt.
        readings: what `Readings.of` returned for this prompt and the patch's layers; None: read here.

    Returns:
        The patch: an intervention for `decode` and `trace`.

    Raises:
        InputError: more layers than the models have, a source recorded on another prompt or at other layers.

    Example:
        >>> pair = wb.load_pair("shapes")
        >>> prompt = pair.encode(wb.load_problems("shapes", limit=1)[0])
        >>> patch = wb.prepare_patch(pair, prompt, wb.Patch(threshold="quantile", tau=0.4, layers=5))
        >>> patch.sites, patch.mask.shape == (5, len(prompt))
        ((0, 1, 2, 3, 4), True)
    """
    prompt, layers = pair.encode(prompt), patch.patched
    patch.check_depth(pair.depth)
    if source is not None:
        if not torch.equal(source.input_ids, prompt.input_ids):
            raise InputError(
                f"`source` was recorded on {source.problem_id!r}, which is another prompt than {prompt.problem_id!r}; "
                "record this one: `record(pair.base, prompt, layers)`"
            )
        if source.layers != layers:
            raise InputError(
                f"`source` was recorded at layers {source.layers}, the patch writes {layers}: "
                f"`record(pair.base, prompt, {layers})`"
            )
    if patch.when == "decoding":
        if source is not None:
            raise InputError(
                "`source` is recorded on a prompt, and when='decoding' writes what the base makes of each token of the response; "
                "leave it out, or patch the prompt: prepare_patch(pair, prompt, Patch(), source=...)"
            )
        nowhere = torch.zeros(len(layers), len(prompt), dtype=torch.bool)
        empty = Recording(prompt.problem_id, prompt.input_ids, layers, torch.empty(len(layers), 0, 0))
        return PreparedPatch(prompt.problem_id, patch, nowhere, empty, pair)
    readings = readings or Readings.needed(pair, prompt, patch)
    entropy = readings.entropy
    visual = prompt.kinds == TokenKind.VISUAL
    visible = patch.positions == "visual" or (patch.positions is None and bool(visual.any()))
    within = visual if visible else torch.ones_like(visual)
    mask = torch.zeros(len(layers), len(prompt), dtype=torch.bool, device=entropy["base"].device)
    mask[:, within] = select(
        Selection.of(patch),
        prompt,
        entropy["base"][:, within],
        layers=layers,
        within=within,
        groups=prompt.image_index[within] if visible else None,
        below=entropy["rlvr"][:, within],
    )
    beside = pair if patch.while_decoding else None
    return PreparedPatch(prompt.problem_id, patch, mask, source or readings.source, beside)


def patch_html(prepared: PreparedPatch) -> str:
    """Which cells are overwritten: their share by layer, and where in the prompt they are."""
    shares = prepared.mask.float().mean(1).tolist()
    layers = prepared.sites
    parts = {
        "share of positions overwritten, by layer": markup.columns(
            dict(zip(layers, shares, strict=True)), name="share of positions overwritten, by layer"
        ),
        f"overwritten positions of {prepared.mask.shape[1]:,}, a line a layer": markup.stripes(
            prepared.mask.tolist(), name="overwritten positions"
        ),
    }
    title = (
        f"{prepared.problem_id}: {int(prepared.mask.sum()):,} of {prepared.mask.numel():,} cells overwritten"
        + (" in the prompt, and the response as it is decoded" if prepared.while_decoding else "")
    )
    return (
        markup.paragraph(title, strong=True)
        + markup.side_by_side(parts)
        + markup.paragraph(f"Patch: {settings_text(asdict(prepared.patch))}")
    )
