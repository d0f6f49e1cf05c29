"""Models larger than one GPU, precisions and attention kernels, on the CPU by the same path; on GPUs where there are any."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate.hooks import attach_align_device_hook_on_blocks

from workbench import Patch, Replay, decode, learn_tokens, load_pair, prepare_patch, trace
from workbench.errors import InputError
from workbench.models import checkpoints
from workbench.models.checkpoints import Placement
from workbench.models.pairs import ModelPair

REPLAY = Replay(threshold="quantile", layers=2, iterations=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny pair in two folders."""
    pair, where = tiny.pair(), tmp_path_factory.mktemp("pair")
    for role in ("base", "rlvr"):
        getattr(pair, role).model.save_pretrained(where / role)
        tiny.processor("qwen2_5_vl").save_pretrained(where / role)
    return {role: where / role for role in ("base", "rlvr")}


def results(pair: ModelPair) -> dict[str, Any]:
    prompt = pair.encode(tiny.problem())
    learned = learn_tokens(pair, prompt, REPLAY)
    patch = prepare_patch(pair, prompt, Patch(layers=2))
    return {
        "kl": trace(pair, [prompt], interventions=[learned]).kl,
        "tokens": learned.tokens,
        "answers": [
            decode(pair, prompt, intervention=made, max_new_tokens=4)[0].text for made in (learned, patch)
        ],
    }


@pytest.fixture(scope="module")
def expected(saved: dict[str, Path]) -> dict[str, Any]:
    return results(load_pair(**saved, device="cpu"))


def same(found: dict[str, Any], expected: dict[str, Any], relative: float) -> bool:
    for name in ("kl", "tokens"):
        torch.testing.assert_close(
            found[name], expected[name], rtol=relative, atol=relative * expected[name].abs().max().item()
        )
    return found["answers"] == expected["answers"]


# --- several devices -------------------------------------------------------------------------------------


@pytest.mark.timeout(900)  # 36 kinds of work on one core
@pytest.mark.parametrize("kind", [[], ["--narrow"]], ids=["as CUDA is", "without float64"])
def test_all_work_gives_on_a_card_what_it_gives_on_the_cpu(kind):
    """In a process of its own, where the card is a pretence; of all families: ``python tests/support/cards.py all``."""
    program = Path(__file__).parent / "support" / "cards.py"
    run = subprocess.run([sys.executable, str(program), *kind], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    works = int(run.stdout.split(": ")[1].split()[0])
    assert works >= 30


@pytest.mark.parametrize("given", [{"device": "auto"}, {"device_map": {"": "cpu"}}])
def test_a_device_map(saved, expected, given, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert same(results(load_pair(**saved, **given)), expected, 1e-5)


def test_the_hooks_of_a_device_map_change_nothing(saved, expected):
    pair = load_pair(**saved, device="cpu")
    for anatomy in (pair.base, pair.rlvr):
        places = ["", *(f"{anatomy.layers_path}.{i}" for i in range(anatomy.depth)), anatomy.norm_path]
        attach_align_device_hook_on_blocks(
            anatomy.model, dict.fromkeys(places, "cpu"), offload=dict.fromkeys(places, False)
        )
    assert same(results(pair), expected, 1e-5)


def test_weights_that_fit_nowhere_are_refused(saved):
    with pytest.raises(
        InputError,
        match=r"`base` .* does not fit in the memory of the devices in `device_map` .*weights such as",
    ):
        load_pair(**saved, device_map={"": "meta"})


def test_missing_packages_are_named(monkeypatch):
    assert Placement(device="auto").device_map == "auto"
    monkeypatch.setattr(checkpoints, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"`device_map` 'auto' needs a package that is missing: .*accelerate"
    ):
        Placement(device="auto")
    with pytest.raises(
        InputError,
        match=r"`attn_implementation` 'flash_attention_2' needs .* pip install flash-attn; or leave it out for sdpa",
    ):
        Placement(attn_implementation="flash_attention_2")
    assert Placement(attn_implementation="eager").attn_implementation == "eager"


# --- precisions and kernels ------------------------------------------------------------------------------


def test_eager_attention_is_sdpa(saved, expected):
    pair = load_pair(**saved, device="cpu", attn_implementation="eager")
    assert pair.provenance["base"]["attn_implementation"] == "eager"
    assert same(results(pair), expected, 1e-4)


def test_bfloat16_is_near_float32(saved, expected):
    found = results(load_pair(**saved, device="cpu", dtype="bfloat16"))
    assert found["tokens"].dtype == torch.float32
    torch.testing.assert_close(found["kl"], expected["kl"], rtol=0.1, atol=0.05 * expected["kl"].max().item())
    assert torch.cosine_similarity(found["tokens"].flatten(), expected["tokens"].flatten(), dim=0) > 0.8


# --- real cards ------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_cards_give_what_the_cpu_gives(saved, expected):
    layers = {f"model.language_model.layers.{i}": i % 2 for i in range(tiny.LAYERS)}
    rest = ("model.visual", "model.language_model.embed_tokens", "model.language_model.rotary_emb", "lm_head")
    spread = {**layers, **dict.fromkeys(rest, 0), "model.language_model.norm": 1}
    assert same(results(load_pair(**saved, device_map=spread)), expected, 1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kernel", ["sdpa", "eager", "flash_attention_2"])
def test_kernels_agree_in_bfloat16(saved, kernel):
    if kernel == "flash_attention_2":
        pytest.importorskip("flash_attn")
    how: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"}
    reference = results(load_pair(**saved, **how))
    found = results(load_pair(**saved, **how, attn_implementation=kernel))
    torch.testing.assert_close(
        found["kl"], reference["kl"], rtol=0.1, atol=0.05 * reference["kl"].max().item()
    )
