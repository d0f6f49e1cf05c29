"""Peak memory of tracing and of replay, predicted from two configs: no weights are loaded and nothing is computed.

1. Both models are built on the meta device; their weights are counted.
2. What runs most is run there by its own code and metered (``meters``): the first decoder layers, a block of the vision
   tower, one iteration of replay with its backward. All layers of a decoder are taken to be alike.
3. The lens allocates by its own rule (``lens.working_sizes``).

One prompt at a time with one image (Qwen-VL) or none. Allocators round up and fragment; that is not in it.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
import transformers
from torch import Tensor

from workbench.anatomy import Anatomy, dissect
from workbench.checkpoints import Placement, read_config
from workbench.conditions import Replay
from workbench.descent import Loss
from workbench.errors import InputError
from workbench.lens import STRETCH, working_sizes
from workbench.meters import metered
from workbench.pair_presets import ROLES
from workbench.pairs import named_pair
from workbench.readouts import Cells, Readout
from workbench.segments import Segment
from workbench.tracing import LayerCall

if TYPE_CHECKING:
    from rich.table import Table

QWEN_VL = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Families whose vision tower is in the forecast."""


@dataclass(frozen=True, eq=False, repr=False)
class MemoryForecast:
    """Bytes that are alive together when a job needs most."""

    parts: pd.DataFrame = field(repr=False)
    """Job, part, bytes."""
    shape: str
    """What prompt it is for, in words."""

    def peak(self, job: str) -> int:
        """Bytes of ``tracing`` or ``replay``."""
        return int(self.parts.loc[self.parts["job"] == job, "bytes"].sum())

    def __repr__(self) -> str:
        told = ", ".join(f"{job} {self.peak(job) / 1e9:.2f} GB" for job in self.parts["job"].unique())
        return f"MemoryForecast({self.shape}: {told})"

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of the parts."""
        return self.parts.copy()

    def _repr_html_(self) -> str:
        return f"<p>{self.shape}</p>{self.parts.to_html(index=False)}"

    def __rich__(self) -> "Table":
        from rich.table import Table

        table = Table("job", "part", "GB", title=f"memory at its peak, {self.shape}", title_justify="left")
        for job, rows in self.parts.groupby("job", sort=False):
            for part, size in zip(rows["part"], rows["bytes"], strict=True):
                table.add_row(str(job), part, f"{size / 1e9:.3f}")
            table.add_row(
                str(job), "in all", f"{self.peak(str(job)) / 1e9:.3f}", style="bold", end_section=True
            )
        return table


def on_meta(config: Any, dtype: torch.dtype | None = None, layers: int | None = None) -> Anatomy:
    """A model without weights, from its config alone."""
    config = deepcopy(config)
    text = config.get_text_config(decoder=True)
    text.num_hidden_layers = layers or text.num_hidden_layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    multimodal = type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    auto = transformers.AutoModelForImageTextToText if multimodal else transformers.AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(
            config, dtype=dtype or config.dtype or torch.float32, attn_implementation="sdpa"
        )
    return dissect(model.eval().requires_grad_(False))


def visual_grid(config: Any, size: tuple[int, int], budget: tuple[int, int] | None) -> tuple[int, int]:
    """Patches (rows, columns) that an image of (width, height) is cut into.

    Raises:
        InputError: the family is not Qwen-VL.
    """
    if config.model_type not in QWEN_VL:
        raise InputError(
            f"`image` {size}: how {config.model_type} cuts an image is not predicted; leave it out and give `tokens`, "
            f"or use one of {', '.join(QWEN_VL)}"
        )
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    vision = config.vision_config
    least, most = budget or (56 * 56, 28 * 28 * 1280)
    factor = vision.patch_size * vision.spatial_merge_size
    height, width = smart_resize(size[1], size[0], factor=factor, min_pixels=least, max_pixels=most)
    return height // vision.patch_size, width // vision.patch_size


def predict_memory(
    base: Any,
    rlvr: Any,
    *,
    image: tuple[int, int] | None = (1000, 1000),
    text: int = 300,
    tokens: int | None = None,
    before: int | None = None,
    budget: tuple[int, int] | None = None,
    replay: Replay | None = None,
    placement: Literal["together", "sequential"] = "together",
    dtype: torch.dtype | None = None,
    null_draws: int = 3,
    top_k: int = 10,
    device: str = "cuda",
) -> MemoryForecast:
    """Predict the peak memory of `trace` and `learn_tokens` for one prompt; the module's text tells how.

    Args:
        base: config of the base model (`transformers.AutoConfig.from_pretrained`).
        rlvr: config of the RLVR model.
        image: width and height of the picture in pixels, as it comes; None: no picture.
        text: tokens beside the picture.
        before: how many of them come before it; None: a third.
        tokens: length of the prompt; if it is more than picture and text, the text is longer.
        budget: least and most pixels, as `load_pair(image_pixels=...)`.
        replay: settings; None: the paper's. Its threshold picks cells that only the models know, so replay is predicted
            for all of them (or the quantile's share), the most it can need.
        placement: ``together``, or ``sequential`` as in `learn_problems`, where tracing is not possible.
        dtype: of the weights; None: as the configs say.
        null_draws: as in `trace`.
        top_k: as in `trace`.
        device: what the lens sizes its blocks for: ``"cpu"`` or ``"cuda"``.

    Raises:
        InputError: a prompt without tokens, an unknown placement, or an image for a family that is not Qwen-VL.
    """
    if placement not in ("together", "sequential"):
        raise InputError(f"`placement` is {placement!r}; expected 'together' or 'sequential'")
    replay = replay or Replay()
    patches = (0, 0) if image is None else visual_grid(rlvr, image, budget)
    merge = getattr(getattr(rlvr, "vision_config", None), "spatial_merge_size", 1)
    visual = math.prod(patches) // merge**2
    length = max(tokens or 0, visual + text)
    if length < 1:
        raise InputError("`text` and `tokens` are 0 and there is no `image`; give a prompt: text=300")
    models = {"base": on_meta(base, dtype), "rlvr": on_meta(rlvr, dtype)}
    layers = replay.loss_layers(models["rlvr"].depth)
    weights = {role: _weights(anatomy) for role, anatomy in models.items()}
    learner = models["rlvr"]
    tower, pixels = _tower(learner, patches)
    sizes = {
        "positions": length,
        "visual": visual,
        "before": (length - visual) // 3 if before is None else before,
        "pixels": pixels,
        "tower": tower,
    }
    rows: list[tuple[str, str, int]] = []
    if placement == "together":
        rows += [("tracing", *row) for row in _tracing(learner, weights, sizes, null_draws, top_k, device)]
    if visual:
        rows += [
            ("replay", *row)
            for row in _replay(models, weights, sizes, replay, layers, placement, base, dtype, device)
        ]
    shape = f"{length} tokens, {visual} of them of a picture, {learner.dtype}".replace("torch.", "")
    return MemoryForecast(pd.DataFrame(rows, columns=["job", "part", "bytes"]), f"{shape}, {placement}")


def forecast_pair(
    name: str | None = None,
    *,
    base: str | Path | None = None,
    rlvr: str | Path | None = None,
    dtype: str | None = None,
    **prompt: Any,
) -> MemoryForecast:
    """`predict_memory` for a pair by name, with its preset's settings, or for two hub ids or folders.

    Args:
        name: a preset, as in `load_pair`.
        base: hub id or folder, with a config at least.
        rlvr: likewise.
        dtype: such as ``"bfloat16"``; None: the preset's, else as stored.
        **prompt: other arguments of `predict_memory`.

    Raises:
        InputError: no such pair, no readable config, or what `predict_memory` refuses.
    """
    preset = None if name is None else named_pair(name, base, rlvr)
    sources = (base, rlvr) if preset is None else (preset.source("base"), preset.source("rlvr"))
    given = {role: source for role, source in zip(ROLES, sources, strict=True) if source is not None}
    if len(given) < len(ROLES):
        raise InputError(
            "`base` and `rlvr`, or a pair's `name`, are needed: forecast_pair('vl-rethinker-7b')"
        )
    revisions = {} if preset is None else preset.revision
    configs = [read_config(role, source, revision=revisions.get(role)) for role, source in given.items()]
    if preset is not None:
        dtype = dtype or preset.dtype
        prompt = {"budget": preset.image_pixels, "replay": Replay(**preset.replay), **prompt}
    kind = None if dtype is None else Placement(dtype=dtype).dtype
    return predict_memory(*configs, dtype=kind if isinstance(kind, torch.dtype) else None, **prompt)


def _weights(anatomy: Anatomy) -> int:
    tensors = [*anatomy.model.parameters(), *anatomy.model.buffers()]  # a tied one comes once
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tracing(
    anatomy: Anatomy, weights: dict[str, int], sizes: dict[str, int], draws: int, top_k: int, device: str
) -> list[tuple[str, int]]:
    n, width = sizes["positions"], anatomy.hidden_size
    kept = anatomy.depth * n * width * anatomy.dtype.itemsize
    pass_ = _pass(anatomy, n)
    # Null residuals are there twice while they are joined, and once more normed; base and RLVR model normed, too.
    nulls = 3 * draws * n * width * 4 + 2 * n * width * 4
    lens = nulls + _lens(anatomy, n, 2 + draws, top_k, device)
    return [
        ("weights, base", weights["base"]),
        ("weights, RLVR", weights["rlvr"]),
        ("residuals of the base, every layer", kept),
        ("pixels", sizes["pixels"]),
        *(
            [("a decoder layer's forward", pass_), ("lens and null", lens)]
            if pass_ + lens >= sizes["tower"]
            else [("vision tower", sizes["tower"])]
        ),
    ]


def _replay(
    models: dict[str, Anatomy],
    weights: dict[str, int],
    sizes: dict[str, int],
    replay: Replay,
    layers: Sequence[int],
    placement: str,
    base: Any,
    dtype: torch.dtype | None,
    device: str,
) -> list[tuple[str, int]]:
    learner = models["rlvr"]
    seen = sizes["before"] + sizes["visual"]  # the prompt ends with its last visual token
    step = min(2, len(layers))
    # Two layers metered tell what every further one adds.
    few = [_iteration(learner, replay, sizes, layers[:count]) for count in range(1, step + 1)]
    grown = {name: few[-1][name] - few[0][name] for name in few[0]}
    found = {name: few[-1][name] + grown[name] * (len(layers) - step) for name in few[0]}
    calls = 2 * len(layers) * seen * learner.hidden_size * learner.dtype.itemsize
    learning = [
        ("what the layers were called with", calls),
        ("KV of what is before the picture", found["prefix"]),
        ("targets", found["targets"]),
        ("kept for the backward, and the backward", found["graph"]),
    ]
    aiming = [
        (
            "residuals of the base",
            len(layers) * sizes["visual"] * learner.hidden_size * learner.dtype.itemsize,
        ),
        ("lens", _lens(learner, sizes["visual"], 1, replay.top_v or 1, device)),
    ]
    prefill = [("what the layers were called with", calls), ("vision tower", sizes["tower"])]
    held = {"weights, base": weights["base"], "weights, RLVR": weights["rlvr"]}
    alone = {"weights, base, first layers": _weights(on_meta(base, dtype, len(layers)))}
    together = placement == "together"
    phases = [
        [*(held if together else alone).items(), *aiming],
        [*(held if together else alone).items(), ("vision tower", sizes["tower"])],
        [*(held if together else {"weights, RLVR": weights["rlvr"]}).items(), *prefill],
        [*(held if together else {"weights, RLVR": weights["rlvr"]}).items(), *learning],
    ]
    most = max(phases, key=lambda rows: sum(size for _, size in rows))
    return [*most, ("pixels", sizes["pixels"])]


def _lens(anatomy: Anatomy, positions: int, distributions: int, top_k: int, device: str) -> int:
    """What the lens makes beside the normed residuals."""
    block, strip = working_sizes(positions, distributions, anatomy.vocab_size, device)
    buffers = (positions + 3 * strip) * distributions * block * 4
    # Fewer stretches than top predictions: every logit is a candidate, with its float and some ten indices.
    few = anatomy.vocab_size < STRETCH * top_k
    return buffers + (min(distributions, 2) * positions * anatomy.vocab_size * 88 if few else 0)


def _pass(anatomy: Anatomy, positions: int) -> int:
    """What one decoder layer makes on its way, the stream that enters it included."""
    with metered() as meter, torch.no_grad():
        hidden = torch.empty(1, positions, anatomy.hidden_size, dtype=anatomy.dtype, device="meta")
        calls = _calls(anatomy, hidden, 1)
        anatomy.layers[0](calls[0].hidden, **calls[0].arguments)
    return meter.peak


def _calls(anatomy: Anatomy, hidden: Tensor, layers: int) -> list[LayerCall]:
    """How a decoder calls its first layers."""
    calls: list[LayerCall] = []

    class _Enough(Exception):
        pass

    def keep(_: Any, args: Any, kwargs: Any) -> None:
        kwargs = dict(kwargs)
        received = args[0] if args else kwargs.pop("hidden_states")
        calls.append(LayerCall(torch.empty_like(received), kwargs, torch.empty_like(received)))
        if len(calls) == layers:
            raise _Enough

    handles = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in anatomy.layers[:layers]]
    try:
        with metered():  # for the sake of decoders that ask for values
            anatomy.decoder(inputs_embeds=hidden, use_cache=False)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _iteration(
    anatomy: Anatomy, replay: Replay, sizes: dict[str, int], layers: Sequence[int]
) -> dict[str, int]:
    """One iteration of replay over some layers: bytes of the prefix, the targets, and graph with backward."""
    visual, before = sizes["visual"], sizes["before"]
    chosen = (
        math.ceil(replay.tau * visual)
        if replay.threshold == "quantile" and replay.select == "low"
        else visual
    )
    meta: dict[str, Any] = {"device": "meta"}
    with torch.no_grad():
        hidden = torch.empty(1, before + visual, anatomy.hidden_size, dtype=anatomy.dtype, **meta)
        calls = _calls(anatomy, hidden, layers[-1] + 1)
    places = torch.empty(visual, dtype=torch.long, **meta)
    cells = Cells(places, places, places, [visual])
    with metered() as prefix:
        segment = Segment(anatomy, calls, 0, layers[-1] + 1, before)
    dtype = torch.float64 if anatomy.dtype == torch.float64 else torch.float32
    some = torch.empty(chosen, dtype=torch.long, **meta)
    with metered() as targets:
        readouts = {}
        for layer in layers:
            ids = (
                None if replay.top_v is None else torch.empty(chosen, replay.top_v, dtype=torch.long, **meta)
            )
            log_p = torch.empty(chosen, replay.top_v or anatomy.vocab_size, dtype=dtype, **meta)
            readouts[layer] = Readout(anatomy, some, some, log_p[:, 0], ids, log_p, 1)
    loss = Loss(segment, readouts, cells, after=True)
    with metered() as graph, torch.enable_grad():
        x = torch.zeros(visual, anatomy.hidden_size, dtype=dtype, **meta).requires_grad_(True)
        torch.autograd.grad(loss(x).sum(), x)
    return {"prefix": prefix.live, "targets": targets.live, "graph": graph.peak}


def _tower(anatomy: Anatomy, patches: tuple[int, int]) -> tuple[int, int]:
    """What the vision tower makes at its peak on one image, and the pixels that it is given."""
    count = math.prod(patches)
    if not count:
        return 0, 0
    tower: Any = anatomy.model.base_model.visual
    vision, config = tower.config, anatomy.model.config.vision_config
    channels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    pixels = torch.empty(count, channels, dtype=anatomy.dtype, device="meta")
    head = getattr(vision, "embed_dim", vision.hidden_size) // vision.num_heads
    with metered() as meter, torch.no_grad():
        hidden = tower.patch_embed(pixels)
        turn = torch.empty(count, head, dtype=torch.float32, device="meta")
        lengths = torch.tensor([0, count], dtype=torch.int32)
        hidden = tower.blocks[0](hidden, cu_seqlens=lengths, position_embeddings=(turn, turn))
        tower.merger(hidden)
    # The prompt holds the pixels in float32; a model of another precision gets a copy.
    given = count * channels * (4 if anatomy.dtype == torch.float32 else 4 + anatomy.dtype.itemsize)
    return meter.peak, given
