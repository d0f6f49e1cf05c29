"""What makes two models not comparable, or comparable in part, is found before any forward and said in words."""

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from pair_folders import load, refused
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig

import workbench as wb
from workbench.decoding.stops import Stops
from workbench.errors import InputError
from workbench.models.loading import load_pair
from workbench.replay.from_checkpoints import learn_problems

THINKS = tiny.chat_template("qwen2_5_vl").replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
SYSTEM = "{% if messages[0]['role'] == 'system' %}Obey. {% endif %}" + tiny.chat_template("qwen2_5_vl")
TOOLS = "{% if tools %}Tools. {% endif %}" + tiny.chat_template("qwen2_5_vl")
TURNS = tiny.chat_template("qwen2_5_vl").replace(
    "<|im_end|>", "{% if m['role'] == 'assistant' %}~{% endif %}<|im_end|>"
)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def template(home: Path, role: str, text: str | None) -> None:
    file = home / role / "chat_template.jinja"
    file.unlink() if text is None else file.write_text(text)


# --- precision and equal weights -------------------------------------------------------------------------


def rounded(home: Path, dtype: torch.dtype, role: str = "rlvr") -> None:
    """The role becomes the base's own copy, rounded."""
    weights = {n: w.to(dtype) for n, w in load_file(home / "base" / "model.safetensors").items()}
    save_file(weights, home / role / "model.safetensors", {"format": "pt"})
    edit(home / role / "config.json", dtype=str(dtype).removeprefix("torch."))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_two_precisions_are_refused_and_one_says_equal(home, dtype, no_forward):
    """Protects from a shift, and a claim, that are rounding and nothing else."""
    rounded(home, getattr(torch, dtype))
    refused(
        home,
        rf"`base` is in float32 and `rlvr` in {dtype} \(first at .*\), and what differs by rounding .*; apart from that "
        rf"rounding their weights are equal: load both in one precision, load_pair\(\.\.\., dtype='{dtype}'\)",
    )


def test_in_one_precision_equal_weights_are_said_to_be_equal(home):
    """Protects from a table of nothings without a word."""
    rounded(home, torch.bfloat16)
    with pytest.warns(
        UserWarning, match=r"`base` and `rlvr` have weights that are equal: no shift between them"
    ):
        pair = load(home, dtype="bfloat16")
    assert pair.provenance["remarks"] == [
        "`base` and `rlvr` have weights that are equal: no shift between them comes from training"
    ]
    assert wb.trace(pair, [tiny.problem()], null_draws=0).kl.max() == 0
    with pytest.warns(UserWarning, match="equal up to rounding to bfloat16: no shift"):
        load(home, dtype="float32")


@pytest.mark.parametrize("placement", ["together", "sequential"])
def test_tokens_are_not_learnt_from_two_precisions(home, placement):
    """Protects from the way that loads one model at a time."""
    rounded(home, torch.bfloat16)
    replay = wb.Replay(layers=2, threshold="quantile", iterations=1)
    with pytest.raises(InputError, match=r"`base` is in float32 and `rlvr` in bfloat16"):
        learn_problems(
            [tiny.problem()],
            replay,
            base=home / "base",
            rlvr=home / "rlvr",
            device="cpu",
            placement=placement,
        )


def test_two_modules_in_two_precisions_are_refused():
    """Protects from the same with modules in memory."""
    models = [tiny.model("qwen2"), tiny.model("qwen2", 1).to(torch.bfloat16)]
    with pytest.raises(
        InputError, match=r"is in float32 and `rlvr` in bfloat16 .* prepare modules in memory with `\.to"
    ):
        load_pair(base=models[0], rlvr=models[1])


def test_one_weight_in_another_precision_is_enough():
    """Protects from a mixture that the first weight does not show."""
    models = [tiny.model("qwen2"), tiny.model("qwen2", 1)]
    models[1].model.norm.to(torch.bfloat16)
    with pytest.raises(InputError, match=r"first at 'model\.norm\.weight'"):
        load_pair(base=models[0], rlvr=models[1])


def test_a_trained_pair_is_loaded_without_a_word(home):
    """Protects from warnings that nobody reads because they always come."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "remarks" not in load(home).provenance
        assert "remarks" not in wb.load_pair("shapes").provenance


# --- chat templates --------------------------------------------------------------------------------------

PLAIN = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Q<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("base", "rlvr", "message"),
    [
        (None, THINKS, "`rlvr` has a chat template and `base` has none, but both"),
        (THINKS, None, "`base` has a chat template and `rlvr` has none, but both"),
        (
            tiny.chat_template("qwen2_5_vl"),
            THINKS,
            r"templates that differ, '.*' and '.*<think>.*', but both",
        ),
        (
            tiny.chat_template("qwen2_5_vl"),
            SYSTEM,
            "templates that differ when a system prompt is given, .*Obey",
        ),
        (tiny.chat_template("qwen2_5_vl"), TURNS, "templates that differ when turns follow, .*~"),
    ],
)
def test_templates_that_write_two_texts_are_refused_and_resolved(home, base, rlvr, message, no_forward):
    """Protects from a template that is dropped, and from one that differs only when a system prompt is given."""
    for role, text in (("base", base), ("rlvr", rlvr)):
        template(home, role, text)
    refused(home, message + r'.* choose one with `chat_template="base"`, `chat_template="rlvr"`')


@pytest.mark.parametrize("choice", ["base", "rlvr", "file"])
def test_a_chosen_template_is_what_both_read(home, choice):
    """Protects from a refusal that the command line can't mend."""
    template(home, "rlvr", THINKS)
    (home / "mine.jinja").write_text(SYSTEM)
    given = home / "mine.jinja" if choice == "file" else choice
    pair = load(home, chat_template=given)
    text = "".join(pair.encode(tiny.problem(system="Be brief.")).tokens)
    assert text.endswith("<think>\n") == (choice == "rlvr")
    assert text.startswith("Obey. ") == (choice == "file")
    assert pair.provenance["chat_template"].startswith(str(given))
    assert not hasattr(tiny.processor("qwen2_5_vl"), "changed")
    whole = load_pair(base=home / "base", rlvr=home / "rlvr", processor=home / "rlvr", device="cpu")
    assert "".join(whole.encode(tiny.problem()).tokens).endswith("<think>\n")


def test_a_prompt_that_opens_thinking_is_answered(home):
    """Protects from a template that opens <think> being refused; `generate` says what follows."""
    template(home, "rlvr", THINKS)
    pair = load(home, chat_template="rlvr")
    prompt = pair.encode(tiny.problem())
    never = sorted(pair.rlvr.visual_token_ids)
    ids = deepcopy(pair.rlvr.model).generate(
        **prompt.model_inputs, max_new_tokens=6, do_sample=False, suppress_tokens=never
    )
    wanted = pair.tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True)
    assert wb.decode(pair, prompt, max_new_tokens=6)[0].text == wanted


def test_a_given_processor_is_not_changed_by_a_template(home):
    """Protects from a template that stays in a processor which somebody else uses."""
    processor, before = tiny.processor("qwen2_5_vl"), tiny.processor("qwen2_5_vl").chat_template
    template(home, "rlvr", THINKS)
    pair = load(home, processor=processor, chat_template="rlvr")
    assert (processor.chat_template, pair.processor.chat_template) == (before, THINKS)


def test_templates_that_differ_with_tools_alone_are_said(home):
    """Protects from refusing pairs for what is never done here."""
    template(home, "rlvr", TOOLS)
    with pytest.warns(
        UserWarning, match="templates that differ when tools are given, which nothing here does"
    ):
        load(home)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("qwen", r"`chat_template` is 'qwen'; expected 'base', 'rlvr', or a file with a Jinja template"),
        (
            "broken",
            r"`chat_template` '.*broken' is no Jinja template that writes a question \(.*\); load_pair",
        ),
        ("binary", r"`chat_template` '.*binary' can't be read as text"),
        ("rlvr", r"`chat_template` is 'rlvr', but `rlvr` brings none .* name a file with the template"),
    ],
)
def test_a_bad_template_is_refused(home, given, message, no_forward):
    """Protects from a traceback of Jinja in the middle of a run."""
    template(home, "rlvr", None)
    (home / "broken").write_text("{% if %}")
    (home / "binary").write_bytes(b"\xff\xfe\xff\xff")
    file = home / given
    refused(home, message, chat_template=file if file.is_file() else given)


# --- what else differs -----------------------------------------------------------------------------------


def processing(home: Path, **changes: Any) -> None:
    file = home / "rlvr" / "processor_config.json"
    told = json.loads(file.read_text())
    told["image_processor"] |= changes
    file.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_mean": [0.5, 0.5, 0.5]},
            r"processors that differ in image_mean: \[0\.48.*\] and \[0\.5, 0\.5, 0\.5\]",
        ),
        ({"image_std": [1.0, 1.0, 1.0]}, "processors that differ in image_std"),
        ({"do_normalize": False}, "processors that differ in do_normalize: 1 and 0"),
        ({"resample": 2}, "processors that differ in resample: 3 and 2"),
    ],
)
def test_processors_that_make_other_pixels_are_refused(home, changes, message, no_forward):
    """Protects from pictures that one of the models has never seen so."""
    processing(home, **changes)
    refused(home, message + ".*; choose the right one with `processor=")


def test_other_pixel_budgets_are_said(home):
    """Protects from resizing in silence for both as the base's processor does."""
    processing(home, size={"shortest_edge": 256, "longest_edge": 4096})
    with pytest.warns(
        UserWarning, match=r"differ in image_processor\.size: .*2304.* and .*4096.* with `image_pixels=`"
    ):
        load(home)


def test_tokenizers_of_one_vocabulary_that_cut_otherwise_are_refused(home, no_forward):
    """Protects from a tokenizer that differs in its merges or its splitting alone."""
    file = home / "rlvr" / "tokenizer.json"
    told = json.loads(file.read_text())
    told["pre_tokenizer"]["add_prefix_space"] = True
    file.write_text(json.dumps(told))
    refused(home, r"tokenizers of one vocabulary that cut .* choose one tokenizer with `processor=")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("text_config", "rope_parameters", "rope_theta"), 77.0, r"rope_theta: 10000\.0 and 77\.0"),
        (("text_config", "rms_norm_eps"), 0.5, r"rms_norm_eps: 1e-05 and 0\.5"),
        (("text_config", "hidden_act"), "gelu", "hidden_act: silu and gelu"),
        (("vision_config", "hidden_act"), "relu", r"vision_config\.hidden_act: silu and relu"),
    ],
)
def test_configs_that_compute_otherwise_are_said(home, path, value, message):
    """Protects from a rope or a norm in a config that passes for a shift of training."""
    file = home / "rlvr" / "config.json"
    config = told = json.loads(file.read_text())
    for name in path[:-1]:
        told = told[name]
    told[path[-1]] = value
    file.write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=rf"compute differently by their configs \(.*{message}"):
        pair = load(home)
    assert "by their configs" in pair.provenance["remarks"][0]


def test_rotary_tables_that_were_rounded_are_said():
    """Protects from `.to(bfloat16)` after loading, which rounds the tables of one side."""
    rounded = tiny.model("qwen2", 1).to(torch.bfloat16)
    kept = tiny.model("qwen2", 0, torch.bfloat16)
    for module in kept.modules():
        if hasattr(module, "original_inv_freq"):
            module.inv_freq = module.inv_freq.float()
            module.inv_freq.copy_(tiny.model("qwen2").model.rotary_emb.inv_freq)
    with pytest.warns(
        UserWarning, match=r"rotary tables that differ \(model\.rotary_emb\.inv_freq\) under equal configs"
    ):
        load_pair(base=kept, rlvr=rounded)


def test_both_end_a_response_at_the_same_tokens(home):
    """Protects from answers that go on after the end, in the model whose generation_config is missing."""
    GenerationConfig(eos_token_id=[258, 70]).save_pretrained(home / "base")
    (home / "rlvr" / "generation_config.json").unlink(missing_ok=True)
    with pytest.warns(
        UserWarning,
        match=r"`base` ends a response at tokens \[70, 258\], `rlvr` at \[258\] .* both end at any",
    ):
        pair = load(home)
    for anatomy in (pair.base, pair.rlvr):
        assert Stops(pair.processor, anatomy).ends == [70, 258]
    pair.rlvr.unembedding.weight[:] = 0
    pair.rlvr.unembedding.weight[70] = pair.rlvr.unembedding.weight[258] + 1e-3 * torch.randn(tiny.HIDDEN)
    prompt = pair.encode(tiny.problem())
    logits = pair.rlvr.model(**prompt.model_inputs).logits[0, -1]
    if logits[70] < 0:
        pair.rlvr.unembedding.weight[70] *= -1
    (response,) = wb.decode(pair, prompt, max_new_tokens=5)
    assert (response.tokens, response.finished) == (1, True)
