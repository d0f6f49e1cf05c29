"""TransformerLens over a pair's own weights; no other module knows TransformerLens.

1. The bridge gets a module of its own, built without storage, whose parameters and buffers are those of the model.
   TransformerLens rewrites the module that it is given and switches it to eager attention; the one that nnsight traces stays.
2. ``read`` runs a prompt, pictures included, and keeps what every head and MLP writes into the residual stream.
3. ``block`` runs one layer on many rows at once, as the prompt's own forward called it; ``edited`` changes what layers write.

Of ``transformer_lens.tools.analysis`` nothing is called here: ``direct_logit_attribution`` asks for weights folded in place,
``attribution_patch`` and ``interchange`` run one model on token ids alone. They are oracles in the tests instead.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn

from workbench.errors import InputError, install
from workbench.models.anatomy import Anatomy, sharing

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava", "llava_onevision", "idefics3", "qwen2", "qwen3", "llama")
"""That TransformerLens bridges and whose layers add attention and MLP to the residual stream as they are."""

Write = Callable[[str, int, Tensor], Tensor]
"""("attn" or "mlp", layer, what it writes) -> its replacement."""

# Values hold the twin but never the anatomy, so an entry goes when the anatomy does.
_built: "WeakKeyDictionary[Anatomy, Bridge]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Activations:
    """What one model wrote into its residual stream on one prompt; layers are stacked."""

    embedding: Float[Tensor, "positions hidden"]
    """What enters layer 0, visual embeddings included."""
    heads: Float[Tensor, "layers positions heads width"]
    """What each head reads out, before the output projection."""
    mlps: Float[Tensor, "layers positions hidden"]
    residuals: Float[Tensor, "layers positions hidden"]
    """After each layer, before any final norm."""
    gaps: Float[Tensor, "layers positions hidden"]
    """What the decoder adds after a layer by itself: visual features in Qwen3-VL, else 0."""
    calls: tuple[dict[str, Any], ...]
    """How each layer was called, but for the residual stream."""


@dataclass(frozen=True, eq=False)
class Bridge:
    """One model behind TransformerLens."""

    model: Any
    """A `TransformerBridge`."""
    depth: int

    def output_weights(self, layer: int) -> Float[Tensor, "heads width hidden"]:
        """The output projection of a layer's attention, by head."""
        return self.model.blocks[layer].attn.W_O.detach()

    def output_bias(self, layer: int) -> Float[Tensor, " hidden"] | None:
        """Its bias, where it has one."""
        bias = self.model.blocks[layer].attn.o.bias
        return None if bias is None else bias.detach()

    def head_writes(self, layer: int, heads: Tensor) -> Float[Tensor, "heads positions hidden"]:
        """What each head of a layer adds to the residual stream; ``heads`` is (positions, heads, width)."""
        return torch.einsum("phw,hwd->hpd", heads, self.output_weights(layer))

    @torch.no_grad()
    def read(self, inputs: Mapping[str, Tensor]) -> Activations:
        """Run one prompt; ``inputs`` are its `EncodedPrompt.model_inputs`, as `Anatomy.placed` gives them.

        Raises:
            InputError: more than one prompt.
        """
        if len(inputs["input_ids"]) != 1:
            raise InputError(
                f"`inputs` hold {len(inputs['input_ids'])} prompts; expected one: bridge.read(prompt.model_inputs)"
            )
        kinds = ("hook_resid_pre", "attn.hook_z", "hook_mlp_out", "hook_resid_post")
        names = {f"blocks.{layer}.{kind}" for layer in range(self.depth) for kind in kinds}
        arguments, calls = dict(inputs), []
        ids = arguments.pop("input_ids")

        def keep(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            calls.append({k: v for k, v in named.items() if k != "hidden_states"})

        with ExitStack() as stack:
            for block in self.model.blocks:
                handle = block.register_forward_pre_hook(keep, with_kwargs=True)
                stack.callback(handle.remove)
            _, cache = self.model.run_with_cache(
                ids, names_filter=names.__contains__, use_cache=False, **arguments
            )

        def stacked(kind: str) -> Tensor:
            return torch.stack([cache[f"blocks.{layer}.{kind}"][0] for layer in range(self.depth)])

        before, after = stacked("hook_resid_pre"), stacked("hook_resid_post")
        gaps = torch.zeros_like(after)
        gaps[:-1] = before[1:] - after[:-1]
        return Activations(
            before[0], stacked("attn.hook_z"), stacked("hook_mlp_out"), after, gaps, tuple(calls)
        )

    def block(
        self, layer: int, hidden: Float[Tensor, "rows positions hidden"], call: Mapping[str, Any]
    ) -> Tensor:
        """Run one layer on rows of one prompt; returns what it does, in the shape of ``hidden``."""
        output = self.model.blocks[layer](hidden, **call)
        return output[0] if isinstance(output, tuple) else output

    @contextmanager
    def edited(self, edit: Write) -> Iterator[None]:
        """Meanwhile what attention and MLP of every layer write, (rows, positions, hidden), is what ``edit`` makes of it."""

        def edited(kind: str, layer: int, _: nn.Module, __: Any, value: Tensor) -> Tensor:
            return edit(kind, layer, value)

        # On the hook points themselves: TransformerLens looks up all of its names anew each time that it is asked for some.
        with ExitStack() as stack:
            for layer, block in enumerate(self.model.blocks):
                for kind, point in (("attn", block.hook_attn_out), ("mlp", block.hook_mlp_out)):
                    handle = point.register_forward_hook(partial(edited, kind, layer))
                    stack.callback(handle.remove)
            yield

    @contextmanager
    def relevance(self) -> Iterator[None]:
        """Meanwhile gradients follow the rules of RelP (arXiv 2508.21258), and values stay as they are up to rounding.

        Norms: the scale is a constant. Attention: the pattern is a constant. Activation function: the gradient is
        its value over its argument. Gated product: each factor gets half of the gradient.
        """
        with warnings.catch_warnings(), self.model.hooks(fwd_hooks=self._rules()):
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            yield

    def _rules(self) -> list[tuple[str, Any]]:
        hooks: list[tuple[str, Any]] = []
        for layer, block in enumerate(self.model.blocks):
            constants = ("ln1.hook_scale", "ln2.hook_scale", "attn.hook_q", "attn.hook_k")
            hooks += [(f"blocks.{layer}.{name}", lambda value, hook: value.detach()) for name in constants]
            seen: dict[str, Tensor] = {}
            hooks += [
                (
                    f"blocks.{layer}.mlp.{name}",
                    lambda value, hook, name=name, seen=seen: seen.update({name: value}),
                )
                for name in ("gate.hook_out", "in.hook_out")
            ]
            act = block.mlp.original_component.act_fn
            hooks.append(
                (
                    f"blocks.{layer}.mlp.out.hook_in",
                    lambda value, hook, seen=seen, act=act: half_rule(
                        value, seen["gate.hook_out"], seen["in.hook_out"], act
                    ),
                )
            )
        return hooks


def half_rule(product: Tensor, gate: Tensor, linear: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
    """``product`` = act(gate) * linear, with half of the gradient for each factor and act's slope its value over its argument."""
    with torch.no_grad():
        small = gate.abs() < 1e-6
        # Both SiLU and GELU are argument times a gate that is 1/2 at 0.
        slope = torch.where(small, 0.5, act(gate) / torch.where(small, 1.0, gate))
        activated = act(gate)
    line = 0.5 * (gate * slope * linear.detach() + activated * linear)
    return product.detach() + (line - line.detach())


def bridge(anatomy: Anatomy) -> Bridge:
    """The model behind TransformerLens, over the same weights; built once per anatomy.

    Raises:
        InputError: TransformerLens is not installed, or it does not support the family.
    """
    if anatomy not in _built:
        _built[anatomy] = _build(anatomy)
    return _built[anatomy]


def check_family(anatomy: Anatomy) -> None:
    """Raise InputError unless a bridge can be built; runs nothing."""
    if anatomy.family not in FAMILIES or anatomy.softcap is not None:
        raise InputError(
            f"`pair` is of the family {anatomy.family!r}; attribution by TransformerLens supports {', '.join(FAMILIES)}: "
            'attribute(load_pair("shapes"), problems, metrics=["kl"])'
        )
    try:
        import transformer_lens  # noqa: F401
    except ImportError as missing:
        raise InputError(
            f"attribution needs TransformerLens; expected the extra `attribution`: {install('attribution')}"
        ) from missing


def _build(anatomy: Anatomy) -> Bridge:
    check_family(anatomy)
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    twin = sharing(anatomy.model)
    twin.set_attn_implementation("eager")
    model = build_bridge_from_module(twin, type(twin).__name__, hf_config=deepcopy(twin.config))
    model.eval()
    return Bridge(model, anatomy.depth)
