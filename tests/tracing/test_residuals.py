"""`tracing`: what is read, what is written, what is left behind (`test_families` compares reads with plain hooks)."""

import gc
import weakref
from collections.abc import Iterator
from functools import cache

import oracle
import pytest
import tiny
import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.models.anatomy import Anatomy, dissect
from workbench.models.prompts import EncodedPrompt, encode
from workbench.tracing.residuals import read_logits, read_residuals


@cache
def anatomy_of(family: str) -> Anatomy:
    return dissect(tiny.model(family))


@cache
def prompt_of(family: str, seed: int = 0, images: int = 1) -> EncodedPrompt:
    problem = tiny.problem(family, seed=seed, images=images)
    return encode(tiny.processor(family), anatomy_of(family), problem)


@pytest.fixture(params=tiny.FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def anatomy() -> Anatomy:
    return anatomy_of("qwen2_5_vl")


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    return prompt_of("qwen2_5_vl").model_inputs


@pytest.fixture
def calls(anatomy: Anatomy) -> Iterator[dict[str, int]]:
    """How often each decoder layer, the final norm and the unembedding were entered."""
    sites = {f"layer {i}": layer for i, layer in enumerate(anatomy.layers)}
    sites |= {"norm": anatomy.norm, "unembedding": anatomy.unembedding}
    counts = dict.fromkeys(sites, 0)

    def count(name: str) -> None:
        counts[name] += 1

    hooks = [m.register_forward_pre_hook(lambda *_, name=n: count(name)) for n, m in sites.items()]
    yield counts
    for hook in hooks:
        hook.remove()


def same(a: dict[int, Tensor], b: dict[int, Tensor]) -> list[bool]:
    return [torch.equal(a[layer], b[layer]) for layer in a]


def hooks_on(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# --- reading


def test_only_what_reduce_returns_is_kept_and_without_gradient(inputs: dict[str, Tensor]):
    anatomy = dissect(tiny.model("qwen2_5_vl").requires_grad_(True))
    seen = []

    def reduce(layer: int, hidden: Tensor) -> tuple[int, Tensor]:
        seen.append(layer)
        return layer, hidden.sum(-1)

    read = read_residuals(anatomy, inputs, layers=[2, 0, 2], reduce=reduce)
    assert seen == [0, 2]
    assert {layer: value[0] for layer, value in read.items()} == {0: 0, 2: 2}
    assert read[2][1].shape == inputs["input_ids"].shape
    assert not any(t.requires_grad for _, t in read.values())
    assert not any(t.requires_grad for t in read_residuals(anatomy, inputs).values())
    assert not read_logits(anatomy, inputs).requires_grad


def test_stops_right_after_the_last_layer_asked_for(anatomy: Anatomy, inputs: dict, calls: dict[str, int]):
    read_residuals(anatomy, inputs, layers=[0, 1])
    assert calls == {"layer 0": 1, "layer 1": 1, "layer 2": 0, "norm": 0, "unembedding": 0}
    read_residuals(anatomy, inputs)
    assert calls == {"layer 0": 2, "layer 1": 2, "layer 2": 1, "norm": 0, "unembedding": 0}


def test_logits_of_the_last_position_cost_one_row(anatomy: Anatomy, inputs: dict[str, Tensor]):
    rows = []
    hook = anatomy.unembedding.register_forward_hook(lambda _, args, out: rows.append(out.shape[1]))
    read_logits(anatomy, inputs)
    hook.remove()
    assert rows == [1]


def test_the_models_own_modules_can_be_used_inside_reduce(anatomy: Anatomy, inputs: dict[str, Tensor]):
    read = read_residuals(anatomy, inputs, reduce=lambda _, hidden: anatomy.logits(hidden))
    for layer, hidden in enumerate(oracle.hooked_residuals(anatomy.model, anatomy.layers, inputs)):
        torch.testing.assert_close(read[layer], anatomy.logits(hidden))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "llava", "gemma3"])
def test_pixels_are_cast_to_the_models_dtype(family: str, dtype: torch.dtype):
    anatomy, inputs = dissect(tiny.model(family, dtype=dtype)), prompt_of(family).model_inputs
    assert inputs["pixel_values"].dtype == torch.float32
    assert {t.dtype for t in read_residuals(anatomy, inputs).values()} == {dtype}


# --- writing


@pytest.mark.parametrize("at", ["input", "output"])
def test_an_identity_write_leaves_the_logits_bit_equal(family: str, at):
    anatomy, inputs = anatomy_of(family), prompt_of(family).model_inputs
    everywhere = {layer: lambda hidden: hidden.clone() for layer in range(anatomy.depth)}
    assert torch.equal(read_logits(anatomy, inputs, write=everywhere, at=at), read_logits(anatomy, inputs))


def test_a_write_at_the_output_changes_exactly_that_layer_and_later_ones(family: str):
    anatomy, inputs = anatomy_of(family), prompt_of(family).model_inputs
    before = read_residuals(anatomy, inputs)
    after = read_residuals(anatomy, inputs, write={1: lambda hidden: hidden * 2}, at="output")
    assert same(before, after) == [True, False, False]
    assert torch.equal(after[1], before[1] * 2)


def test_a_write_at_the_input_is_what_the_layer_receives(family: str):
    anatomy, inputs = anatomy_of(family), prompt_of(family).model_inputs
    before = read_residuals(anatomy, inputs)
    after = read_residuals(anatomy, inputs, write={1: lambda hidden: hidden * 2})
    hook = anatomy.layers[1].register_forward_pre_hook(lambda _, args: (args[0] * 2, *args[1:]))
    expected = oracle.hooked_residuals(anatomy.model, anatomy.layers, inputs)
    hook.remove()
    assert same(before, after) == [True, False, False]
    assert same(after, dict(enumerate(expected))) == [True, True, True]


def test_a_write_reaches_the_logits_and_is_gone_afterwards(anatomy: Anatomy, inputs: dict[str, Tensor]):
    before = read_logits(anatomy, inputs)
    assert not torch.equal(read_logits(anatomy, inputs, write={2: lambda hidden: -hidden}), before)
    assert torch.equal(read_logits(anatomy, inputs), before)


# --- what is left behind


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, InputError])
@pytest.mark.parametrize("where", ["reduce", "write"])
def test_nothing_stays_attached_after_an_exception(anatomy: Anatomy, inputs: dict, where: str, error: type):
    before = read_residuals(anatomy, inputs)

    def fail(*_) -> Tensor:
        raise error("boom")

    with pytest.raises(error, match="boom"):
        read_residuals(anatomy, inputs, **{"reduce": {"reduce": fail}, "write": {"write": {1: fail}}}[where])
    assert hooks_on(anatomy.model) == 0
    assert torch.is_grad_enabled()
    assert all(same(before, read_residuals(anatomy, inputs)))
    hooked = oracle.hooked_residuals(anatomy.model, anatomy.layers, inputs)
    assert all(same(before, dict(enumerate(hooked))))


def test_a_model_that_fails_halfway_can_be_read_again(anatomy: Anatomy, inputs: dict[str, Tensor]):
    before = read_residuals(anatomy, inputs)

    def fail(*_) -> None:
        raise MemoryError("layer 1 broke")

    hook = anatomy.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(MemoryError, match="layer 1 broke"):
        read_residuals(anatomy, inputs)
    hook.remove()
    assert all(same(before, read_residuals(anatomy, inputs)))


def test_reading_keeps_neither_model_nor_anatomy_alive(inputs: dict[str, Tensor]):
    anatomy = dissect(tiny.model("qwen2_5_vl"))
    read_residuals(anatomy, inputs)
    held = weakref.ref(anatomy), weakref.ref(anatomy.model)
    del anatomy
    gc.collect()
    assert [ref() for ref in held] == [None, None]


def test_inputs_are_left_as_they_were(anatomy: Anatomy, inputs: dict[str, Tensor]):
    copies = {name: value.clone() for name, value in inputs.items()}
    read_residuals(anatomy, inputs, write={0: lambda hidden: hidden + 1})
    assert list(copies) == list(inputs)
    assert all(torch.equal(copies[name], inputs[name]) for name in copies)


# --- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": [0, 3]},
            r"`layers` names decoder layer 3, but this qwen2_5_vl model has layers 0 to 2; "
            r"its last layer is `layers=\[2\]`",
        ),
        ({"layers": [-1]}, "`layers` names decoder layer -1"),
        ({"layers": []}, r"`layers` is empty; name at least one decoder layer, for example `layers=\[0\]`"),
        ({"write": {7: torch.clone}}, "`write` names decoder layer 7"),
        ({"at": "middle"}, "`at` is 'middle'; write to a layer's 'input' or its 'output'"),
        (
            {"write": {1: lambda h: h[:, :-1]}},
            r"`write\[1\]` returned torch.float32 \(1, 45, 32\); expected torch.float32 \(1, 46, 32\)",
        ),
        ({"write": {1: lambda h: h.double()}}, r"`write\[1\]` returned torch.float64 \(1, 46, 32\)"),
        ({"write": {1: lambda h: None}}, r"`write\[1\]` returned NoneType; expected torch.float32"),
        (
            {"write": {1: lambda h: h.add_(1)}},
            r"`write\[1\]` changed its argument in place; return a new .*`lambda hidden: hidden \+ delta`",
        ),
    ],
)
def test_bad_arguments_are_named(anatomy: Anatomy, inputs: dict, arguments: dict, message: str):
    with pytest.raises(InputError, match=message):
        read_residuals(anatomy, inputs, **arguments)


def test_logits_of_no_position_are_refused(anatomy: Anatomy, inputs: dict[str, Tensor]):
    with pytest.raises(InputError, match=r"`last` is 0; ask for at least one position: `read_logits\("):
        read_logits(anatomy, inputs, last=0)
