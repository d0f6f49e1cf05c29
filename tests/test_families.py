"""What every supported family passes, as a matrix: a test is a cell, named by its check and its family.

Each runs a tiny random pair of the family's own classes with the family's own processor. Where a check does not apply,
`REFUSED` says why, and the test asserts that the workbench says so too.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import oracle
import pytest
import tiny
import torch
from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor
from true_configs import TRUE_7B

import workbench as wb
from workbench.errors import InputError
from workbench.lens.strata import Select
from workbench.machine.memory import on_meta
from workbench.machine.prompt_sizes import visual_grid
from workbench.models.anatomy import Anatomy, dissect
from workbench.models.batches import batches, collate
from workbench.models.chat import within_budget
from workbench.models.pairs import ModelPair
from workbench.models.prompts import EncodedPrompt, TokenKind, encode
from workbench.problems.problem import Problem
from workbench.replay.patching import Patch, prepare_patch, record
from workbench.replay.replay import Replay, learn_many, learn_tokens
from workbench.tracing.edits import Intervention
from workbench.tracing.lens_trace import AXES
from workbench.tracing.residuals import read_logits, read_residuals
from workbench.views.explorer_data import pack

SETTINGS: dict[str, Any] = {"tau": 0.99, "alpha": 3.0, "layers": 2, "iterations": 2, "top_v": 20}
SIZES = ((40, 24), (56, 64), (64, 40))
BLIND = "has pictures, but the pair is text-only"

# (check, family) -> what the refusal says
REFUSED: dict[tuple[str, str], str] = {
    ("video", "llava"): "has `video`, but `processor` is a LlavaProcessor without a video_processor",
    ("video", "gemma3"): "has `video`, but `processor` is a Gemma3Processor without a video_processor",
    ("video", "idefics3"): "has `video`, but `processor` is a Idefics3Processor without a video_processor",
    **{(check, family): BLIND for check in ("images", "video") for family in tiny.TEXT_ONLY},
    **{
        (check, family): "has no visual tokens to replay"
        for check in ("replay", "gradient")
        for family in tiny.TEXT_ONLY
    },
}


@dataclass(frozen=True)
class Case:
    """A family with its pair, in float32, and in float64 where rounding would hide what is compared."""

    family: str
    pair: ModelPair
    double: Callable[[], ModelPair]

    def problem(self, number: int = 0) -> Problem:
        """A question of a length of its own, with an image of a size of its own where the family sees."""
        return tiny.problem(self.family, (tiny.image(*SIZES[number], seed=number),), seed=3 * number)


@pytest.fixture(scope="module")
def double_of() -> Callable[[str], ModelPair]:
    return cache(lambda family: tiny.pair(family, dtype=torch.float64))


# --- the checks ------------------------------------------------------------------------------------------


def trace(case: Case) -> None:
    """Every layer of both models equals a plain hook bit for bit, and the last one leads to the models' own logits."""
    assert_traced(case.pair, case.pair.encode(case.problem()))


def lens(case: Case) -> None:
    """Every cell equals a naive lens over the whole vocabulary."""
    assert_lens(case.pair, [case.problem(number) for number in range(3)])


def replay(case: Case) -> None:
    """Replay learns what a naive loop over the whole model learns, in both alignments."""
    for alignment in ("paper", "released"):
        assert_replayed(case.double(), case.problem(), Replay(**SETTINGS, alignment=alignment))


def gradient(case: Case) -> None:
    """One step of size 1 is minus the gradient; norms compute in float32, so the differences are taken wide."""
    pair = case.double()
    prompt = pair.encode(case.problem())
    settings = Replay(tau=1.0, alpha=1.0, layers=2, iterations=1, top_v=None, normalize=False)
    slope = -learn_tokens(pair, prompt, settings).tokens
    loss = naive_replay(pair, prompt, settings, only_loss=True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(slope.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            difference = (loss(1e-3 * direction) - loss(-1e-3 * direction)) / 2e-3
        assert difference.item() == pytest.approx((slope * direction).sum().item(), rel=5e-3)


def patch(case: Case) -> None:
    """A patch from the model itself changes no bit; with the same last layer and head the base's logits come out."""
    prompt = case.pair.encode(case.problem())
    assert_own_patch_changes_nothing(case.pair, prompt, ("low", "high", "random", "all"))
    base, model = case.pair.base, tiny.model(case.family, seed=1)
    other = dissect(model)
    for mine, theirs in ((other.layers[-1], base.layers[-1]), (other.norm, base.norm)):
        mine.load_state_dict(theirs.state_dict())
    other.unembedding.load_state_dict(base.unembedding.state_dict())
    pair = replace(case.pair, rlvr=other)
    prepared = prepare_patch(pair, prompt, Patch(select="all", layers=(pair.depth - 1,), positions="all"))
    assert prepared.mask.all()
    wanted = oracle.own_logits(base.model, prompt.model_inputs)
    assert not torch.equal(oracle.own_logits(model, prompt.model_inputs), wanted)
    patched = read_logits(other, prompt.model_inputs, last=len(prompt), write=edits(prepared))
    assert torch.equal(patched, read_logits(base, prompt.model_inputs, last=len(prompt)))
    torch.testing.assert_close(patched, wanted, rtol=1e-5, atol=1e-5)


def batch(case: Case) -> None:
    """Lengths, sizes and numbers of images differ in one batch: nothing differs from each prompt alone."""
    problems = [case.problem(number) for number in range(3)]
    problems.append(tiny.problem(case.family, images=2, seed=5))
    assert_batch_changes_nothing(case, problems)


def images(case: Case) -> None:
    """Three images in one prompt: lens, replay, patch, decoding, each image with a threshold of its own."""
    problem = tiny.problem(images=tuple(tiny.image(*size, seed=i) for i, size in enumerate(SIZES)))
    prompt = case.pair.encode(problem)
    assert set(prompt.sources) == {0, 1, 2}
    for picture in range(3):
        assert (prompt.image_index == picture).any()
    assert_all(case, problem)
    halves = Replay(**{**SETTINGS, "iterations": 0, "threshold": "quantile", "tau": 0.5})
    mask = learn_tokens(case.pair, prompt, halves).mask
    for picture in range(3):  # each has a threshold of its own
        here = prompt.image_index == picture
        assert (mask[:, here].sum(1) == round(0.5 * int(here.sum()))).all()


def video(case: Case) -> None:
    """Four frames: lens, replay, patch, decoding, two in a batch, and the picture of every moment on the page."""
    clips = [tuple(tiny.image(*size, seed=i) for i in range(4)) for size in SIZES[:2]]
    problems = [tiny.problem(images=0, frames=clip, seed=i) for i, clip in enumerate(clips)]
    prompt = case.pair.encode(problems[0])
    moments = 2 if case.family in tiny.QWEN_VL else 4
    assert [grid[0] for grid in prompt.grids] == [moments]
    assert set(prompt.grid[prompt.kinds == TokenKind.VISUAL][:, 0].tolist()) >= set(range(moments))
    assert_all(case, problems[0])
    assert_batch_changes_nothing(case, problems)
    (view,) = pack([wb.trace(case.pair, problems[:1], null_draws=0)], 2)["problems"][0]["views"]
    assert (len(set(view["frames"])), view["span"]) == (moments, 4 // moments)


def decoding(case: Case) -> None:
    """Greedy answers equal the model's own `generate` with the intervention made by plain hooks."""
    assert_decoded(case.pair, case.pair.encode(case.problem()))


CHECKS = (trace, lens, replay, gradient, patch, batch, images, video, decoding)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_family(check, family, pair_of, double_of):
    case = Case(family, pair_of(family), lambda: double_of(family))
    refusal = REFUSED.get((check.__name__, family))
    if refusal is None:
        check(case)
    else:
        with pytest.raises(InputError, match=refusal):
            check(case)


# --- what they assert ------------------------------------------------------------------------------------


def assert_all(case: Case, problem: Problem) -> None:
    prompt = case.pair.encode(problem)
    assert_lens(case.pair, [problem])
    assert_replayed(case.double(), problem, Replay(**SETTINGS))
    assert_own_patch_changes_nothing(case.pair, prompt, ("low",))
    assert_decoded(case.pair, prompt)


def assert_traced(pair: ModelPair, prompt: EncodedPrompt) -> None:
    inputs = prompt.model_inputs
    for anatomy in (pair.base, pair.rlvr):
        hooked = oracle.hooked_residuals(anatomy.model, anatomy.layers, inputs)
        read = read_residuals(anatomy, inputs)
        assert [*read] == [*range(anatomy.depth)]
        for layer, expected in enumerate(hooked):
            assert torch.equal(read[layer], expected)
            assert expected.shape == (1, len(prompt), anatomy.hidden_size)
        own = oracle.own_logits(anatomy.model, inputs)
        last = read_residuals(anatomy, inputs, layers=[anatomy.depth - 1])[anatomy.depth - 1]
        torch.testing.assert_close(anatomy.logits(last), own, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(read_logits(anatomy, inputs, last=3), own[:, -3:], rtol=1e-5, atol=1e-5)


def assert_lens(pair: ModelPair, problems: Sequence[Problem]) -> None:
    close = {"rtol": 1e-5, "atol": 1e-5}
    record = wb.trace(pair, problems, top_k=10, null_draws=0)
    for number, problem in enumerate(problems):
        prompt, one = pair.encode(problem), record.select(prompt=number)
        base, rlvr = naive_lens(pair.base, prompt), naive_lens(pair.rlvr, prompt)
        torch.testing.assert_close(one.kl, oracle.kl(base, rlvr), **close)
        for anatomy, log_p, model in ((pair.base, base, "base"), (pair.rlvr, rlvr, "rlvr")):
            ids, probabilities = (getattr(one, f"top_{what}_{model}") for what in ("ids", "probs"))
            torch.testing.assert_close(getattr(one, f"entropy_{model}"), oracle.entropy(log_p), **close)
            torch.testing.assert_close(probabilities, log_p.exp().topk(10).values, **close)
            torch.testing.assert_close(log_p.exp().gather(-1, ids.long()), probabilities, **close)
            own = oracle.own_logits(anatomy.model, prompt.model_inputs)[0]
            assert torch.equal(ids[-1, :, 0].long(), own.argmax(-1))
            torch.testing.assert_close(log_p[-1], own.log_softmax(-1), **close)
        assert torch.equal(one.top1_agreement, one.top_ids_base[..., 0] == one.top_ids_rlvr[..., 0])
        shared = (one.top_ids_base[..., :, None] == one.top_ids_rlvr[..., None, :]).any(-1).float().mean(-1)
        torch.testing.assert_close(one.topk_overlap, shared)


def assert_replayed(pair: ModelPair, problem: Problem, settings: Replay) -> None:
    prompt = pair.encode(problem)
    learned = learn_tokens(pair, prompt, settings)
    tokens, losses, mask = naive_replay(pair, prompt, settings)
    assert torch.equal(learned.mask, mask)
    assert mask.any()
    assert tokens.shape == (int((prompt.kinds == TokenKind.VISUAL).sum()), tiny.HIDDEN)
    assert tokens.abs().max() > 1e-6
    torch.testing.assert_close(learned.losses, losses, rtol=1e-5, atol=1e-9)
    assert (learned.tokens - tokens).abs().max() < 1e-5 * tokens.abs().max()


def assert_own_patch_changes_nothing(
    pair: ModelPair, prompt: EncodedPrompt, selections: Sequence[Select]
) -> None:
    everywhere = tuple(range(pair.depth))
    own, inputs = record(pair.rlvr, prompt, everywhere), prompt.model_inputs
    plain = read_logits(pair.rlvr, inputs, last=len(prompt))
    for select in selections:
        chosen = Patch(select=select, layers=everywhere, threshold="quantile", tau=0.5)
        prepared = prepare_patch(pair, prompt, chosen, source=own)
        assert prepared.mask.any()
        assert torch.equal(read_logits(pair.rlvr, inputs, last=len(prompt), write=edits(prepared)), plain)


def assert_batch_changes_nothing(case: Case, problems: Sequence[Problem]) -> None:
    pair, prompts = case.pair, [case.pair.encode(problem) for problem in problems]
    ((*together,),) = batches(prompts, 8)
    assert len(together) == len(problems)
    assert len({len(prompt) for prompt in prompts}) == len(prompts)
    read = read_residuals(pair.rlvr, collate(prompts, pair.pad_id))
    for row, prompt in enumerate(prompts):
        for layer, alone in read_residuals(pair.rlvr, prompt.model_inputs).items():
            torch.testing.assert_close(read[layer][row, -len(prompt) :], alone[0], rtol=1e-5, atol=2e-5)
    traced, alone = (wb.trace(pair, prompts, null_draws=1, batch_size=size) for size in (8, 1))
    for name in AXES:
        if not name.startswith(("top_ids", "top1", "topk")):  # these jump where two are about equal
            torch.testing.assert_close(getattr(traced, name), getattr(alone, name), rtol=1e-4, atol=1e-5)
    answers = wb.decode_many(pair, prompts, max_new_tokens=4)
    assert answers == [wb.decode(pair, prompt, max_new_tokens=4) for prompt in prompts]
    if prompts[0].grids:
        double, settings = case.double(), Replay(**SETTINGS)
        encoded = [double.encode(problem) for problem in problems]
        for prompt, learned in zip(encoded, learn_many(double, encoded, settings), strict=True):
            one = learn_tokens(double, prompt, settings)
            assert torch.equal(learned.mask, one.mask)
            assert (learned.tokens - one.tokens).abs().max() < 5e-6 * one.tokens.abs().max()


def assert_decoded(pair: ModelPair, prompt: EncodedPrompt) -> None:
    visual = prompt.kinds == TokenKind.VISUAL
    prepared = prepare_patch(pair, prompt, Patch(select="high", layers=2, threshold="quantile", tau=0.5))
    source = record(pair.base, prompt, (0, 1)).hidden

    def overwritten(layer: int, hidden: Tensor) -> None:
        if layer < 2:
            hidden[0, prepared.mask[layer]] = source[layer, prepared.mask[layer]]

    made: list[tuple[Intervention | None, Callable[[int, Tensor], None]]] = [
        (None, lambda layer, hidden: None),
        (prepared, overwritten),
    ]
    if visual.any():
        learned = learn_tokens(pair, prompt, Replay(**{**SETTINGS, "iterations": 0}))
        moved = torch.randn(learned.tokens.shape, generator=torch.Generator().manual_seed(0))

        def added(layer: int, hidden: Tensor) -> None:
            if layer == 0:
                hidden[0, visual] += moved

        made.append((replace(learned, tokens=moved), added))
    plain = read_logits(pair.rlvr, prompt.model_inputs)
    for intervention, change in made:
        answer = wb.decode(pair, prompt, intervention=intervention, max_new_tokens=8)[0]
        assert answer.text == generated(pair, prompt, change)
        if intervention is not None:
            changed = read_logits(pair.rlvr, prompt.model_inputs, write=edits(intervention))
            assert not torch.equal(changed, plain)


# --- naive counterparts ----------------------------------------------------------------------------------


def edits(intervention: Intervention) -> dict[int, Callable[[Tensor], Tensor]]:
    return {layer: (lambda h, layer=layer: intervention.apply(layer, h)) for layer in intervention.sites}


def naive_lens(anatomy: Anatomy, prompt: EncodedPrompt) -> Tensor:
    residuals = oracle.hooked_residuals(anatomy.model, anatomy.layers, prompt.model_inputs)
    return oracle.naive_lens(torch.cat(residuals), anatomy.norm, anatomy.unembedding)


def naive_replay(pair: ModelPair, prompt: EncodedPrompt, settings: Replay, **more: Any) -> Any:
    known = ("tau", "alpha", "layers", "layer", "iterations", "top_v", "normalize", "alignment")
    chosen = {name: value for name, value in asdict(settings).items() if name in known}
    visual = prompt.kinds == TokenKind.VISUAL
    more["pictures"] = prompt.image_index
    return oracle.naive_replay(pair.rlvr, pair.base, doubled(prompt.model_inputs), visual, **chosen, **more)


def doubled(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.double() if t.is_floating_point() else t for name, t in inputs.items()}


def generated(pair: ModelPair, prompt: EncodedPrompt, change: Callable[[int, Tensor], None]) -> str:
    """The model's own greedy answer while `change(layer, hidden)` edits each layer's input of the prompt in place."""

    def hook(layer: int) -> Callable[..., Any]:
        def enter(module: nn.Module, args: Any, kwargs: Any) -> Any:
            hidden = (args[0] if args else kwargs["hidden_states"]).clone()
            if hidden.shape[1] == len(prompt):  # the prefill
                change(layer, hidden)
            return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

        return enter

    with ExitStack() as stack:
        for number, layer in enumerate(pair.rlvr.layers):
            handle = layer.register_forward_pre_hook(hook(number), with_kwargs=True)
            stack.callback(handle.remove)
        ids = pair.rlvr.model.generate(
            **prompt.model_inputs,
            max_new_tokens=8,
            do_sample=False,
            suppress_tokens=sorted(pair.rlvr.visual_token_ids) or None,
        )
    return pair.tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)


# --- the true 7B, without weights ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pictures", "budgets", "grids"),
    [
        # images: 28 pixels a token and side, within 256 to 1280 tokens
        ({"images": ((1000, 1000),)}, ((200704, 1003520), None), [(1, 35, 35)]),
        ({"images": ((280, 140), (600, 1400))}, ((200704, 1003520), None), [(1, 12, 23), (1, 50, 21)]),
        # 16 frames of at most 200704 pixels, two of them a moment
        ({"frames": ((448, 448),) * 16}, (None, (100352, 200704)), [(8, 16, 16)]),
        ({"frames": ((1280, 720),) * 16}, (None, (100352, 200704)), [(8, 12, 21)]),
    ],
)
def test_token_counts_of_the_true_7b(pictures, budgets, grids):
    names = ("vision_start_token", "vision_end_token", "image_token", "video_token")
    ids = {f"{name}_id": tiny.token_id("qwen2_5_vl", name) for name in names}
    config = Qwen2_5_VLConfig(**TRUE_7B | ids)
    words, sizes = tiny.tokenizer("qwen2_5_vl"), {"patch_size": 14, "merge_size": 2}
    parts = tiny.Qwen2VLImageProcessor(**sizes), words, tiny.Qwen2VLVideoProcessor(**sizes)
    anatomy = on_meta(config)
    processor = within_budget(
        Qwen2_5_VLProcessor(*parts, chat_template=tiny.chat_template("qwen2_5_vl")), anatomy, *budgets
    )
    shown = {name: tuple(tiny.image(*size) for size in of) for name, of in pictures.items()}
    prompt = encode(processor, anatomy, tiny.problem(**{"images": 0, **shown}))
    assert [*prompt.grids] == grids
    assert int((prompt.kinds == TokenKind.VISUAL).sum()) == sum(t * h * w for t, h, w in grids)
    if "images" in pictures:  # what the prediction of memory counts
        told = [visual_grid(config, size, budgets[0]) for size in pictures["images"]]
        assert told == [(2 * h, 2 * w) for _, h, w in grids]
