"""A pretend GPU: tensors that say they are on a card, are computed on the CPU, and refuse what real devices refuse.

    python tests/support/cards.py

spreads models over the card and the CPU, and checks that all work gives what it gives on the CPU alone. An operation on
tensors of two devices fails, even with indices on the CPU, which a real one lets pass. The card is registered for the
whole process, so `test_devices` starts one of its own.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.hooks import attach_align_device_hook_on_blocks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend as register

sys.path.insert(0, str(Path(__file__).parent))
import tiny

from workbench import Patch, Replay, decode_many, learn_many, prepare_patch, trace
from workbench.decoding.decode import Response
from workbench.decoding.likelihoods import response_nats
from workbench.experiments.drift import Reference, drift
from workbench.models.pairs import ModelPair

CARD = "card:0"


class OnCard(Tensor):
    """A tensor that says it is on the card."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "OnCard":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=CARD,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"OnCard({tuple(self.shape)}, {self.dtype})"


class Cards(TorchDispatchMode):
    """Makes tensors on the card where a device is named."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    on_card = any(isinstance(t, OnCard) for t in given)
    moving = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if on_card and not moving:
        stray = [t for t in given if not isinstance(t, OnCard) and t.ndim]
        if stray:
            raise RuntimeError(f"{func}: expected all tensors on the same device, found card:0 and cpu")
    target = kwargs.get("device")
    if target is not None:
        on_card = torch.device(target).type == "card"
        kwargs = {**kwargs, "device": torch.device("cpu"), **({"non_blocking": False} if moving else {})}
    elif func is torch.ops.aten.copy_.default:
        on_card = isinstance(args[0], OnCard)
    bare = tree_map(lambda t: t.inner if isinstance(t, OnCard) else t, (args, kwargs))
    result = func(*bare[0], **bare[1])
    same = {
        id(t.inner): t for t in given if isinstance(t, OnCard)
    }  # what works in place returns its argument

    def wrap(t: Any) -> Any:
        if not isinstance(t, Tensor) or not on_card:
            return t
        return same.get(id(t)) if id(t) in same else OnCard(t)

    return tree_map(wrap, result)


@contextmanager
def cards() -> Iterator[None]:
    """Meanwhile there is a card."""
    with (
        torch.autograd.set_multithreading_enabled(False),  # a thread of its own would look for the card
        Cards(),
    ):
        yield


def put_on_card(module: torch.nn.Module) -> None:
    """Move a module's parameters and buffers there."""
    for part in module.modules():
        for name, weight in part._parameters.items():
            if weight is not None:
                part._parameters[name] = torch.nn.Parameter(OnCard(weight.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = OnCard(buffer)


@torch.library.impl("aten::empty_strided", "PrivateUse1")
def _empty(size: Any, stride: Any, dtype: Any = None, **_: Any) -> Tensor:
    """What `torch.tensor` makes, which no mode sees."""
    return OnCard(torch.zeros(size, dtype=dtype).as_strided(size, stride))


@torch.library.impl("aten::_copy_from", "PrivateUse1")
def _copy(source: Tensor, to: Any, non_blocking: bool = False) -> Tensor:
    to.inner.copy_(source)
    return to


def spread(model: torch.nn.Module, on_card: set[str]) -> None:
    """Some modules of a model on the card and the others on the CPU, with the hooks that a device map leaves."""
    places = ["", *on_card]
    attach_align_device_hook_on_blocks(
        model, execution_device=dict.fromkeys(places, "cpu"), offload=dict.fromkeys(places, False)
    )
    for name in on_card:
        part = model.get_submodule(name)
        put_on_card(part)
        for module in part.modules():
            hook = getattr(module, "_hf_hook", None)
            for one in getattr(hook, "hooks", [hook]):
                if one is not None:
                    one.execution_device = CARD


def results(pair: ModelPair) -> list[Tensor | list[Response]]:
    """What every kind of work gives."""
    prompts = [pair.encode(tiny.problem(seed=seed)) for seed in (0, 1)]
    replay = Replay(threshold="quantile", layers=3, iterations=2, only_where_base_lower=True)
    middle = Replay(threshold="quantile", site="mid_tokens", layer=1, iterations=2)
    learned, later = learn_many(pair, prompts, replay), learn_many(pair, prompts, middle)
    patches = [prepare_patch(pair, prompt, Patch(layers=3)) for prompt in prompts]
    answers = [
        response
        for made in (learned, later, patches)
        for found in decode_many(pair, prompts, interventions=made, max_new_tokens=4)
        for response in found
    ]
    traced = [trace(pair, prompts, interventions=made).kl for made in (learned, patches)]
    cells = drift(pair, prompts, Reference.of(pair, prompts))[0]
    said = [torch.tensor([5, 6, 7])] * 2
    nats = response_nats(pair.rlvr, prompts, said, pad_id=pair.pad_id, interventions=learned)
    return [*traced, *(one.tokens for one in (*learned, *later)), *cells, torch.tensor(nats), answers]


def main(places: list[set[str]]) -> None:
    pairs = [tiny.pair() for _ in places]
    expected = results(pairs[0])
    register("card")
    for pair, on_card in zip(pairs, places, strict=True):
        for anatomy in (pair.base, pair.rlvr):
            spread(anatomy.model, on_card)
        with cards():
            found = results(pair)
        for one, other in zip(found, expected, strict=True):
            if isinstance(one, Tensor) and isinstance(other, Tensor):
                assert one.device.type == "cpu"
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
            else:
                assert one == other


if __name__ == "__main__":
    text = "model.language_model"
    main([{f"{text}.layers.1", f"{text}.norm"}, {f"{text}.embed_tokens", f"{text}.layers.2", "lm_head"}])
