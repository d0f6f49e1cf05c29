"""Reads and writes residual streams through nnsight; no other module knows nnsight.

1. Wrap the whole model once per anatomy (some 35 microseconds a module; nnsight leaves a forward controller
   on every module, which is inert outside a trace, and no PyTorch hook).
2. Run one forward over a whole prompt (a *prefill*: no cache, no later steps). At each decoder layer, in
   forward order: first rewrite the residual stream where asked, then hand it to ``reduce`` inside the trace,
   so that what is built from a layer (say its logits) is gone before the next layer runs.
3. Stop right after the last layer that was asked for: later layers, final norm and unembedding never run.

The residual stream of layer l is what decoder layer l (0-based) returns, before any final norm. Of a model of L layers, what is
written at the input of "layer L" is what the final norm receives: what layer L-1 returns, and its lens reads.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from nnsight import NNsight
from nnsight.intervention.envoy import Envoy
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy
from workbench.models.finite import NotFiniteError, first_wrong
from workbench.models.prefix_cache import CACHE_NAMES
from workbench.models.rope_memory import check_together, from_rest

Reduce = Callable[[int, Tensor], Any]
"""(layer, residual stream (batch, tokens, hidden)) -> what to keep of it; runs inside the forward."""

Edit = Callable[[Tensor], Tensor]
"""Residual stream (batch, tokens, hidden) -> its replacement, a new tensor of the same shape and dtype."""

Site = Literal["input", "output"]

# Values hold the model but never the anatomy, so an entry goes when the anatomy does.
_wrapped: WeakKeyDictionary[Anatomy, NNsight] = WeakKeyDictionary()


@from_rest
def read_residuals(
    anatomy: Anatomy,
    inputs: Mapping[str, Any],
    *,
    layers: Sequence[int] | None = None,
    reduce: Reduce | None = None,
    write: Mapping[int, Edit] | None = None,
    at: Site = "input",
) -> dict[int, Any]:
    """Reads the residual stream after chosen decoder layers, in one forward that stops at the last of them.

    Args:
        anatomy: the model, dissected.
        inputs: the model's forward arguments for a whole prompt or a left-padded batch of them; or, with a cache,
            for what follows a prompt (`prefix_cache.continuation`).
        layers: decoder layers to read, 0-based; all when None.
        reduce: what to keep of a layer. None keeps a copy of the residual stream, (batch, tokens, hidden).
        write: per layer, what replaces the residual stream there; at inputs also one past the last layer: what the final norm
            receives. Earlier layers are untouched.
        at: whether ``write`` replaces what the layers receive or what they return.

    Returns:
        layer -> what ``reduce`` returned, without gradient, on the model's own device.

    Raises:
        InputError: a layer that does not exist, nothing to read, or an edit that changes shape or dtype, or
            that works in place.
    """
    numbers = _check_layers("layers", range(anatomy.depth) if layers is None else layers, anatomy)
    edits = _check_write(write, at, anatomy)
    # A copy by default, because a model may go on to change its residual stream in place.
    take = reduce or (lambda layer, hidden: hidden.clone())
    model, results = _wrap(anatomy), {}
    stack, real = model.get(anatomy.layers_path), _real(inputs)
    tracer = model.trace(**_arguments(anatomy, inputs))
    # nnsight compiles this `with` body from its source and runs it beside the forward, pausing at each site.
    with _first_place(anatomy, inputs, edits, at), torch.no_grad(), tracer:
        for layer in range(numbers[-1] + 1):
            _write(stack[layer], layer, edits, at)
            _write_last(stack, layer, edits)
            if layer in numbers:
                results[layer] = take(layer, _finite(anatomy, layer, stack[layer].output, real))
        tracer.stop()
    return results


@from_rest
def read_attention(
    anatomy: Anatomy, inputs: Mapping[str, Tensor], *, reduce: Callable[[int, Tensor], Any]
) -> dict[int, Any]:
    """What ``reduce(layer, weights)`` keeps of the attention weights (batch, heads, queries, keys) of every decoder layer.

    Raises:
        InputError: an attention kernel that returns no weights; `attention.eager_twin` makes a model that does.
    """
    model, results = _wrap(anatomy), {}
    stack = model.get(anatomy.layers_path)
    tracer = model.trace(**_arguments(anatomy, inputs))
    with torch.no_grad(), tracer:
        for layer in range(anatomy.depth):
            results[layer] = _reduced(reduce, layer, stack[layer].self_attn.output[1])
        tracer.stop()
    return results


def _reduced(reduce: Callable[[int, Tensor], Any], layer: int, weights: Tensor | None) -> Any:
    if weights is None:
        raise InputError(
            f"`anatomy`: the attention of layer {layer} returns no weights; read `attention.eager_twin(anatomy)` instead"
        )
    return reduce(layer, weights)


@dataclass(frozen=True, eq=False)
class LayerCall:
    """What one decoder layer was called with, and what it returned: enough to call it again by hand."""

    hidden: Float[Tensor, "batch tokens hidden"]
    """The residual stream that it received."""
    arguments: dict[str, Any]
    """Everything else: positions, mask, no cache."""
    output: Float[Tensor, "batch tokens hidden"]


@from_rest
def read_calls(
    anatomy: Anatomy, inputs: Mapping[str, Tensor], layers: int, *, write: Mapping[int, Edit] | None = None
) -> list[LayerCall]:
    """How a prefill calls the first ``layers`` decoder layers; the forward stops after the last of them.

    Arguments and errors are those of :func:`read_residuals`, with ``write`` at the layers' inputs.
    """
    _check_layers("layers", [layers - 1], anatomy)
    edits = _check_write(write, "input", anatomy)
    model, calls = _wrap(anatomy), []
    stack, real = model.get(anatomy.layers_path), _real(inputs)
    tracer = model.trace(**_arguments(anatomy, inputs))
    with _first_place(anatomy, inputs, edits, "input"), torch.no_grad(), tracer:
        for layer in range(layers):
            _write(stack[layer], layer, edits, "input")
            positional, named = stack[layer].inputs
            _write_last(stack, layer, edits)
            output = _finite(anatomy, layer, stack[layer].output, real)
            named = {"hidden_states": positional[0] if positional else None, **named}
            hidden = named.pop("hidden_states")
            # Copies, because a model may go on to change its residual stream in place.
            calls.append(LayerCall(hidden.clone(), named, output.clone()))
        tracer.stop()
    return calls


@from_rest
def read_logits(
    anatomy: Anatomy,
    inputs: Mapping[str, Tensor],
    *,
    last: int = 1,
    write: Mapping[int, Edit] | None = None,
    at: Site = "input",
) -> Float[Tensor, "batch last vocabulary"]:
    """The model's own next-token logits at the last ``last`` positions, with ``write`` in place.

    Arguments and errors are those of :func:`read_residuals`.
    """
    if last < 1:
        raise InputError(
            f"`last` is {last}; ask for at least one position: `read_logits(anatomy, inputs, last=1)`"
        )
    edits = _check_write(write, at, anatomy)
    arguments = _arguments(anatomy, inputs)
    if "logits_to_keep" in inspect.signature(type(anatomy.model).forward).parameters:
        arguments["logits_to_keep"] = last
    model, results = _wrap(anatomy), {}
    stack = model.get(anatomy.layers_path)
    tracer = model.trace(**arguments)
    with torch.no_grad(), tracer:
        for layer in sorted({*edits} - {anatomy.depth}):
            _write(stack[layer], layer, edits, at)
        _write_last(stack, anatomy.depth - 1, edits)
        results["logits"] = tracer.result.logits[:, -last:]
    with _first_place(anatomy, inputs, edits, at):
        _finite(anatomy, None, results["logits"], _real(inputs))
    return results["logits"]


@from_rest
def prefill(
    anatomy: Anatomy, inputs: Mapping[str, Tensor], *, write: Mapping[int, Edit] | None = None
) -> Any:
    """The model's own output of a whole prompt with ``write`` at the layers' inputs: last logits and key-value cache.

    What follows is decoded by the unmodified model from that cache; or, given the cache, read here too. Arguments and errors are
    those of :func:`read_residuals`.
    """
    edits = _check_write(write, "input", anatomy)
    arguments: dict[str, Any] = _arguments(anatomy, inputs) | {"use_cache": True}
    if "logits_to_keep" in inspect.signature(type(anatomy.model).forward).parameters:
        arguments["logits_to_keep"] = 1
    model, results = _wrap(anatomy), {}
    stack = model.get(anatomy.layers_path)
    tracer = model.trace(**arguments)
    with torch.no_grad(), tracer:
        for layer in sorted({*edits} - {anatomy.depth}):
            _write(stack[layer], layer, edits, "input")
        _write_last(stack, anatomy.depth - 1, edits)
        results["output"] = tracer.result
    with _first_place(anatomy, inputs, edits, "input"):
        _finite(anatomy, None, results["output"].logits[:, -1:], _real(inputs))
    return results["output"]


@from_rest
def refuse_not_finite(
    anatomy: Anatomy,
    inputs: Mapping[str, Tensor],
    *,
    write: Mapping[int, Edit] | None = None,
    at: Site = "input",
) -> None:
    """Looks for the first NaN or infinity of a forward: what layer 0 receives, then layer by layer.

    Raises:
        NotFiniteError: there is one; it says where.
    """
    edits = _check_write(write, at, anatomy)
    model, places = _wrap(anatomy), dict[int, tuple[int, int] | None]()
    stack, real = model.get(anatomy.layers_path), _real(inputs)
    tracer = model.trace(**_arguments(anatomy, inputs))
    with torch.no_grad(), tracer:
        for layer in range(anatomy.depth):
            _write(stack[layer], layer, edits, at)
            # Masked attention passes NaN on to earlier positions too: look before the layer runs.
            places[layer - 1] = first_wrong(stack[layer].input, real)
            if places[layer - 1] is not None:
                break
            _write_last(stack, layer, edits)
            places[layer] = first_wrong(stack[layer].output, real)
            if places[layer] is not None:
                break
        tracer.stop()
    for layer, place in places.items():
        if place is not None:
            raise NotFiniteError.at(anatomy.model, *place, layer, anatomy.dtype)


def _finite(anatomy: Anatomy, layer: int | None, hidden: Tensor, real: Tensor) -> Tensor:
    if (place := first_wrong(hidden, real)) is not None:
        raise NotFiniteError.at(anatomy.model, *place, layer, hidden.dtype)
    return hidden


@contextmanager
def _first_place(
    anatomy: Anatomy, inputs: Mapping[str, Any], edits: Mapping[int, Edit], at: Site
) -> Iterator[None]:
    """What leaves the finite numbers meanwhile is told with the place where it began."""
    try:
        yield
    except NotFiniteError:
        if not inputs.keys().isdisjoint(CACHE_NAMES):  # which hold this forward too by now
            raise
        refuse_not_finite(anatomy, inputs, write=edits, at=at)
        raise


def _real(inputs: Mapping[str, Any]) -> Tensor:
    return inputs.get("attention_mask", torch.ones_like(inputs["input_ids"]))


def _wrap(anatomy: Anatomy) -> NNsight:
    if anatomy not in _wrapped:
        _wrapped[anatomy] = NNsight(anatomy.model)
    return _wrapped[anatomy]


def _arguments(anatomy: Anatomy, inputs: Mapping[str, Any]) -> dict[str, Any]:
    if "attention_mask" in inputs:
        check_together(anatomy.model, inputs["attention_mask"])
    return {**anatomy.placed(inputs), "use_cache": not inputs.keys().isdisjoint(CACHE_NAMES)}


def _write_last(stack: Any, layer: int, edits: Mapping[int, Edit]) -> None:
    """What the final norm receives, where it is written and `layer` is the last."""
    if layer == len(stack) - 1:
        _write(stack[layer], layer + 1, edits, "output")


def _write(layer: Envoy, index: int, edits: Mapping[int, Edit], at: Site) -> None:
    """Called from a trace's body, where reading or assigning `input` and `output` waits for the forward."""
    if index not in edits:
        return
    hidden = getattr(layer, at)
    version = hidden._version
    result = edits[index](hidden)
    if hidden._version != version:
        raise InputError(
            f"`write[{index}]` changed its argument in place; return a new tensor instead, "
            "for example `lambda hidden: hidden + delta`"
        )
    if not isinstance(result, Tensor) or result.shape != hidden.shape or result.dtype != hidden.dtype:
        description = (
            f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        )
        raise InputError(
            f"`write[{index}]` returned {description}; expected {hidden.dtype} {tuple(hidden.shape)}, "
            "as in `lambda hidden: hidden.clone()`"
        )
    setattr(layer, at, result)


def _check_write(write: Mapping[int, Edit] | None, at: Site, anatomy: Anatomy) -> Mapping[int, Edit]:
    if at not in ("input", "output"):
        raise InputError(f"`at` is {at!r}; write to a layer's 'input' or its 'output'")
    past = {anatomy.depth} if at == "input" else set()
    if write and (layers := {*write} - past):
        _check_layers("write", layers, anatomy)
    return write or {}


def _check_layers(name: str, layers: Iterable[int], anatomy: Anatomy) -> tuple[int, ...]:
    numbers = tuple(sorted(set(layers)))
    if not numbers:
        raise InputError(f"`{name}` is empty; name at least one decoder layer, for example `{name}=[0]`")
    outside = [layer for layer in numbers if not 0 <= layer < anatomy.depth]
    if outside:
        raise InputError(
            f"`{name}` names decoder layer {outside[0]}, but this {anatomy.family} model has layers "
            f"0 to {anatomy.depth - 1}; its last layer is `layers=[{anatomy.depth - 1}]`"
        )
    return numbers
