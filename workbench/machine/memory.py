"""Peak memory of tracing, replay and decoding, predicted from two configs: no weights are loaded and nothing is computed.

1. Both models are built on the meta device; their weights are counted.
2. What runs most is run there by its own code and metered (``machine.meter``): the first decoder layers, a block of the vision
   tower, one iteration of replay with its backward. All layers of a decoder are taken to be alike.
3. The lens allocates by its own rule (``lens.blocks.working_sizes``).

One prompt at a time with one image or none, no video. The vision tower is in it for Qwen-VL only. Allocators round up and
fragment, and Python's garbage collector comes late; that is not in it.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import torch
import transformers
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.lens.blocks import STRETCH, working_sizes
from workbench.machine.decoding_memory import decoding_rows
from workbench.machine.meter import metered
from workbench.machine.prompt_sizes import prompt_size
from workbench.models.anatomy import Anatomy, dissect
from workbench.models.batches import Cells
from workbench.replay.loss import Loss, Readout
from workbench.replay.products import portioned_for
from workbench.replay.segment import Segment
from workbench.tracing.residuals import LayerCall
from workbench.views.markup import paragraph

if TYPE_CHECKING:
    from rich.table import Table

_IDS = 24
"""Bytes of each position's token id, kind and mask."""


@dataclass(frozen=True, eq=False, repr=False)
class MemoryForecast:
    """Bytes that are alive together when a job needs most."""

    parts: pd.DataFrame = field(repr=False)
    """Job, part, bytes."""
    shape: str
    """What prompt it is for, in words."""
    notes: tuple[str, ...] = ()
    """What was taken for granted, in words."""

    def peak(self, job: str) -> int:
        """Bytes of ``tracing`` or ``replay``."""
        return int(self.parts.loc[self.parts["job"] == job, "bytes"].sum())

    def __repr__(self) -> str:
        peaks = ", ".join(f"{job} {self.peak(job) / 1e9:.2f} GB" for job in self.parts["job"].unique())
        return f"MemoryForecast({self.shape}: {peaks})"

    def to_dataframe(self) -> pd.DataFrame:
        """A copy of the parts."""
        return self.parts.copy()

    def _repr_html_(self) -> str:
        lines = "".join(map(paragraph, (self.shape, *self.notes)))
        return f"{lines}{self.parts.to_html(index=False)}"

    def __rich__(self) -> "Table":
        from rich.markup import escape as markup
        from rich.table import Table

        table = Table("job", "part", "GB", title=f"memory at its peak, {self.shape}", title_justify="left")
        table.caption, table.caption_justify = "\n".join(map(markup, self.notes)), "left"
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


def predict_memory(
    base: Any,
    rlvr: Any,
    *,
    image: tuple[int, int] | Literal["auto"] | None = "auto",
    text: int | None = None,
    tokens: int | None = None,
    before: int | None = None,
    budget: tuple[int, int] | None = None,
    replay: Replay | None = None,
    placement: Literal["together", "sequential"] = "together",
    dtype: torch.dtype | None = None,
    null_draws: int = 3,
    top_k: int = 10,
    device: str | None = None,
    samples: int | None = None,
    max_new_tokens: int = 1024,
) -> MemoryForecast:
    """Predict the peak memory of `trace`, `learn_tokens` and, where asked, `decode` for one prompt, from two configs.

    Both models are built on the meta device and their weights counted; what runs most (the first decoder layers, a block of the
    vision tower, an iteration of replay with its backward) is run there by its own code and metered. No weights are
    loaded.

    Args:
        base: config of the base model (`transformers.AutoConfig.from_pretrained`).
        rlvr: config of the RLVR model.
        image: width and height of the picture in pixels, as it comes; None: no picture; ``"auto"``: 1000 x 1000 where the
            family's pictures can be sized (Qwen-VL). Of other families that see, `tokens` beside `text` are the picture's.
        text: tokens beside the picture; None: what `tokens` leaves, else 300.
        tokens: length of the prompt; None: picture and text.
        before: how many tokens of the text come before the picture; None: a third.
        budget: least and most pixels, as `load_pair(image_pixels=...)`; None: what transformers takes unless configured.
        replay: settings; None: the paper's, at text where there is no picture. Its threshold picks cells that only the models
            know, so replay is predicted for all of them (or the quantile's share), the most it can need.
        placement: ``together``, or ``sequential`` as in `learn_problems`, where tracing is not possible.
        dtype: of the weights; None: as the configs say.
        null_draws: as in `trace`.
        top_k: as in `trace`.
        device: what lens and replay portion their work for, such as ``"cpu"`` or ``"cuda"``, which need not be here; None:
            what `load_pair` would take here.
        samples: responses drawn at once, for one model that decodes and for two that decode together, each of which keeps keys
            and values of its own; None: no forecast of decoding. Not with ``sequential``.
        max_new_tokens: how long each of them is.

    Raises:
        InputError: a prompt without tokens, or of another length than its parts; an image that can't be sized; an unknown
            placement or device.
    """
    if placement not in ("together", "sequential"):
        raise InputError(f"`placement` is {placement!r}; expected 'together' or 'sequential'")
    kind = _kind(device)
    size = prompt_size(rlvr, image=image, text=text, tokens=tokens, before=before, budget=budget)
    replay = replay or Replay(positions="visual" if size.visual else "text")
    models = {"base": on_meta(base, dtype), "rlvr": on_meta(rlvr, dtype)}
    layers = replay.loss_layers(models["rlvr"].depth)
    weights = {role: _weights(anatomy) for role, anatomy in models.items()}
    learner = models["rlvr"]
    tower, pixels = _tower(learner, size.patches)
    sizes = {
        "positions": size.positions,
        "visual": size.visual,
        "before": size.before,
        "given": pixels + _IDS * size.positions,
        "tower": tower,
    }
    rows: list[tuple[str, str, int]] = []
    if placement == "together":
        rows += [("tracing", *row) for row in _tracing(learner, weights, sizes, null_draws, top_k, kind)]
    if replay.positions != "visual":  # at most the whole prompt, and nothing before it
        sizes |= {"visual": size.positions, "before": 0}
    if sizes["visual"]:
        with portioned_for(kind):
            of_replay = _replay(models, weights, sizes, replay, layers, placement, base, dtype, kind)
        rows += [("replay", *row) for row in of_replay]
    if samples is not None and placement == "together":
        rows += decoding_rows(models, weights, sizes["given"], size.positions, samples, max_new_tokens)
    shape = f"{size.positions} tokens, {size.visual} of them of a picture, {learner.dtype}, {placement}, on {kind}"
    parts = pd.DataFrame(rows, columns=["job", "part", "bytes"])
    return MemoryForecast(parts, shape.replace("torch.", ""), (size.told,))


def _kind(device: str | None) -> str:
    """``"cpu"`` or ``"cuda"``."""
    if device in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return "cpu" if torch.device(device).type == "cpu" else "cuda"
    except RuntimeError as error:
        raise InputError(f'`device` is {device!r}; expected one of torch\'s: device="cuda"') from error


def _weights(anatomy: Anatomy) -> int:
    tensors = [*anatomy.model.parameters(), *anatomy.model.buffers()]  # a tied one comes once
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _tracing(
    anatomy: Anatomy, weights: dict[str, int], sizes: dict[str, int], draws: int, top_k: int, device: str
) -> list[tuple[str, int]]:
    n, width = sizes["positions"], anatomy.hidden_size
    residuals = anatomy.depth * n * width * anatomy.dtype.itemsize
    pass_ = _pass(anatomy, n)
    # Null residuals are there twice while they are joined, and once more normed; base and RLVR model normed, too.
    nulls = 3 * draws * n * width * 4 + 2 * n * width * 4
    lens = nulls + _lens(anatomy, n, 2 + draws, top_k, device)
    return [
        ("weights, base", weights["base"]),
        ("weights, RLVR", weights["rlvr"]),
        ("residuals of the base, every layer", residuals),
        ("pixels and ids", sizes["given"]),
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
    positions = sizes["before"] + sizes["visual"]  # the prompt ends with its last visual token
    step = min(2, len(layers))
    # Two layers metered tell what every further one adds.
    few = [_iteration(learner, replay, sizes, layers[:count]) for count in range(1, step + 1)]
    grown = {name: few[-1][name] - few[0][name] for name in few[0]}
    sizes_of = {name: few[-1][name] + grown[name] * (len(layers) - step) for name in few[0]}
    calls = 2 * len(layers) * positions * learner.hidden_size * learner.dtype.itemsize
    learning = [
        ("what the layers were called with", calls),
        ("KV of what is before the picture, and the mask", sizes_of["prefix"]),
        ("targets", sizes_of["targets"]),
        ("kept for the backward, and the backward", sizes_of["graph"]),
    ]
    aiming = [
        (
            "residuals of the base",
            len(layers) * sizes["visual"] * learner.hidden_size * learner.dtype.itemsize,
        ),
        ("targets, all layers but one", (len(layers) - 1) * _target(learner, sizes["visual"], replay)),
        ("lens", _lens(learner, sizes["visual"], 1, replay.top_v or 1, device)),
    ]
    prefill = [("what the layers were called with", calls), ("vision tower", sizes["tower"])]
    both_weights = {"weights, base": weights["base"], "weights, RLVR": weights["rlvr"]}
    alone = {"weights, base, first layers": _weights(on_meta(base, dtype, len(layers)))}
    together = placement == "together"
    phases = [
        [*(both_weights if together else alone).items(), *aiming],
        [*(both_weights if together else alone).items(), ("vision tower", sizes["tower"])],
        [*(both_weights if together else {"weights, RLVR": weights["rlvr"]}).items(), *prefill],
        [*(both_weights if together else {"weights, RLVR": weights["rlvr"]}).items(), *learning],
    ]
    most = max(phases, key=lambda rows: sum(size for _, size in rows))
    return [*most, ("pixels and ids", sizes["given"])]


def _lens(anatomy: Anatomy, positions: int, distributions: int, top_k: int, device: str) -> int:
    """What the lens makes beside the normed residuals."""
    block, strip = working_sizes(positions, distributions, anatomy.vocab_size, device)
    buffers = (positions + 3 * strip) * distributions * block * 4
    # A block of fewer stretches than top predictions: every logit of it is a candidate, with its float and some ten
    # indices. Else the logits of so many stretches are looked through, and some twice as many as are kept are candidates.
    looked = STRETCH * top_k
    each = 88 * block + 24 * top_k if block < looked else 5 * looked + 88 * 2 * top_k
    return buffers + min(distributions, 2) * positions * each


def _target(anatomy: Anatomy, cells: int, replay: Replay) -> int:
    """What the teacher predicts at the cells of one layer."""
    width = 8 if anatomy.dtype == torch.float64 else 4
    return cells * (anatomy.vocab_size * width if replay.top_v is None else replay.top_v * (8 + width))


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
    count = (
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
    some = torch.empty(count, dtype=torch.long, **meta)
    with metered() as targets:
        readouts = {}
        for layer in layers:
            ids = None if replay.top_v is None else torch.empty(count, replay.top_v, dtype=torch.long, **meta)
            log_p = torch.empty(count, replay.top_v or anatomy.vocab_size, dtype=dtype, **meta)
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
    input_bytes = count * channels * (4 if anatomy.dtype == torch.float32 else 4 + anatomy.dtype.itemsize)
    return meter.peak, input_bytes
