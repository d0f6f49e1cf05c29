"""Peak memory from configs, against torch's profiler; and a true 7B config without its weights."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from transformers import AutoImageProcessor, Qwen2_5_VLConfig
from true_configs import TRUE_7B
from typer.testing import CliRunner

from workbench.errors import InputError
from workbench.interfaces.cli import app
from workbench.machine.memory import MemoryForecast, on_meta, predict_memory
from workbench.machine.meter import metered
from workbench.machine.pair_memory import forecast_pair
from workbench.machine.prompt_sizes import configured_budget, visual_grid
from workbench.models.loading import load_pair
from workbench.replay.replay import Replay

sys.path.append(str(Path(__file__).parents[1] / "perf"))
import memory as perf


@pytest.fixture(scope="module")
def config() -> Qwen2_5_VLConfig:
    return Qwen2_5_VLConfig(**TRUE_7B, dtype="bfloat16")


# --- against what is used --------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["tracing", "replay", "decoding", "decoding together"])
@pytest.mark.parametrize(("side", "text"), [(48, 60), (328, 1500)])
def test_the_tiny_pair_uses_what_is_predicted(job, side, text):
    pair, prompt, told = perf.tiny_case(side, text)
    run = perf.jobs(pair, prompt)[job]
    run()
    given = sum(t.numel() * t.element_size() for t in prompt.model_inputs.values())
    assert told.peak(job) == pytest.approx(perf.weights(pair) + given + perf.profiled(run), rel=0.1)


def test_two_models_that_decode_together_have_two_caches(config):
    told = predict_memory(config, config, tokens=500, image=None, samples=16, max_new_tokens=1500)
    parts = told.to_dataframe().set_index(["job", "part"])["bytes"]
    cache = (
        28 * 2 * 4 * 128 * 1999 * 16 * 2
    )  # layers, keys and values, heads of 128, read positions, samples, bytes
    assert parts["decoding", "keys and values, RLVR"] == cache
    together = parts["decoding together"]
    assert together["keys and values, RLVR"] == together["keys and values, base"] == cache
    assert 1.1 * cache > told.peak("decoding together") - told.peak("decoding") > cache
    assert {*predict_memory(config, config).to_dataframe()["job"]} == {"tracing", "replay"}
    with pytest.raises(InputError, match="`samples` is 0; expected a whole number of at least 1"):
        predict_memory(config, config, samples=0)


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


def test_the_plan_of_the_paper_is_for_the_true_7b():
    plan = runpy.run_path(str(Path(__file__).parents[2] / "analyses" / "paper_plan.py"))["CONFIGS"]["7b"]
    for planned, true in (
        (plan["vision_config"], TRUE_7B["vision_config"]),
        ({name: size for name, size in plan.items() if name != "vision_config"}, TRUE_7B["text_config"]),
    ):
        assert planned == {name: true[name] for name in planned}


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
    assert told.peak("replay") > 0  # at text where there is no picture


@pytest.mark.parametrize("family", [f for f in tiny.MULTIMODAL if f not in tiny.QWEN_VL])
def test_tokens_stand_for_pictures_that_are_not_sized(family):
    config = tiny.config(family)
    told = predict_memory(config, config, tokens=90)
    assert "90 tokens, 45 of them of a picture" in told.shape
    assert told.peak("replay") > 0
    assert "45 tokens are taken for visual and 45 for text" in told.notes[0]
    assert family in told.notes[0]
    assert "90 tokens, 80 of" in predict_memory(config, config, tokens=90, text=10).shape


def test_a_text_only_pair_has_no_picture():
    told = predict_memory(tiny.config("llama"), tiny.config("llama"))
    assert "300 tokens, 0 of them of a picture" in told.shape
    assert told.notes == ("no picture",)


def test_layers_share_the_mask(config):
    # 10549 visual tokens: the mask has a byte for each pair of positions, and as much again in every layer would not fit
    settings = Replay(layers=16)
    parts = predict_memory(
        config, config, image=(3840, 2160), budget=(3136, 12845056), text=300, replay=settings
    )
    rows = parts.to_dataframe().set_index(["job", "part"])["bytes"]
    positions, before = 10549 + 100, 100
    prefix = (
        16 * 2 * before * 4 * 128 * 2
    )  # layers, keys and values, heads of a layer and their width, bfloat16
    assert rows["replay", "KV of what is before the picture, and the mask"] == pytest.approx(
        prefix + 10549 * positions, rel=0.01
    )


def test_small_blocks_make_every_logit_a_candidate(config):
    # five distributions at 10849 positions: blocks of 576 rows, fewer than ten stretches of 64
    lens = {
        k: predict_memory(
            config, config, image=(3840, 2160), budget=(3136, 12845056), top_k=k, device="cuda"
        ).parts.query("job == 'tracing' and part == 'lens and null'")["bytes"]
        for k in (9, 10)
    }
    assert float(lens[10].iloc[0] - lens[9].iloc[0]) > 2 * 10849 * 576 * 64


# --- what a processor is configured for ------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    """A checkpoint without weights, and with the processor file that Qwen2.5-VL-7B has."""
    folder = tmp_path_factory.mktemp("qwen")
    config.save_pretrained(folder)
    configure(folder, STOCK)
    return folder


STOCK = {
    "min_pixels": 3136,
    "max_pixels": 12845056,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
}


def configure(folder: Path, settings: dict[str, Any], name: str = "preprocessor_config.json") -> None:
    settings = {"image_processor_type": "Qwen2VLImageProcessor", **settings}
    nested = {"image_processor": settings} if name == "processor_config.json" else settings
    (folder / name).write_text(json.dumps(nested))


def test_the_bundled_pair_has_the_tokens_that_it_encodes():
    pair = load_pair("shapes")
    prompt = pair.encode(tiny.problem(images=(tiny.image(1000, 1000),)))
    visual = int((prompt.visual_index >= 0).sum())
    told = forecast_pair("shapes")
    assert f"{visual + 300} tokens, {visual} of them of a picture" in told.shape
    assert told.notes[1:] == ("pixels: as the processor of shapes/base is configured",)


def test_the_stock_processor_of_the_7b(folder):
    told = forecast_pair(base=folder, rlvr=folder, image=(3840, 2160), device="cuda")
    assert "10849 tokens, 10549 of them of a picture" in told.shape
    assert told.notes == (
        "a picture of 3840 x 2160, resized to between 3136 and 12845056 pixels",
        f"pixels: as the processor of {folder} is configured",
    )


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("preprocessor_config.json", {"min_pixels": 200704, "max_pixels": 1003520}),
        ("preprocessor_config.json", {"size": {"shortest_edge": 65536, "longest_edge": 16777216}}),
        ("preprocessor_config.json", {}),
        ("processor_config.json", {"size": {"shortest_edge": 12544, "longest_edge": 50176}}),
    ],
)
def test_grids_are_those_of_the_configured_processor(config, tmp_path, name, limits):
    configure(tmp_path, {"patch_size": 14, "merge_size": 2, **limits}, name)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    budget = configured_budget(tmp_path, config)
    for size in ((1000, 1000), (37, 300), (640, 480), (2000, 1100)):
        told = processor(images=[tiny.image(*size)], return_tensors="pt")["image_grid_thw"]
        assert told[0].tolist() == [1, *visual_grid(config, size, budget)]


def test_whose_processor_it_is(config, folder, tmp_path):
    for role in ("base", "rlvr", "other"):
        (tmp_path / role).mkdir()
        config.save_pretrained(tmp_path / role)
    models = {"base": tmp_path / "base", "rlvr": tmp_path / "rlvr"}

    def told(**changes: Any) -> MemoryForecast:
        (tmp_path / "pairs.yaml").write_text(
            json.dumps({"mine": {"base": "./base", "rlvr": "./rlvr", **changes}})
        )
        return forecast_pair(str(tmp_path / "pairs.yaml"))

    missing = forecast_pair(**models)
    assert "1525 tokens, 1225" in missing.shape
    assert "resized to between 3136 and 1003520 pixels (assumed" in missing.notes[0]
    assert (
        missing.notes[1] == f"pixels: no processor files of {models['base']} and {models['rlvr']} were found"
    )
    configure(tmp_path / "rlvr", {**STOCK, "max_pixels": 28 * 28 * 100})
    assert "400 tokens, 100 of" in forecast_pair(**models).shape  # the base has none
    configure(tmp_path / "base", {**STOCK, "max_pixels": 28 * 28 * 400})
    assert "700 tokens, 400 of" in told().shape
    assert "400 tokens, 100 of" in told(processor="rlvr").shape
    configure(tmp_path / "other", {**STOCK, "max_pixels": 28 * 28 * 900})
    assert "1200 tokens, 900 of" in told(processor="./other").shape
    own = told(processor="./other", image_pixels=[3136, 28 * 28 * 25])
    assert "325 tokens, 25 of" in own.shape
    assert own.notes[1] == "pixels: as the preset 'mine' says"
    assert "videos: not in the forecast" in told(frame_pixels=[3136, 12544]).notes
    assert forecast_pair(**models, image=None).notes == ("no picture",)


def test_processors_that_are_refused(config, tmp_path):
    configure(tmp_path, {**STOCK, "patch_size": 16})
    with pytest.raises(InputError, match=r"has patch_size 16, the models' vision_config\.patch_size is 14"):
        configured_budget(tmp_path, config)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(InputError, match="its image processor can't be read"):
        configured_budget(tmp_path, config)
    assert configured_budget("nobody/nothing", config) is None


# --- the command, and what is refused --------------------------------------------------------------------


def test_doctor_tells_what_memory_a_pair_needs():
    found = CliRunner().invoke(
        app, ["doctor", "--pair", "shapes", "--image", "64x64"], env={"COLUMNS": "120"}
    )
    assert found.exit_code == 0, found.output
    for part in ("weights, RLVR", "lens and null", "targets", "in all", "of them of a picture, float32,"):
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
    with pytest.raises(InputError, match="`text` is 0 and there is no `image`"):
        predict_memory(config, config, image=None, text=0)
    with pytest.raises(InputError, match="`base` and `rlvr`, or a pair's `name`, are needed"):
        forecast_pair(base="x")
    with pytest.raises(
        InputError, match=r"`base` 'Qwen/Qwen2.5-VL-7B-Instruct': its config can't be read .*local cache"
    ):
        forecast_pair("vl-rethinker-7b")
    with pytest.raises(InputError, match="`tokens` is missing: how llava cuts a picture is not predicted"):
        predict_memory(tiny.config("llava"), tiny.config("llava"))
    with pytest.raises(InputError, match=r"`image` \(9, 9\): how llama cuts an image is not predicted"):
        predict_memory(tiny.config("llama"), tiny.config("llama"), image=(9, 9))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tokens": -4}, "`tokens` is -4; expected at least 1"),
        ({"tokens": 0}, "`tokens` is 0; expected at least 1"),
        ({"tokens": 10}, "`tokens` is 10, but the picture alone has 1225; give at least these"),
        ({"tokens": 1300, "text": 80}, "the picture has 1225 and `text` 80; leave `text` or `tokens` out"),
        ({"text": 30, "before": 31}, "`before` is 31, of 30 tokens that are not visual"),
        ({"image": (0, 5)}, r"`image` is \(0, 5\); expected width and height"),
        ({"image": (1000000, 3)}, r"`image` \(1000000, 3\): its sides differ by a factor of 333333"),
        ({"device": "nix"}, "`device` is 'nix'; expected one of torch's"),
    ],
)
def test_prompts_that_are_refused(config, given, message):
    with pytest.raises(InputError, match=message):
        predict_memory(config, config, **given)


def test_tokens_are_the_whole_prompt(config):
    told = [predict_memory(config, config, tokens=n, replay=Replay(layers=2)) for n in (1225, 1300, 3000)]
    assert [forecast.shape.split()[0] for forecast in told] == ["1225", "1300", "3000"]
    sizes = [forecast.peak("tracing") for forecast in told]
    assert sizes == sorted(set(sizes))


def test_the_device_is_that_which_would_be_used_here(config):
    here = "cuda" if torch.cuda.is_available() else "cpu"
    told = {device: predict_memory(config, config, device=device) for device in (None, "cpu", "cuda:1")}
    assert told["cpu"].peak("tracing") != told["cuda:1"].peak("tracing")
    assert told[None].peak("tracing") == told["cuda:1" if here == "cuda" else "cpu"].peak("tracing")
    assert told[None].shape.endswith(f"on {here}")


@pytest.mark.parametrize(
    "given",
    [
        ("--pair", "shapes", "--image", "big"),
        ("--pair", "shapes", "--image", "1000000x3"),
        ("--pair", "shapes", "--tokens", "-4"),
        ("--tokens", "10"),
        ("--image", "10x10"),
        ("--placement", "together"),
        ("--dtype", "float16"),
        ("--device", "cpu"),
    ],
)
def test_commands_that_are_refused(given):
    assert isinstance(CliRunner().invoke(app, ["doctor", *given]).exception, InputError)


def test_a_text_pair_is_forecast_from_published_numbers_where_its_configs_are_not_here(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    forecast = forecast_pair("oat-zero-1.5b", tokens=500, device="cuda")
    weights = forecast.parts.set_index(["job", "part"])["bytes"]["tracing", "weights, base"]
    # Tied embeddings, 28 layers of attention (with biases of q, k, v), MLP and two norms, a last norm; bfloat16.
    width, inner, kv = 1536, 8960, 2 * 128
    layer = 2 * width * (width + kv) + width + 2 * kv + 3 * width * inner + 2 * width
    assert weights == pytest.approx(2 * (151936 * width + 28 * layer + width), rel=1e-4)
    assert forecast.peak("replay") > 2 * weights  # a text pair learns at text
    assert sum("published numbers of Qwen/Qwen2.5-Math-1.5B" in note for note in forecast.notes) == 2
    shown = CliRunner().invoke(app, ["doctor", "--pair", "oat-zero-1.5b", "--tokens", "500"])
    assert shown.exit_code == 0
    assert "published numbers" in " ".join(shown.stdout.split())
    with pytest.raises(InputError, match=r"`base` 'Qwen/Qwen2\.5-VL-7B-Instruct'"):
        forecast_pair("vl-rethinker-7b")  # its numbers do not ship
