"""Quantities of a cell beside its lens entropy, and the table of cells that holds them and what shifts there.

A cell is one (layer, position). All quantities are the base model's or the picture's, so that RLVR has no part in them:

* ``entropy_base``        entropy of the lens distribution, nats;
* ``entropy_translated``  the same through fitted translators (``tracing.tuned_lens``);
* ``base_norm``           Euclidean norm of the residual stream;
* ``attention``           mean attention from later positions (``attention``), in the layer that makes the residual;
* ``row``, ``column``, ``distance``  place in the picture, and distance from its centre (0: centre, 1: corner);
* ``object``              1 where the picture shows a shape, 0 on background (`shapes`, whose boards are known);
* ``position``            place in the prompt.

What shifts: ``kl`` (KL(base || RLVR), nats) and ``ratio`` (over the matched-noise KL), as in ``shift``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.errors import InputError
from workbench.estimates import Array, divide
from workbench.lens.fused import summarise
from workbench.models.identity import recorded_weights
from workbench.models.pairs import ModelPair, batch_of, weights_of
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem, listed
from workbench.tracing.attention import attention_received
from workbench.tracing.conversations import Responses, with_responses
from workbench.tracing.lens_trace import LensTrace
from workbench.tracing.model_heads import lens_head
from workbench.tracing.readings import same_reading
from workbench.tracing.same_prompts import check_same_models, check_same_prompts, weights_in
from workbench.tracing.trace import trace
from workbench.tracing.tuned_lens import Translators, read_all

_CALL = "cell_table(pair, load_problems('shapes', limit=64))"
_FROM_TRACE = ("entropy_base", "base_norm", "kl", "top1_agreement", "cosine")


def centre_distance(
    grid: Int[Tensor, "positions 3"], sizes: Int[Tensor, "positions 2"]
) -> Float[Tensor, " positions"]:
    """Distance of each cell (t, row, column) from the centre of its view of (rows, columns); 1 at a corner.

    NaN where there is no cell (-1), 0 in a view of a single one.
    """
    reach = (sizes - 1).float() / 2
    offset = (grid[:, 1:].float() - reach) / reach.clamp(min=0.5)
    return (offset.square().sum(1) / 2).sqrt().where(grid[:, 1] >= 0, torch.nan)


def on_object(
    grid: Int[Tensor, "positions 3"],
    sizes: Int[Tensor, "positions 2"],
    occupied: Bool[Tensor, "*moments rows columns"],
) -> Float[Tensor, " positions"]:
    """1 where a visual token lies on a board's occupied cell, 0 on an empty one, NaN where it lies on none.

    A view finer or coarser than the board: the board's cell under the centre of the token. Videos have a board a moment.
    """
    boards = occupied.reshape(-1, *occupied.shape[-2:])
    board = torch.tensor(boards.shape[1:])
    place = ((grid[:, 1:] + 0.5) / sizes.clamp(min=1) * board).long().clamp(min=0)
    place = torch.minimum(place, board - 1)
    moment = grid[:, 0].long().clamp(0, len(boards) - 1)
    return boards[moment, place[:, 0], place[:, 1]].float().where(grid[:, 1] >= 0, torch.nan)


def cell_table(
    pair: ModelPair,
    problems: Sequence[Problem],
    *,
    translators: Translators | None = None,
    traced: LensTrace | None = None,
    responses: Responses | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """One row a cell: where it is, what the base model and the picture are like there, and what shifts.

    The quantities are ``entropy_base`` and ``entropy_translated`` (nats), ``base_norm``, ``attention`` received from later
    positions, ``row``, ``column`` and ``distance`` in the picture, ``object`` (1 on a shape, 0 on background), and ``position``
    in the prompt.

    Columns: problem, layer, last_layer (whether it is the decoder's last), kind, position; the quantities, NaN where they
    are not defined (``position`` is defined everywhere); kl, kl_null, ratio, entropy_change, top1_agreement, cosine. The last
    position of a prompt, which nothing looks at later, is left out.

    Args:
        pair: what `load_pair` returned.
        problems: what to look at.
        translators: of the pair's base model; without them there is no ``entropy_translated``.
        traced: a trace of the same problems (and responses) by the same pair, if there is one.
        responses: to the problems, as in `trace`.
        batch_size: prompts per forward; changes speed and memory, results only by rounding. None: what suits the pair.
        seed: of the matched noise.
        progress: called with (what, prompts done, prompts in all).

    Raises:
        InputError: no problems, translators of another model, a trace of other problems or without matched noise.
    """
    batch_size = batch_of(pair, batch_size)
    problems = listed(problems, _CALL)
    spread = with_responses(pair, problems, responses)
    prompts, of_each = [prompt for _, prompt in spread], [problems[number] for number, _ in spread]
    _check_cells(pair, of_each, translators)
    if traced is not None:
        _check_traced(pair, prompts, traced)
    report = progress or (lambda what, done, total: None)
    if traced is None:
        tell = partial(report, "tracing")
        traced = trace(pair, prompts, top_k=1, batch_size=batch_size, seed=seed, progress=tell)
    here = [*traced.layers]
    report("attention", 0, len(prompts))
    attention = attention_received(pair.base, prompts, pair.pad_id, batch_size=batch_size)[here]
    report("attention", len(prompts), len(prompts))
    layered = {name: getattr(traced, name).double() for name in _FROM_TRACE}
    layered["kl_null"] = traced.kl_null.double().mean(0)
    layered["entropy_change"] = traced.entropy_rlvr.double() - layered["entropy_base"]
    layered["attention"] = attention.double()
    if translators is not None:
        layered["entropy_translated"] = _translated_entropy(pair, prompts, translators, batch_size)[
            here
        ].double()
    return _table(traced, layered, _places(traced, of_each))


def _translated_entropy(
    pair: ModelPair, prompts: Sequence[EncodedPrompt], translators: Translators, batch_size: int
) -> Float[Tensor, "layers positions"]:
    head = lens_head(pair.base, pair.vocab_size)

    def entropy(layer: int, hidden: Tensor) -> Tensor:
        return summarise(translators.translate(layer, hidden), head, top_k=1).entropy.cpu()

    return read_all(pair.base, prompts, pair.pad_id, batch_size=batch_size, reduce=entropy)


def _places(traced: LensTrace, problems: Sequence[Problem]) -> dict[str, Array]:
    """Row, column, distance and object of every position; NaN where there is none."""
    sizes = torch.zeros(len(traced.prompt), 2, dtype=torch.int64)
    objects = torch.full((len(traced.prompt),), torch.nan)
    for number, (info, problem) in enumerate(zip(traced.prompts, problems, strict=True)):
        mine = traced.prompt == number
        views = torch.tensor([*(grid[1:] for grid in info.grids), (1, 1)])
        sizes[mine] = views[traced.visual_index[mine].long()]  # -1 reads the last entry
        if "occupied" in problem.metadata:
            occupied = torch.tensor(problem.metadata["occupied"])
            objects[mine] = on_object(traced.grid[mine], sizes[mine], occupied)
    row, column = (
        traced.grid[:, axis].double().where(traced.grid[:, axis] >= 0, torch.nan) for axis in (1, 2)
    )
    columns = {
        "row": row,
        "column": column,
        "distance": centre_distance(traced.grid, sizes),
        "object": objects,
    }
    return {name: value.double().numpy() for name, value in columns.items()}


def _table(traced: LensTrace, layered: Mapping[str, Tensor], places: Mapping[str, Array]) -> pd.DataFrame:
    layers, positions = len(traced.layers), len(traced.prompt)
    ids = np.array([info.problem_id for info in traced.prompts])[traced.prompt.numpy()]
    kinds = np.array([kind.name.lower() for kind in TokenKind])[traced.kind.numpy()]
    layer = np.repeat(np.array(traced.layers), positions)
    table = pd.DataFrame(
        {"problem": np.tile(ids, layers), "layer": layer, "last_layer": layer == traced.depth - 1}
        | {"kind": np.tile(kinds, layers), "position": np.tile(traced.position.numpy(), layers)}
        | {name: value.flatten().numpy() for name, value in layered.items()}
        | {name: np.tile(value, layers) for name, value in places.items()}
    )
    table["ratio"] = divide(table["kl"], table["kl_null"])
    return table.loc[table["attention"].notna()].reset_index(drop=True)


def _check_cells(pair: ModelPair, problems: Sequence[Problem], translators: Translators | None) -> None:
    if translators is not None:
        size, base = (pair.base.depth, pair.base.hidden_size), pair.provenance["base"]["weights"]
        # Under whichever name: translators of an RLVR model are recorded under its.
        fitted = {recorded_weights(translators.provenance, model) for model in ("base", "rlvr")} - {None}
        if translators.bias.shape != size or fitted - {base}:
            raise InputError(
                f"`translators` {translators!r} were fitted on another model than the base of {pair.name!r}; fit them anew: "
                "fit_translators(pair, train, validation)"
            )
        provenance = translators.provenance
        overlap = {*provenance.get("train", ()), *provenance.get("validation", ())} & {
            problem.id for problem in problems
        }
        if overlap:
            raise InputError(
                f"`translators` were fitted on {min(overlap)!r}, which is among `problems`; measure others: {_CALL}"
            )


def _check_traced(pair: ModelPair, prompts: Sequence[EncodedPrompt], traced: LensTrace) -> None:
    call = f"leave it out, {_CALL}"
    same_reading(None, pair, traced.provenance, "cell_table(pair, problems, traced=trace(pair, problems)")
    check_same_prompts("`traced`", traced, prompts, call)
    check_same_models("`traced`", weights_in(traced), weights_of(pair), call)
    if not len(traced.kl_null):
        raise InputError("`traced` has no matched noise; trace with null_draws=3, or leave it out")
