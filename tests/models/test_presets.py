from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from typer.testing import CliRunner

from workbench.errors import InputError
from workbench.interfaces.cli import app
from workbench.interfaces.options import LowCells
from workbench.interventions import Patch, Replay, default_matrix
from workbench.models.bundled import controls_of
from workbench.models.loading import load_pair
from workbench.models.pairs import batch_of, is_bundled, longest_answer
from workbench.models.preset_files import pair_preset, read_presets
from workbench.models.presets import PACKAGED
from workbench.replay.from_checkpoints import learn_problems

PAPER = (
    "mm-eureka-qwen-7b",
    "mm-eureka-qwen-32b",
    "vl-rethinker-7b",
    "mmr1-math-v0-7b",
    "deepeyes-7b",
    "video-r1-7b",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Tiny `base` and `rlvr`, the latter without a processor as Video-R1, and a file of presets beside them."""
    home = tmp_path_factory.mktemp("mine")
    for seed, role in enumerate(("base", "rlvr")):
        tiny.model("qwen2_5_vl", seed).save_pretrained(home / role)
    tiny.processor("qwen2_5_vl").save_pretrained(home / "base")
    table = {
        "base": "./base",
        "rlvr": "./rlvr",
        "processor": "base",
        "dtype": "bfloat16",
        "system": "Be brief.",
        "template": "Q: {question}\nThink first.",
        "endings": {"choice": " One letter."},
        "image_pixels": [256, 576],
        "replay": {"layers": 2, "tau": 0.3, "iterations": 3, "top_v": None},
        "patch": {"threshold": "fixed", "layers": 2, "levels": [2.0, 1]},
        "longest_answer": 7,
        "batch_size": 3,
    }
    plain = {"base": "./base", "rlvr": "./rlvr"}
    (home / "pairs.yaml").write_text(yaml.safe_dump({"mine": table, "plain": plain}))
    (home / "one.yaml").write_text(yaml.safe_dump({"only": plain}))
    return home


@pytest.fixture(scope="module")
def mine(home):
    return load_pair(f"{home}/pairs.yaml:mine", device="cpu")


def test_the_package_has_the_bundled_and_the_papers_pairs():
    presets = read_presets()
    assert tuple(presets)[:9] == ("shapes", "smol", "smolvl", *PAPER)  # those of text: test_text_presets
    for name in PAPER:
        preset = presets[name]
        size = "32B" if "32b" in name else "7B"
        assert preset.source("base") == f"Qwen/Qwen2.5-VL-{size}-Instruct"
        assert preset.dtype == "bfloat16"
        assert not preset.bundled
        settings = Replay(**preset.replay)
        assert (settings.tau, settings.alpha, settings.iterations, settings.top_v) == (0.4, 10.0, 25, 50)
        layers = {"vl-rethinker-7b": 24, "mm-eureka-qwen-32b": 37}.get(name, 16)
        assert len(settings.loss_layers(64 if size == "32B" else 28)) == layers
        assert {"base", "rlvr", "replay"} <= set(preset.sources)
        # A fact that is there has a source.
        told = [f for f in ("system", "template", "image_pixels", "frame_pixels") if getattr(preset, f)]
        assert set(told) <= set(preset.sources), name
    assert presets["video-r1-7b"].processor == "base"
    assert presets["vl-rethinker-7b"].image_pixels == (256 * 28 * 28, 1280 * 28 * 28)


@pytest.mark.parametrize("name", ["deepeyes-7b", "video-r1-7b"])
def test_the_agents_and_the_video_pair_have_the_released_patch(name):
    preset = pair_preset(name)
    released = Patch(
        layers=7,
        threshold="fixed",
        levels=(4.812, 4.781, 3.734, 3.297, 3.328, 3.812, 4.312),
        only_where_base_lower=True,
        positions="all",
    )
    made = default_matrix(28, **preset.matrix())
    visual = replace(
        released, positions=None
    )  # like tokens; the released patch, of all positions, stands beside it
    assert (made["patch, low"], made["patch, high"]) == (visual, replace(visual, select="high"))
    assert made["patch, low, all positions"] == released
    assert made["tokens, low"] == Replay(**preset.replay)
    # What tokens and patches share can be changed for both.
    assert default_matrix(28, **preset.matrix(["alpha"]) | {"alpha": 20.0})["patch, low"] == visual
    changed = default_matrix(28, **preset.matrix(["tau"]) | {"tau": 0.2})
    assert changed["patch, low"] == Patch(tau=0.2, layers=16)
    assert "patch" in preset.sources


def test_the_command_line_takes_the_presets_patch(mine):
    own = replace(mine, preset=replace(mine.preset, patch={"layers": [0, 2], "positions": "visual"}))
    assert LowCells(alpha=5.0).matrix(own)["patch, low"] == Patch(tau=0.3, layers=(0, 2), positions="visual")
    assert LowCells(layers=1).matrix(own)["patch, low"] == Patch(tau=0.3, layers=1)
    assert own.patch(layers=1) == Patch(tau=0.3, layers=1)
    assert own.matrix()["patch, low"] == own.patch()


def test_the_bundled_pair_is_a_preset():
    pair = load_pair("shapes", device="cpu")
    assert is_bundled(pair)
    assert pair.replay() == Replay(threshold="quantile", tau=0.4, alpha=100.0, layers=5)
    assert pair.replay(site="mid_tokens", layer=3).layers is None
    assert pair.patch(select="high") == Patch(select="high", threshold="quantile", tau=0.4, layers=5)
    assert pair.matrix()["patch, high"] == pair.patch(select="high")
    assert pair.matrix(alpha=7.0)["tokens, low"] == pair.replay(alpha=7.0)
    assert (longest_answer(pair), batch_of(pair)) == (64, 32)
    assert list(controls_of(pair)) == ["fine-tuned without RL"]
    assert controls_of(load_pair("shapes", checkpoint="sft", device="cpu")) == {}
    assert pair.provenance["base"]["id"] == "shapes/base"


def test_a_preset_of_ones_own_file_is_loaded_with_its_settings(mine, home):
    assert (mine.name, mine.dtype) == ("mine", torch.bfloat16)
    assert mine.provenance["base"]["id"] == str(home / "base")
    assert mine.provenance["pixels"]["image"] == [256, 576]
    assert mine.provenance["asked"] == {
        "system": "Be brief.",
        "template": "Q: {question}\nThink first.",
        "endings": {"choice": " One letter."},
    }
    assert (longest_answer(mine), batch_of(mine), is_bundled(mine), controls_of(mine)) == (7, 3, False, {})
    matrix = mine.matrix()
    tokens = matrix["tokens, low"]
    assert (tokens.tau, tokens.iterations, tokens.layers, tokens.alpha) == (0.3, 3, 2, 10.0)


def test_without_a_preset_there_are_the_papers_settings(pair_of):
    pair = pair_of("qwen2_5_vl")
    assert pair.replay() == Replay()
    assert (longest_answer(pair), batch_of(pair)) == (1024, 8)
    assert pair.encode(tiny.problem(system=None)).tokens  # and nothing is added


def text_of(pair, problem) -> str:
    return "".join(pair.encode(problem).tokens)


def test_a_problem_is_asked_in_the_presets_words(mine):
    asked = text_of(mine, tiny.problem(images=0, question="How many?"))
    assert "system\nBe brief." in asked
    assert "Q: How many?\nThink first.<|im_end|>" in asked
    choice = tiny.problem(images=0, question="Which?", choices=("red", "blue"), answer="A", verifier="choice")
    asked = text_of(mine, choice)
    assert (
        "Q: Which?\nOptions:\nA. red\nB. blue\nPlease select the correct answer from the options above."
        in asked
    )
    assert asked.split("above.")[1].startswith("\nThink first. One letter.")


def test_a_problems_own_system_prompt_and_template_hold(mine):
    assert "system\nOther." in text_of(mine, tiny.problem(images=0, system="Other."))
    assert "system\n" not in text_of(mine, tiny.problem(images=0, system=""))
    own = tiny.problem(
        images=0,
        question="Which {options}?",
        choices=("a", "b"),
        answer="B",
        verifier="choice",
        template="{options}\n{question}",
    )
    assert "Q: A. a\nB. b\nWhich {options}?\nThink first." in text_of(mine, own)


def test_the_pixel_budget_reaches_the_encoding(mine, home):
    plain = load_pair(f"{home}/pairs.yaml:plain", device="cpu", processor=home / "base")
    problem = tiny.problem(images=(tiny.image(48, 48),))
    assert plain.encode(problem).grids == ((1, 6, 6),)
    assert mine.encode(problem).grids == ((1, 3, 3),)
    assert plain.provenance["pixels"]["image"] == [256, 2304]
    wide = load_pair(f"{home}/pairs.yaml:mine", device="cpu", image_pixels=(2304, 9216))
    assert wide.encode(problem).grids == ((1, 6, 6),)
    assert wide.encode(tiny.problem(images=(tiny.image(80, 80),))).grids == ((1, 10, 10),)


def test_a_budget_leaves_the_given_processor_as_it_was_and_holds_for_frames():
    processor, model = tiny.processor("qwen2_5_vl"), tiny.model("qwen2_5_vl")
    pair = load_pair(base=model, rlvr=model, processor=processor, frame_pixels=(256, 256))
    assert pair.encode(tiny.problem(images=0, frames=4)).grids[0][1:] == (1, 2)  # (4, 5) without
    assert pair.provenance["pixels"] == {"image": [256, 2304], "video": [256, 256]}
    assert processor.video_processor.size["longest_edge"] == 16 * 48 * 48


def test_budgets_that_can_not_be():
    model = tiny.model("llava")
    with pytest.raises(
        InputError, match=r"`image_pixels` \[1, 9\] is for families that cut .* LlavaProcessor"
    ):
        load_pair(base=model, rlvr=model, processor=tiny.processor("llava"), image_pixels=(1, 9))
    with pytest.raises(
        InputError, match=r"`frame_pixels` is \(9, 1\); expected least and most pixels: \[3136"
    ):
        load_pair(base=model, rlvr=model, processor=tiny.processor("llava"), frame_pixels=(9, 1))


@pytest.mark.parametrize("placement", ["together", "sequential"])
def test_problems_are_learnt_by_name(home, placement):
    problem = tiny.problem(images=(tiny.image(48, 48),))
    found = learn_problems(
        [problem],
        Replay(layers=2, iterations=1, threshold="quantile"),
        name=f"{home}/pairs.yaml:mine",
        placement=placement,
        device="cpu",
    )
    assert found.prompts[0].grids == ((1, 3, 3),)
    assert "Be brief." in "".join(found.prompts[0].tokens)
    assert found.pair.dtype == torch.bfloat16
    with pytest.raises(InputError, match="`base` and `rlvr`, or a `name`, are needed"):
        learn_problems([problem], Replay(), base="x")


def test_one_preset_in_a_file_needs_no_name(home):
    assert pair_preset(f"{home}/one.yaml").name == "only"


# --- refused -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vl-rethinker",
            r"`name` 'vl-rethinker' is not a known pair \(did you mean 'vl-rethinker-7b'\?\); there are",
        ),
        (
            "zzz",
            r"`name` 'zzz' is not a known pair; there are shapes, .*: load_pair\(\"shapes\"\), or give your",
        ),
        (
            "{home}/pairs.yaml:mime",
            r"`name` 'mime' is not in .*pairs.yaml \(did you mean 'mine'\?\); there are mine",
        ),
        ("{home}/pairs.yaml", r"`name` '' is not in .*; there are mine, plain"),
        ("{home}/absent.yaml:x", r"absent.yaml could not be read as YAML .*; expected pairs by name:"),
    ],
)
def test_names_that_are_not_there(home, name, message):
    with pytest.raises(InputError, match=message):
        pair_preset(name.format(home=home))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": None}, r"preset 'x' in p.yaml lacks `base`"),
        ({"system": 3}, r"preset 'x' in p.yaml: `system` is 3; expected text"),
        ({"sistem": "a"}, r"has an unknown field 'sistem' \(did you mean 'system'\?\)"),
        ({"replay": {"taw": 1}}, r"`replay` is \{'taw': 1\}; expected entries among layers, tau"),
        ({"replay": {"layers": "all"}}, r"`replay` is .*; expected `layers` as int"),
        ({"patch": {"alpha": 1}}, r"`patch` is \{'alpha': 1\}; expected entries among layers, tau"),
        ({"patch": {"layers": True}}, r"`patch` is .*; expected `layers` as int: patch: \{threshold: fixed"),
        ({"patch": {"layers": ["a"]}}, r"`patch` is .*; expected `layers` as a list of int"),
        ({"patch": {"only_where_base_lower": 1}}, r"expected `only_where_base_lower` as bool"),
        ({"patch": {"threshold": "fixed", "levels": ["a"]}}, r"expected `levels` as a list of float"),
        (
            {"patch": {"threshold": "fixed", "levels": [1, 2.5], "layers": 3}},
            r"expected settings of `Patch` \(`levels` gives 2 entropies, expected 3",
        ),
        (
            {"zoom": {"relative_to": "sen"}},
            r"`zoom` is .*; expected settings of `ZoomTool` \(`relative_to` is",
        ),
        ({"zoom": {"size": 3}}, r"`zoom` is .*; expected entries among name, relative_to, min_side"),
        ({"revision": ["a"]}, r"`revision` is \['a'\]; expected entries among base, rlvr"),
        ({"image_pixels": [9, 1]}, r"`image_pixels` is \[9, 1\]; expected least and most pixels: \[3136"),
        ({"image_pixels": 9}, r"`image_pixels` is 9; expected least and most"),
        ({"longest_answer": 0}, r"`longest_answer` is 0; expected a whole number of at least 1"),
        ({"template": "Think."}, r"`template` is 'Think.'; expected text with one \{question\} in it"),
        ({"endings": {"letters": "a"}}, r"`endings` is .*; expected entries among exact, choice"),
        ({"chat_template": "rlvr"}, r"`chat_template` is 'rlvr'; expected a file with a Jinja template"),
        ({"sources": "a"}, r"`sources` is 'a'; expected a text by field"),
        ({"matmul": "low"}, "`matmul` is 'low'; expected highest, high or medium: matmul: medium"),
        ({"study": {"draws": 1}}, "`study` is .*; expected entries among null_draws, null_models, answers: "),
        ({"study": {"null_draws": "one"}}, "`study` is .*; expected `null_draws` as int"),
        ({"study": {"answers": 0}}, "`study` is .*; expected `answers` of at least 1: study: "),
    ],
)
def test_presets_that_are_wrong_are_refused(tmp_path, changes, message):
    table = {"base": "a/b", "rlvr": "a/c"} | changes
    (tmp_path / "p.yaml").write_text(yaml.safe_dump({"x": table}))
    with pytest.raises(InputError, match=message):
        read_presets(tmp_path / "p.yaml")


@pytest.mark.parametrize("content", ["", "- a", "a: b", "{", "!!python/object/apply:os.getcwd []"])
def test_files_that_are_no_presets_are_refused(tmp_path, content):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(InputError, match="expected pairs by name:\nmine:\n  base: Qwen"):
        read_presets(tmp_path / "p.yaml")


# --- the command ---------------------------------------------------------------------------------------


def test_pairs_are_listed_with_what_is_found_locally(monkeypatch, tmp_path, home):
    snapshot = tmp_path / "models--Video-R1--Video-R1-7B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert pair_preset("video-r1-7b").found("rlvr") is None  # a config, no weights
    (snapshot / "model.safetensors").touch()
    (tmp_path / "models--Video-R1--Video-R1-7B" / "refs").mkdir()
    (tmp_path / "models--Video-R1--Video-R1-7B" / "refs" / "main").write_text("abc")
    assert pair_preset("video-r1-7b").found("rlvr") == snapshot
    assert pair_preset("video-r1-7b").found("base") is None
    assert pair_preset("shapes").found("base") == PACKAGED.parent.parent / "organism" / "weights" / "base"
    runner = CliRunner()
    listed = runner.invoke(app, ["pairs", "list"], env={"COLUMNS": "80"})
    assert listed.exit_code == 0
    words = set(listed.stdout.split())
    for name, preset in read_presets().items():  # every name and hub id can be copied
        assert {name, preset.id_of("base"), preset.id_of("rlvr")} <= words
    assert max(map(len, listed.stdout.splitlines())) <= 80


def test_long_names_and_folders_are_never_cut(tmp_path):
    name, folder = "a-name-that-is-rather-long-for-a-pair", f"/models/{'deep/' * 12}last"
    (tmp_path / "pairs.yaml").write_text(yaml.safe_dump({name: {"base": folder, "rlvr": "./rlvr"}}))
    listed = CliRunner().invoke(app, ["pairs", "list", str(tmp_path / "pairs.yaml")], env={"COLUMNS": "80"})
    assert name in listed.stdout.split()
    assert "…" not in listed.stdout
    told = "".join(
        line.removeprefix(name).split()[0] for line in listed.stdout.splitlines()[2:] if line.strip()
    )
    assert folder in told


def test_settings_of_ones_own_pairs_are_listed(home):
    own = CliRunner().invoke(app, ["pairs", "list", str(home / "pairs.yaml")], env={"COLUMNS": "80"})
    assert "mine" in own.stdout
    assert "K 2, tau 0.3" in own.stdout


def test_what_is_shown_of_a_pair_can_be_read_again(tmp_path, home):
    shown = CliRunner().invoke(app, ["pairs", "show", f"{home}/pairs.yaml:mine"]).stdout
    (tmp_path / "again.yaml").write_text(shown)
    again, preset = pair_preset(f"{tmp_path}/again.yaml"), pair_preset(f"{home}/pairs.yaml:mine")
    assert again.source("base") == str(preset.source("base"))
    assert (again.replay, again.patch, again.system, again.image_pixels) == (
        preset.replay,
        preset.patch,
        preset.system,
        preset.image_pixels,
    )
