"""Memory that runs out, raised by hand with the errors that torch raises; on a GPU for real."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import tiny
import torch

from workbench import ablate, backoff, decode_many, learn_many, load_pair, trace
from workbench.backoff import MemoryBackoff, piecewise, ran_out, shrink
from workbench.errors import InputError
from workbench.lens import blocks
from workbench.lens import fused as lens
from workbench.lens.fused import LensHead
from workbench.models.pairs import ModelPair
from workbench.replay.replay import Replay

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    "allocate 281474976710656 bytes. Error code 12 (Cannot allocate memory)"
)
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(CPU),
    MemoryError(),
)
SETTINGS = Replay(threshold="quantile", tau=0.4, layers=2, iterations=3)


@pytest.fixture
def pair(tiny_pair: ModelPair, monkeypatch: pytest.MonkeyPatch) -> ModelPair:
    """The tiny pair, of which nothing is known to fit."""
    monkeypatch.setattr(backoff, "_fits", backoff.WeakKeyDictionary())
    return tiny_pair


@contextmanager
def memory_for(rows: int, module: torch.nn.Module, error: Exception) -> Iterator[list[int]]:
    """Meanwhile `module` takes no batch of more than so many rows; the batches that it took."""
    taken: list[int] = []

    def refuse(_: Any, args: Any, kwargs: Any) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        if len(hidden) > rows:
            raise error
        taken.append(len(hidden))

    handle = module.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield taken
    finally:
        handle.remove()


@contextmanager
def noted() -> Iterator[list[str]]:
    """What is said of memory meanwhile."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", MemoryBackoff)
        yield said
    said += [str(w.message) for w in caught if w.category is MemoryBackoff]


def prompts_of(pair: ModelPair, count: int) -> list[Any]:
    return [pair.encode(tiny.problem(seed=seed)) for seed in range(count)]


# --- what ran out ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [*ERRORS, RuntimeError("CUDA error: out of memory")])
def test_errors_of_memory(error):
    assert ran_out(error)


def test_torch_still_says_so_on_this_machine():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 46)
    assert ran_out(caught.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes"), InputError("no"), KeyError("memory")]
)
def test_other_errors_pass_untouched(error):
    tries = []

    def work(size: int) -> None:
        tries.append(size)
        raise error

    with noted() as said, pytest.raises(type(error)) as caught:
        shrink(work, 8, what="it", unit="prompts", advice="stop")
    assert caught.value is error
    assert (tries, said) == ([8], [])


def test_a_failed_try_leaves_no_tensor_behind():
    left: list[Any] = []

    def work(size: int) -> int:
        assert all(one() is None for one in left)
        tensor = torch.zeros(size)
        kept: Any = [tensor]
        kept.append(kept)  # a cycle: only the collector frees it
        left.append(ref(tensor))
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return size

    with pytest.warns(MemoryBackoff, match=r"with 8, 4 prompts at a time; 2 fit, and are kept from here on"):
        assert shrink(work, 8, what="it", unit="prompts", advice="stop") == (2, 2)


def test_groups_are_split_and_none_is_done_twice():
    done: list[int] = []

    def work(group: list[int], here: slice) -> list[int]:
        if len(group) > 2:
            raise MemoryError
        assert group == list(range(11))[here]
        done.extend(group)
        return [10 * item for item in group]

    model = torch.nn.Identity()
    with noted() as said:
        found = list(piecewise([[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10]], work, model=model, what="counting"))
    assert done == list(range(11))
    assert [group for group, _ in found] == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9], [10]]
    assert [item for _, result in found for item in result] == [10 * i for i in range(11)]
    assert said == ["memory ran out in counting with 5 prompts at a time; 2 fit, and are kept from here on"]


# --- the same numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", ERRORS)
def test_tracing_backs_off(pair, error):
    prompts, told = prompts_of(pair, 5), []
    whole = trace(pair, prompts, batch_size=5)
    with memory_for(2, pair.rlvr.layers[1], error) as taken, noted() as said:
        found = trace(pair, prompts, batch_size=5, progress=lambda done, total: told.append(done))
        trace(pair, prompts, batch_size=5)
    assert taken == [2, 2, 1, 2, 2, 1]
    assert told == [0, 2, 4, 5]
    assert said == ["memory ran out in tracing with 5 prompts at a time; 2 fit, and are kept from here on"]
    assert [info.problem_id for info in found.prompts] == [f"p{seed}" for seed in range(5)]
    for name in ("kl", "entropy_base", "entropy_rlvr", "kl_null", "cosine"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-4, atol=1e-6)


def test_replay_backs_off(pair):
    prompts, told = prompts_of(pair, 4), []
    whole = learn_many(pair, prompts, SETTINGS, batch_size=4)
    with (
        memory_for(1, pair.base.layers[0], ERRORS[0]),
        memory_for(2, pair.rlvr.layers[1], ERRORS[1]),
        noted() as said,
    ):
        found = learn_many(pair, prompts, SETTINGS, batch_size=4, progress=lambda done, _: told.append(done))
    assert told == [2, 4]
    assert sorted(text.split(" with ")[0] for text in said) == [
        "memory ran out in replay",
        "memory ran out in taking aim",
    ]
    for one, other in zip(found, whole, strict=True):
        assert one.problem_id == other.problem_id
        assert torch.equal(one.mask, other.mask)
        torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-3, atol=1e-6)


def test_decoding_backs_off_with_the_same_samples(pair):
    prompts = prompts_of(pair, 5)
    learned = learn_many(pair, prompts, SETTINGS)
    how: dict[str, Any] = {"samples": 2, "temperature": 1.0, "max_new_tokens": 6, "interventions": learned}
    whole = decode_many(pair, prompts, batch_size=5, **how)
    with memory_for(4, pair.rlvr.layers[2], ERRORS[0]), noted() as said:  # 2 prompts with 2 samples each
        found = decode_many(pair, prompts, batch_size=5, **how)
    assert found == whole
    assert len(said) == 1


def test_one_prompt_that_does_not_fit(pair):
    with (
        memory_for(0, pair.rlvr.layers[0], ERRORS[0]),
        pytest.raises(
            InputError,
            match=r"memory ran out in tracing with 3, 1 prompts at a time \(CUDA out of memory.*\); give shorter prompts "
            r"or smaller pictures.*device_map=\"auto\"",
        ),
    ):
        trace(pair, prompts_of(pair, 3))


def test_a_folder_that_is_kept_is_not_made_again(pair, tmp_path):
    problems = [tiny.problem(seed=seed) for seed in range(3)]
    how: dict[str, Any] = {
        "samples": 1,
        "pass_at": [1],
        "max_new_tokens": 3,
        "resamples": 10,
        "batch_size": 3,
    }
    whole = ablate(pair, problems, [SETTINGS], **how)
    with memory_for(2, pair.rlvr.layers[1], ERRORS[0]) as taken, noted() as said:
        found = ablate(pair, problems, [SETTINGS], **how, keep=tmp_path)
        taken.clear()
        again = ablate(pair, problems, [SETTINGS], **how, keep=tmp_path)
    assert taken == []
    assert {text.split(" with ")[0].removeprefix("memory ran out in ") for text in said} == {
        "replay",
        "decoding",
        "tracing",
    }
    for one in (found, again):
        assert list(one.responses["text"]) == list(whole.responses["text"])


# --- the lens --------------------------------------------------------------------------------------------


def random_lens(dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    h_base, h_rlvr = torch.randn(2, 7, 16, generator=generator, dtype=dtype)
    weights = torch.randn(2, 3000, 16, generator=generator, dtype=dtype)
    return h_base, h_rlvr, *(LensHead(torch.nn.Identity(), weight) for weight in weights)


def scarce(monkeypatch: pytest.MonkeyPatch, rows: int, error: Exception) -> list[int]:
    """No block of logits has more than so many rows; the blocks that were tried."""
    write, tried = LensHead.write_products, []

    def refuse(self: LensHead, out: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> None:
        tried.append(out.shape[1])
        if tried[-1] > rows:
            raise error
        write(self, out, hidden, weight)

    monkeypatch.setattr(LensHead, "write_products", refuse)
    monkeypatch.setitem(blocks.BLOCK_ELEMENTS, "cpu", blocks.BLOCK_ELEMENTS["cpu"])
    return tried


@pytest.mark.parametrize("error", ERRORS)
def test_the_lens_takes_smaller_blocks(monkeypatch, error):
    given = random_lens()
    whole = lens.compare(*given, jensen_shannon=True)
    tried = scarce(monkeypatch, 800, error)
    with noted() as said:
        found = lens.compare(*given, jensen_shannon=True)
        assert tried[:2] == [3000, 1500]
        tried.clear()
        lens.compare(*given)
    assert max(tried) <= 750
    assert said == [
        "memory ran out in the lens with 3000, 1500 rows of the vocabulary at a time; 750 fit, and are kept from here on"
    ]
    for name in ("kl", "entropy_base", "entropy_rlvr", "top_probs_base", "jensen_shannon"):
        torch.testing.assert_close(getattr(found, name), getattr(whole, name), rtol=1e-10, atol=1e-13)
    for name in ("top_ids_base", "top_ids_rlvr"):
        assert torch.equal(getattr(found, name), getattr(whole, name))


def test_a_lens_without_memory_says_so(monkeypatch):
    given = random_lens()
    scarce(monkeypatch, 10, ERRORS[0])
    with pytest.raises(
        MemoryError, match=r"in the lens with 3000, 1500, 750, 375, 256 rows .*give fewer positions"
    ):
        lens.compare(*given)


def test_where_no_block_fits_the_batch_gets_smaller(pair, monkeypatch):
    prompts = prompts_of(pair, 2)
    whole = trace(pair, prompts, null_draws=0)
    run, positions = lens._Running.scan, sum(map(len, prompts))

    def refuse(self: Any) -> Any:
        if len(self.peak) == positions:
            raise ERRORS[0]
        return run(self)

    monkeypatch.setattr(lens._Running, "scan", refuse)
    with noted() as said:
        found = trace(pair, prompts, null_draws=0)
    assert [text.split(" with ")[0] for text in said] == ["memory ran out in tracing"]
    torch.testing.assert_close(found.kl, whole.kl, rtol=1e-4, atol=1e-6)


# --- a card that is full ---------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_full_card(monkeypatch):
    monkeypatch.setattr(backoff, "_fits", backoff.WeakKeyDictionary())
    monkeypatch.setitem(blocks.BLOCK_ELEMENTS, "cuda", blocks.BLOCK_ELEMENTS["cuda"])
    models = [tiny.model("qwen2_5_vl", seed, vocab_size=50_000).cuda() for seed in (0, 0)]
    pair = load_pair(base=models[0], rlvr=models[1], processor=tiny.processor("qwen2_5_vl"))
    with torch.no_grad():
        models[1].get_input_embeddings().weight.mul_(1.1)
    prompts = prompts_of(pair, 8)
    replay = replace(SETTINGS, top_v=None)
    whole, learned = trace(pair, prompts), learn_many(pair, prompts, replay)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    learn_many(pair, prompts, replay)
    most, total = torch.cuda.max_memory_reserved(), torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.6 * most / total)
    try:
        with noted() as said:
            found, again = trace(pair, prompts), learn_many(pair, prompts, replay)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("memory ran out in replay" in text for text in said)
    torch.testing.assert_close(found.kl, whole.kl, rtol=1e-3, atol=1e-5)
    for one, other in zip(again, learned, strict=True):
        torch.testing.assert_close(one.tokens, other.tokens, rtol=1e-2, atol=1e-5)
