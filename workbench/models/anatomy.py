"""Where a model keeps its decoder layers, final norm, unembedding and visual token ids.

Addresses come from transformers' own accessors (``get_decoder``, ``get_output_embeddings``, the config), not
from name patterns, and every one must match exactly once:

1. decoder     = ``model.get_decoder()``
2. layers      = the decoder's only ``ModuleList`` of ``num_hidden_layers`` members
3. norm        = the decoder's only direct child that is a vector of ``hidden_size`` weights
4. unembedding = ``model.get_output_embeddings()``, a ``Linear`` from ``hidden_size``

``dissect`` reads these off the modules without running them. ``probe`` then runs two text tokens and checks
that the sites are called once each, in order, on plain tensors, and that norm and unembedding reproduce the
model's own logits, so that a model with an unknown twist between norm and logits is refused, not misread.

The residual stream after layer l is what ``layers[l]`` returns. In Qwen3-VL the decoder then adds vision
features (deepstack) at visual positions after the first few layers, so there the next layer's input is not
that output.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from workbench.errors import InputError
from workbench.models.finite import NotFiniteError, first_wrong
from workbench.models.positions import positions_of, takes_positions
from workbench.models.rope_memory import from_rest

# Config entries that decide how many visual tokens a picture becomes and where each one sits.
_GEOMETRY = (
    "image_seq_length",
    "mm_tokens_per_image",
    "downsample_ratio",
    "scale_factor",
    "vision_aspect_ratio",
    "image_grid_pinpoints",
    "vision_feature_select_strategy",
)
_VISION_GEOMETRY = (
    "patch_size",
    "image_size",
    "spatial_merge_size",
    "temporal_patch_size",
    "tokens_per_second",
)


@dataclass(frozen=True, eq=False)
class Anatomy:
    """One model and the addresses of what the workbench reads and writes in it."""

    family: str
    """``config.model_type``, e.g. ``"qwen2_5_vl"``."""
    model: PreTrainedModel = field(repr=False)
    decoder: nn.Module = field(repr=False)
    layers: nn.ModuleList = field(repr=False)
    norm: nn.Module = field(repr=False)
    unembedding: nn.Linear = field(repr=False)
    layers_path: str
    """Dotted path from ``model``, e.g. ``"model.language_model.layers"``."""
    norm_path: str
    unembedding_path: str
    depth: int
    """Number of decoder layers."""
    hidden_size: int
    vocab_size: int
    """Rows of the unembedding, padding rows included."""
    image_token_id: int | None
    video_token_id: int | None
    softcap: float | None
    """Logits are ``softcap * tanh(logits / softcap)`` where not None."""
    logit_multiplier: float
    """Scale applied to the unembedding's output before the softcap."""
    spatial_merge: int
    """Patches per visual token along one side; 1 where not applicable."""
    geometry: Mapping[str, Any] = field(repr=False)
    """Config entries that decide how a picture becomes visual tokens."""
    ends: frozenset[int] = frozenset()
    """Tokens that end a response beside those of the model's own settings: the ends of its pair."""

    @property
    def visual_token_ids(self) -> frozenset[int]:
        """Ids of the image and video placeholder tokens; empty for a text-only model."""
        return frozenset(i for i in (self.image_token_id, self.video_token_id) if i is not None)

    @property
    def device(self) -> torch.device:
        """Device of the input embedding, where a prompt has to be."""
        return self.model.get_input_embeddings().weight.device  # pyright: ignore[reportReturnType]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the unembedding."""
        return self.unembedding.weight.dtype

    def placed(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The forward's arguments on ``device``, with positions that come from the prompt alone (`positions`).

        Pixels are in the model's dtype: not every family casts them itself. A cache of keys and values stays where it is.
        """
        arguments = dict(inputs)
        if "position_ids" not in arguments and takes_positions(self.model):
            arguments["position_ids"] = positions_of(self.model, inputs)
        dtypes = {name: self.model.dtype for name in arguments if name.startswith("pixel_values")}
        return {
            name: value.to(self.device, dtypes.get(name)) if isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits (..., vocab) of residuals (..., hidden) taken before the final norm."""
        logits = self.unembedding(self.norm(hidden)) * self.logit_multiplier
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap


def dissect(model: nn.Module) -> Anatomy:
    """Find decoder layers, final norm, unembedding and visual token ids of ``model``; runs nothing.

    Raises:
        InputError: ``model`` is not a transformers model, or an address does not match exactly once.
    """
    if not isinstance(model, PreTrainedModel):
        raise InputError(
            f"`model` is a {type(model).__name__}, expected a transformers PreTrainedModel: unwrap it first "
            "(e.g. `peft_model.merge_and_unload()`), or give its folder or hub id to `load_pair`"
        )
    name, config = type(model).__name__, model.config
    text: Any = config.get_text_config(decoder=True)
    decoder, unembedding = model.get_decoder(), model.get_output_embeddings()
    hint = "; give a model with a language-modelling head, such as AutoModelForImageTextToText loads"
    if not isinstance(unembedding, nn.Linear):
        raise InputError(
            f"`model` {name} has no unembedding (get_output_embeddings() is {unembedding}){hint}"
        )
    layers = [
        m for m in decoder.children() if isinstance(m, nn.ModuleList) and len(m) == text.num_hidden_layers
    ]
    norms = [m for m in decoder.children() if _is_vector(m, text.hidden_size)]
    for candidates, what in ((layers, f"list of {text.num_hidden_layers} layers"), (norms, "final norm")):
        if len(candidates) != 1:
            raise InputError(
                f"`model` {name} has {len(candidates)} candidates for the {what} in its decoder, expected 1{hint}"
            )
    if unembedding.in_features != text.hidden_size:
        raise InputError(
            f"`model` {name}: the unembedding reads {unembedding.in_features} features, the decoder gives "
            f"{text.hidden_size}{hint}"
        )
    softcap, multiplier = _logit_transform(model)
    return Anatomy(
        family=config.model_type,
        model=model,
        decoder=decoder,
        layers=layers[0],
        norm=norms[0],
        unembedding=unembedding,
        layers_path=_path(model, layers[0]),
        norm_path=_path(model, norms[0]),
        unembedding_path=_path(model, unembedding),
        depth=text.num_hidden_layers,
        hidden_size=text.hidden_size,
        vocab_size=unembedding.out_features,
        image_token_id=getattr(config, "image_token_id", None),
        video_token_id=getattr(config, "video_token_id", None),
        softcap=softcap,
        logit_multiplier=multiplier,
        spatial_merge=_spatial_merge(config),
        geometry=_geometry(config),
    )


@from_rest
def probe(anatomy: Anatomy) -> None:
    """Run two text tokens and check every site, so that a model with an unknown twist between norm and logits is refused.

    Raises:
        InputError: a site was not called exactly once, in order, with a plain tensor of the expected shape,
            or norm and unembedding do not reproduce the model's own logits.
        NotFiniteError: two plain tokens already lead to NaN or infinity.
    """
    model, name = anatomy.model, type(anatomy.model).__name__
    named = named_token_ids(model) | anatomy.visual_token_ids
    plain = [i for i in range(len(named) + 2) if i not in named][:2]
    ids = torch.tensor([plain], device=anatomy.device)
    sites = {f"layers[{i}]": layer for i, layer in enumerate(anatomy.layers)} | {"norm": anatomy.norm}
    with torch.no_grad(), _recorded(sites) as calls:
        inputs = anatomy.placed({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        logits = model(**inputs, use_cache=False).logits
    called = [site for site, _, _ in calls]
    outputs = [output for _, _, output in calls[:-1] if isinstance(output, Tensor)]
    for layer, output in [*enumerate(outputs), (None, logits)]:
        if output.ndim == 3 and (place := first_wrong(output, torch.ones_like(ids))) is not None:
            raise NotFiniteError.at(model, *place, layer, output.dtype).of("two plain tokens")
    if called != list(sites):
        raise InputError(f"`model` {name} called {called}, expected {list(sites)}, each once and in order")
    shape = (1, 2, anatomy.hidden_size)
    for site, _, output in calls:
        form = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        if form != shape:
            raise InputError(f"`model` {name}: {site} returned {form}, expected a tensor of shape {shape}")
    with torch.no_grad():
        lens = anatomy.logits(calls[-1][1])
    # The same modules on the same numbers: hardly more than the rounding of one operation may differ.
    tolerance = 8 * torch.finfo(logits.dtype).eps * logits.abs().max().clamp_min(1).item()
    miss = (lens.to(logits) - logits).abs().max().item()
    if not miss <= tolerance:
        raise InputError(
            f"`model` {name}: final norm and unembedding miss its own logits by {miss:.3g} (tolerance "
            f"{tolerance:.3g}), so a logit lens would misread it; model type {anatomy.family!r} is not "
            "supported"
        )


@contextmanager
def _recorded(sites: Mapping[str, nn.Module]) -> Iterator[list[tuple[str, Any, Any]]]:
    """Collects (site, first positional input, output) of every call."""
    calls: list[tuple[str, Any, Any]] = []
    handles = [
        module.register_forward_hook(
            lambda _, args, output, site=site: calls.append((site, args[0] if args else None, output))
        )
        for site, module in sites.items()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def named_token_ids(model: PreTrainedModel) -> frozenset[int]:
    """Every token id that the model's config names: begin, end, padding, image markers and placeholders."""
    ids: set[int] = set()
    for part in (model.config, model.config.get_text_config(decoder=True)):
        for name, value in part.to_dict().items():
            if name.endswith(("_token_id", "_token_index")):
                ids |= {i for i in (value if isinstance(value, list) else [value]) if isinstance(i, int)}
    return frozenset(ids)


def _is_vector(module: nn.Module, size: int) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and tuple(weight.shape) == (size,)


def _path(model: nn.Module, module: nn.Module) -> str:
    paths = [name for name, member in model.named_modules(remove_duplicate=False) if member is module]
    if len(paths) != 1:
        raise InputError(
            f"`model` {type(model).__name__} holds its {type(module).__name__} at {paths}, expected one place"
        )
    return paths[0]


def _logit_transform(model: PreTrainedModel) -> tuple[float | None, float]:
    """Softcap and multiplier between unembedding and logits; `probe` catches what this does not know."""
    text: Any = model.config.get_text_config(decoder=True)
    softcap = getattr(text, "final_logit_softcapping", None)
    if model.config.model_type == "gemma3":
        # Gemma3ForConditionalGeneration ignores the softcap in its text config; Gemma3ForCausalLM applies it.
        softcap = None
    multiplier = getattr(text, "logit_scale", None) or 1.0
    return softcap, multiplier / (getattr(text, "logits_scaling", None) or 1.0)


def _geometry(config: Any) -> dict[str, Any]:
    vision = getattr(config, "vision_config", None)
    geometry = {key: getattr(config, key) for key in _GEOMETRY if hasattr(config, key)}
    for key in _VISION_GEOMETRY:
        if hasattr(vision, key):
            geometry[f"vision_config.{key}"] = getattr(vision, key)
    return {key: _as_tuples(value) for key, value in geometry.items()}


def _as_tuples(value: Any) -> Any:
    """Lists as tuples: a config read from a file has lists where one built in memory has tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, (list, tuple)) else value


def _spatial_merge(config: Any) -> int:
    vision: Any = getattr(config, "vision_config", None)
    if hasattr(vision, "spatial_merge_size"):  # Qwen
        return vision.spatial_merge_size
    if hasattr(config, "downsample_ratio"):  # InternVL
        return round(1 / config.downsample_ratio)
    if hasattr(config, "scale_factor"):  # Idefics3, SmolVLM
        return config.scale_factor
    if hasattr(config, "mm_tokens_per_image"):  # Gemma 3
        return vision.image_size // vision.patch_size // isqrt(config.mm_tokens_per_image)
    return 1


def sharing(model: Any) -> Any:
    """A second module of the model's class over the same parameters and buffers, in eval mode.

    Built from the config and not copied: a copy would keep what nnsight has put on the modules.
    """
    with torch.device("meta"):
        twin = type(model)(deepcopy(model.config))
    for name, module in twin.named_modules():
        source = model.get_submodule(name)
        module._parameters.update(source._parameters)
        module._buffers.update(source._buffers)
    return twin.eval()


@contextmanager
def frozen(anatomy: Anatomy) -> Iterator[None]:
    """Meanwhile no weight of the model asks for a gradient."""
    trained = [parameter for parameter in anatomy.model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
