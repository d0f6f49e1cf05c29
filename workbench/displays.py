"""What results show of themselves in Jupyter: an overview of each, put together from the pieces in ``markup``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pandas as pd

from workbench.problems.images import data_uri
from workbench.views import markup
from workbench.views.tables import visible

if TYPE_CHECKING:
    from torch import Tensor

    from workbench.decoding.decode import Response
    from workbench.models.pairs import ModelPair
    from workbench.models.prompts import EncodedPrompt
    from workbench.replay.adapters import Adapter
    from workbench.replay.patching import PreparedPatch
    from workbench.replay.replay import LearnedTokens
    from workbench.tracing.lens_trace import LensTrace

VIEWS, TOKENS = 8, 400
"""Pictures and tokens of a prompt that are shown; of further ones the number."""


def pair_html(pair: "ModelPair") -> str:
    """What was loaded: both models, one a column."""
    described = {
        role: found if isinstance(found := pair.provenance.get(role), Mapping) else {"id": found or "–"}
        for role in ("base", "rlvr")
    }
    keys = dict.fromkeys(
        key
        for found in described.values()
        for key, value in found.items()
        if key != "family" and value is not None
    )
    rows = [
        {"": key.replace("_", " ")} | {r: _text(f.get(key)) for r, f in described.items()} for key in keys
    ]
    together = {
        "family": pair.base.family,
        "size": f"{pair.depth} layers, hidden {pair.base.hidden_size}, vocabulary {pair.vocab_size:,}",
        "checkpoint": pair.provenance.get("checkpoint"),
        "processor": type(pair.processor).__name__ if pair.processor is not None else "none",
    }
    told = {name: value for name, value in together.items() if value is not None}
    return (
        markup.paragraph(f"Pair {pair.name}", strong=True)
        + markup.facts(told)
        + markup.table(pd.DataFrame(rows))
    )


def prompt_html(prompt: "EncodedPrompt", kinds: Sequence[str]) -> str:
    """Every picture under its grid of visual tokens, and every token in the colour of its kind."""
    counts = {kind: list(kinds).count(kind) for kind in dict.fromkeys(kinds)}
    legend = " ".join(markup.chip(f"{count:,} {kind}", kind) for kind, count in counts.items())
    views = {}
    for view, ((frames, rows, columns), image) in enumerate(zip(prompt.grids, prompt.images, strict=False)):
        if view < VIEWS:
            caption = f"picture {view + 1}: {rows} × {columns} tokens" + f", {frames} frames" * (frames > 1)
            views[caption] = markup.picture(data_uri(image, side=224), image.size, (rows, columns))
    left = (
        f"{len(prompt.grids) - len(views)} pictures are not shown" if len(views) < len(prompt.grids) else ""
    )
    return (
        markup.paragraph(f"{prompt.problem_id}: {len(prompt):,} positions")
        + f"<p>{legend}</p>"
        + (markup.side_by_side(views) if views else "")
        + (markup.paragraph(left) if left else "")
        + f'<div style="line-height:1.7">{"".join(_chips(prompt, kinds))}</div>'
    )


def _chips(prompt: "EncodedPrompt", kinds: Sequence[str]) -> list[str]:
    """A chip a token, but one for all visual tokens in a row that belong to one picture."""
    made: list[str] = []
    views, position = prompt.visual_index.tolist(), 0
    while position < len(kinds) and len(made) < TOKENS:
        end = position + 1
        if kinds[position] == "visual":
            while end < len(kinds) and kinds[end] == "visual" and views[end] == views[position]:
                end += 1
        text = visible(prompt.tokens[position])
        if end - position > 1:
            text, place = f"▦ {end - position:,} × {text}", f"positions {position} to {end - 1}"
            text += f", picture {views[position] + 1}"
        else:
            place = f"position {position}"
        made.append(markup.chip(text, kinds[position], f"{place}, {kinds[position]}"))
        position = end
    if position < len(kinds):
        made.append(f" … and {len(kinds) - position:,} more positions")
    return made


def trace_html(trace: "LensTrace", kinds: "Mapping[str, Tensor]") -> str:
    """How many cells there are, and by layer and token kind how uncertain the base is and how far the two are apart."""
    columns: dict[Any, Any] = {("", "layer"): [*trace.layers]}
    for kind, here in kinds.items():
        if not here.any():
            continue
        head = f"{kind}: {int(here.sum()):,} positions"
        kl, null = trace.kl[:, here].double().mean(1), trace.kl_null[:, :, here].double().mean((0, 2))
        columns[head, "entropy"] = trace.entropy_base[:, here].mean(1).tolist()
        columns[head, "KL"] = kl.tolist()
        if len(trace.kl_null):
            columns[head, "× noise"] = (kl / null).tolist()
        columns[head, "agree"] = trace.top1_agreement[:, here].float().mean(1).tolist()
    return (
        markup.paragraph(repr(trace))
        + markup.table(pd.DataFrame({name: pd.Series(values) for name, values in columns.items()}))
        + markup.paragraph(
            "Means over positions. Entropy of the base's lens and KL(base‖RLVR) in nats; × noise: KL as a multiple of that "
            "of random changes of the same norm; agree: share of positions with the same top token."
        )
    )


def learned_html(learned: "LearnedTokens") -> str:
    """The loss, the length of x over the picture, and how much of each layer the loss covered."""
    losses, how = learned.losses.tolist(), learned.replay
    parts = {}
    if losses:
        caption = f"loss, nats: {markup.shown(losses[0])} → {markup.shown(losses[-1])}"
        parts[caption] = markup.curve(losses, name=caption)
    norms = learned.tokens.norm(dim=1)
    caption = f"‖x‖ over the picture, up to {markup.shown(float(norms.max()))}"
    grids = _grids(norms.tolist(), learned.grid.tolist())
    for number, grid in enumerate(grids[:VIEWS]):
        name = caption if number == 0 else f"‖x‖, grid {number + 1}"
        parts[name] = markup.cells(grid, name=name)
    shares = learned.mask[:, learned.visual].float().mean(1).tolist()
    caption = "visual cells in the loss, by layer"
    parts[caption] = markup.columns(dict(zip(learned.loss_layers, shares, strict=True)), name=caption)
    return (
        markup.paragraph(repr(learned), strong=True)
        + markup.side_by_side(parts)
        + markup.paragraph(f"Replay: {_settings(asdict(how))}")
    )


def adapter_html(adapter: "Adapter") -> str:
    """Its sizes, and the validation loss by epoch of the rate that was kept."""
    curves, rate = adapter.training.get("curves", []), adapter.training.get("rate")
    losses = [row["validation"] for row in curves if row["rate"] == rate]
    parts = {}
    if losses:
        caption = f"validation loss, nats: {markup.shown(losses[0])} → {markup.shown(min(losses))}"
        parts[caption] = markup.curve(losses, name=caption)
    return (
        markup.paragraph(repr(adapter), strong=True)
        + markup.side_by_side(parts)
        + markup.paragraph(f"Replay: {_settings(asdict(adapter.replay))}")
    )


def _grids(values: Sequence[float], places: Sequence[Sequence[int]]) -> list[list[list[float]]]:
    """Values at (t, row, column) as grids; every frame and every further picture begins a new one."""
    found: list[list[list[float]]] = []
    before = None
    for value, (t, row, column) in zip(values, places, strict=True):
        if t < 0:
            continue
        if before is None or t != before[0] or (row, column) <= before[1:]:
            found.append([])
        grid = found[-1]
        grid += [[] for _ in range(row + 1 - len(grid))]
        grid[row] += [float("nan")] * (column + 1 - len(grid[row]))
        grid[row][column] = value
        before = (t, row, column)
    return found


def patch_html(prepared: "PreparedPatch") -> str:
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
    )
    return (
        markup.paragraph(title, strong=True)
        + markup.side_by_side(parts)
        + markup.paragraph(f"Patch: {_settings(asdict(prepared.patch))}")
    )


def response_html(response: "Response") -> str:
    """The text of a response and how it ended."""
    ended = "finished" if response.finished else "cut off"
    told = f"{response.problem_id}, sample {response.sample}: {response.tokens:,} tokens, {ended}"
    return markup.paragraph(told) + markup.paragraph(response.text)


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value!r}" for name, value in values.items() if value is not None and value is not False
    )


def _text(value: Any) -> str:
    text = "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return text if len(text) <= 40 else f"…{text[-38:]}"  # of a long path its end
