"""Peak memory from configs, against torch's profiler; and a true 7B config without its weights."""

import sys
from pathlib import Path

import pytest
import tiny
import torch
from transformers import Qwen2_5_VLConfig
from typer.testing import CliRunner

from workbench.cli import app
from workbench.errors import InputError
from workbench.memory import forecast_pair, on_meta, predict_memory, visual_grid
from workbench.meters import metered
from workbench.replay import Replay

sys.path.append(str(Path(__file__).parent / "perf"))
import memory as perf

TRUE_7B = {
    "text_config": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    },
    "vision_config": {
        "depth": 32,
        "hidden_size": 1280,
        "intermediate_size": 3420,
        "num_heads": 16,
        "out_hidden_size": 3584,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [7, 15, 23, 31],
    },
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "tie_word_embeddings": False,
}


@pytest.fixture(scope="module")
def config() -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(**TRUE_7B, dtype="bfloat16")


# --- against what is used --------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["tracing", "replay"])
def test_the_tiny_pair_uses_what_is_predicted(job):
    pair, prompt, told = perf.tiny_case()
    run = perf.jobs(pair, prompt)[job]
    run()
    given = sum(t.numel() * t.element_size() for t in prompt.model_inputs.values())
    assert told.peak(job) == pytest.approx(perf.weights(pair) + given + perf.profiled(run), rel=0.1)


def test_a_meter_counts_what_is_alive():
    with metered() as meter:
        a = torch.empty(100, device="meta")
        b = a[:50]  # a view is nothing new
        c = (a * 2) * 2  # the first product is gone when the second is there
        del a
        assert meter.live == 800  # b holds a
        del b
    assert (meter.live, meter.peak) == (400, 1200)
    assert len(c) == 100


def test_the_stand_in_keeps_what_fused_attention_keeps():
    def grown(device: str) -> int:
        parts = [torch.zeros(1, 4, 64, 16, device=device).requires_grad_(True) for _ in range(3)]
        with metered() as meter:
            out = torch.nn.functional.scaled_dot_product_attention(*parts)
        assert out.shape == (1, 4, 64, 16)
        return meter.live

    assert (
        grown("meta") == 4 * 64 * (16 + 1) * 4
    )  # output and log-sum-exp; queries, keys and values were there


# --- the true 7B -----------------------------------------------------------------------------------------


def test_the_true_7b_config_without_weights(config):
    anatomy = on_meta(config)
    assert sum(p.numel() for p in anatomy.model.parameters()) == pytest.approx(8.29e9, rel=1e-3)
    assert anatomy.layers_path == "model.language_model.layers"
    assert anatomy.norm_path == "model.language_model.norm"
    assert anatomy.unembedding_path == "lm_head"
    assert (anatomy.depth, anatomy.hidden_size, anatomy.vocab_size) == (28, 3584, 152064)
    assert (anatomy.spatial_merge, anatomy.visual_token_ids) == (2, {151655, 151656})
    assert all(p.is_meta for p in anatomy.model.parameters())


@pytest.mark.parametrize(
    ("size", "budget", "grid"),
    [
        (
            (1000, 1000),
            (256 * 28 * 28, 1280 * 28 * 28),
            (70, 70),
        ),
        ((280, 140), (256 * 28 * 28, 1280 * 28 * 28), (24, 46)),
        ((4000, 2000), (3136, 12845056), (142, 286)),
        ((336, 336), None, (24, 24)),
    ],
)
def test_grids_are_those_of_the_processor(config, size, budget, grid):
    found = visual_grid(config, size, budget)
    processor = tiny.Qwen2VLImageProcessor(
        patch_size=14,
        merge_size=2,
        **({} if budget is None else {"min_pixels": budget[0], "max_pixels": budget[1]}),
    )
    told = processor(images=[tiny.image(*size)], return_tensors="pt")["image_grid_thw"]
    assert [1, *found] == told[0].tolist()
    assert found == grid


def test_the_memory_of_the_true_7b(config):
    told = predict_memory(config, config, budget=(256 * 28 * 28, 1280 * 28 * 28), replay=Replay(layers=24))
    assert "1525 tokens, 1225 of them of a picture, bfloat16, together" in repr(told)
    parts = told.to_dataframe().set_index(["job", "part"])["bytes"]
    assert parts["tracing", "weights, base"] == pytest.approx(2 * 8.29e9, rel=1e-3)
    assert parts["tracing", "residuals of the base, every layer"] == 28 * 1525 * 3584 * 2
    # ids and log probabilities of 50 tokens for each of 1225 cells in each of 24 layers; of their rows nothing is kept
    assert parts["replay", "targets"] >= 24 * 1225 * 50 * (8 + 4)
    assert parts["replay", "kept for the backward, and the backward"] < 24 * 1225 * 50 * 3584 * 2
    assert 42e9 > told.peak("replay") > told.peak("tracing") > 2 * 16.5e9
    alone = predict_memory(config, config, replay=Replay(layers=24), placement="sequential")
    assert alone.peak("replay") == pytest.approx(told.peak("replay") - 2 * 8.29e9, rel=1e-3)
    assert "tracing" not in set(alone.to_dataframe()["job"])


def test_more_layers_add_what_each_layer_adds(config):
    few, more, most = (
        predict_memory(config, config, image=(280, 280), replay=Replay(layers=k)).peak("replay")
        for k in (8, 12, 16)
    )
    assert more - few == most - more > 0


def test_a_quantile_needs_less_than_every_cell(config):
    whole, part = (
        predict_memory(config, config, replay=Replay(threshold=how, layers=16)).peak("replay")
        for how in ("max_fraction", "quantile")
    )
    assert part < whole


@pytest.mark.parametrize("family", ["llama", "llava", "qwen2_vl", "qwen3_vl"])
def test_other_families(family):
    known = family.startswith("qwen")
    config = tiny.config(family)
    told = predict_memory(config, config, image=(40, 24) if known else None, budget=(256, 2304), text=50)
    assert told.peak("tracing") > 0
    assert ("replay" in set(told.parts["job"])) == known


# --- the command, and what is refused --------------------------------------------------------------------


def test_doctor_tells_what_memory_a_pair_needs():
    found = CliRunner().invoke(
        app, ["doctor", "--pair", "shapes", "--image", "64x64"], env={"COLUMNS": "120"}
    )
    assert found.exit_code == 0, found.output
    for part in ("weights, RLVR", "lens and null", "targets", "in all", "float32, together"):
        assert part in found.stdout
    alone = CliRunner().invoke(
        app,
        ["doctor", "--pair", "shapes", "--image", "64x64", "--placement", "sequential", "--tokens", "900"],
    )
    assert "900 tokens" in alone.stdout
    assert "tracing" not in alone.stdout


def test_calls_that_are_refused(config):
    with pytest.raises(
        InputError, match=r"`image` \(9, 9\): how llava cuts an image is not predicted; leave it out"
    ):
        predict_memory(tiny.config("llava"), tiny.config("llava"), image=(9, 9))
    with pytest.raises(InputError, match="`placement` is 'aside'; expected 'together' or 'sequential'"):
        predict_memory(config, config, placement="aside")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="`text` and `tokens` are 0 and there is no `image`"):
        predict_memory(config, config, image=None, text=0)
    with pytest.raises(InputError, match="`base` and `rlvr`, or a pair's `name`, are needed"):
        forecast_pair(base="x")
    with pytest.raises(
        InputError, match=r"`base` 'Qwen/Qwen2.5-VL-7B-Instruct': its config can't be read .*local cache"
    ):
        forecast_pair("vl-rethinker-7b")
    failed = CliRunner().invoke(app, ["doctor", "--pair", "shapes", "--image", "big"])
    assert isinstance(failed.exception, InputError)
