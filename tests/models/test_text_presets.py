"""Published base and RLVR models that read text alone: what their presets say, and that it reaches the prompt."""

import pytest
import tiny
import yaml
from typer.testing import CliRunner

from workbench.errors import InputError
from workbench.interfaces.cli import app
from workbench.models.loading import load_pair
from workbench.models.preset_files import pair_preset, read_presets
from workbench.models.presets import PACKAGED, ROLES, PairPreset
from workbench.problems.answers import verify
from workbench.problems.presets import read_problem_presets
from workbench.replay.from_checkpoints import learn_problems

QWEN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
ORZ = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant first "
    "thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning process is "
    "enclosed within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, i.e., <think> "
    "reasoning process here </think> <answer> answer here </answer>. User: You must put your answer inside <answer> </answer> "
    "tags, i.e., <answer> answer here </answer>. And your final answer will be extracted automatically by the \\boxed{} tag.\n"
    "This is the problem:\n1+1?\nAssistant: <think>"
)
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\n1+1?\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
SIMPLERL = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n" + QWEN.format(f"1+1?\n{BOXED}")
OAT = f"<|im_start|>system\n{BOXED}<|im_end|>\n" + QWEN.format("1+1?")
# Base, RLVR model, longest answer, prompt.
TEXT = {
    "simplerl-math-7b": ("Qwen2.5-Math-7B", "hkust-nlp/Qwen-2.5-Math-7B-SimpleRL-Zoo", 3072, SIMPLERL),
    "simplerl-7b": ("Qwen2.5-7B", "hkust-nlp/Qwen-2.5-7B-SimpleRL-Zoo", 16000, SIMPLERL),
    "simplerl-32b": ("Qwen2.5-32B", "hkust-nlp/Qwen-2.5-32B-SimpleRL-Zoo", 16000, SIMPLERL),
    "dapo-qwen-32b": ("Qwen2.5-32B", "BytedTsinghua-SIA/DAPO-Qwen-32B", 20480, QWEN.format(DAPO)),
    "oat-zero-7b": ("Qwen2.5-Math-7B", "sail/Qwen2.5-Math-7B-Oat-Zero", 3000, OAT),
    "oat-zero-1.5b": ("Qwen2.5-Math-1.5B", "sail/Qwen2.5-Math-1.5B-Oat-Zero", 3000, OAT),
    "orz-7b": ("Qwen2.5-7B", "Open-Reasoner-Zero/Open-Reasoner-Zero-7B", 8000, ORZ),
    "orz-32b": ("Qwen2.5-32B", "Open-Reasoner-Zero/Open-Reasoner-Zero-32B", 8000, ORZ),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Tiny `base` and `rlvr` that read text in Qwen's chat format."""
    home = tmp_path_factory.mktemp("text")
    for seed, role in enumerate(ROLES):
        tiny.model("qwen2", seed).save_pretrained(home / role)
        tiny.processor("qwen2").save_pretrained(home / role)
    return home


def on_tiny(home, name: str) -> str:
    """A file with the preset's own settings on the tiny models."""
    (table,) = yaml.safe_load(pair_preset(name).to_yaml()).values()
    table |= {"base": "./base", "rlvr": "./rlvr"}
    (home / f"{name}.yaml").write_text(yaml.safe_dump({name: table}))
    return str(home / f"{name}.yaml")


def test_the_presets_are_the_published_pairs_with_their_sources():
    presets = read_presets()
    assert set(TEXT) == {
        name for name, p in presets.items() if p.base.startswith("Qwen/Qwen2.5-") and "VL" not in p.base
    }
    for name, (base, rlvr, longest, _) in TEXT.items():
        preset = presets[name]
        assert (preset.source("base"), preset.source("rlvr")) == (f"Qwen/{base}", rlvr)
        assert (preset.longest_answer, preset.dtype) == (longest, "bfloat16")
        assert preset.problems in read_problem_presets()
        assert (preset.image_pixels, preset.frame_pixels, preset.replay) == (None, None, {})
        facts = {"base", "rlvr", "dtype", "processor", "longest_answer", "batch_size"}
        facts |= {field for field in ("system", "template", "chat_template") if getattr(preset, field)}
        assert set(preset.sources) == facts, (
            name
        )  # every fact has a source, and no source is of a fact that is not there


@pytest.mark.parametrize("name", TEXT)
def test_a_preset_is_loaded_with_its_settings_and_its_prompt_is_the_published_one(home, name):
    pair = load_pair(on_tiny(home, name), device="cpu")
    problem = tiny.problem(images=0, question="1+1?", verifier="math", answer="2", system=None)
    # Open-Reasoner-Zero's template begins with the begin token of the tokenizer: the tiny one has one, Qwen2.5's none.
    preset = pair.preset
    assert preset is not None
    assert pair.processor is not None
    begins = pair.processor.bos_token if preset.chat_template else ""
    assert "".join(pair.encode(problem).tokens) == begins + TEXT[name][3]
    assert str(pair.dtype) == "torch.bfloat16"
    assert preset.longest_answer == TEXT[name][2]
    assert pair.replay().positions == "text"


def test_a_chat_template_of_the_presets_own_holds_unless_another_is_given(home):
    source = on_tiny(home, "orz-7b")
    pair = load_pair(source, device="cpu")
    assert pair.provenance["asked"]["chat_template"].rstrip().endswith("Assistant: <think>")
    plain = tiny.problem(images=0, question="1+1?", system=None)
    with pytest.raises(InputError, match="knows one question alone, no system prompt and no turns"):
        pair.encode(tiny.problem(images=0, question="1+1?", system="Be brief."))
    other = load_pair(source, device="cpu", chat_template="base")
    assert "<|im_start|>user" in "".join(other.encode(plain).tokens)
    for placement in ("together", "sequential"):
        found = learn_problems([plain], iterations(), name=source, placement=placement, device="cpu")
        assert found.prompts[0].tokens[-1] == pair.encode(plain).tokens[-1]
        assert len(found.prompts[0].tokens) == len(pair.encode(plain).tokens)


def iterations():
    """A replay that is over soon."""
    from workbench.interventions import Replay

    return Replay(layers=1, iterations=1, threshold="quantile", positions="text")


@pytest.mark.parametrize(
    ("said", "correct"),
    [
        (
            "It is 2. </think> <answer> \\boxed{2} </answer>",
            True,
        ),  # Open-Reasoner-Zero: <think> is in the prompt
        ("It is 2. </think> <answer> \\boxed{3} </answer>", False),
        ("We add.\n\nAnswer: $2$", True),  # DAPO
        ("We add 2.\n\nAnswer: 3", False),
        ("We add. So the final answer is $\\boxed{2}$.", True),  # SimpleRL-Zoo, Oat-Zero
    ],
)
def test_the_forms_that_the_pairs_answer_in_are_judged(said, correct):
    assert verify(said, "2", "math").correct is correct


def test_wrong_names_are_named_with_the_nearest(tmp_path):
    with pytest.raises(
        InputError, match=r"'dapo-qwen-7b' is not a known pair \(did you mean 'dapo-qwen-32b'\?\)"
    ):
        pair_preset("dapo-qwen-7b")
    with pytest.raises(InputError, match=r"\(did you mean 'simplerl-7b'\?\)"):
        pair_preset("simple-rl-7b")
    lost = PairPreset("x", base="a", rlvr="b", chat_template="./none.jinja", file=tmp_path / "p.yaml")
    with pytest.raises(
        InputError, match=r"`chat_template` is '.*none\.jinja'; expected 'base', 'rlvr', or a file"
    ):
        lost.in_words()


def test_they_are_listed_and_shown():
    listed = CliRunner().invoke(app, ["pairs", "list"], env={"COLUMNS": "80"})
    assert set(TEXT) <= set(listed.stdout.split())
    shown = yaml.safe_load(CliRunner().invoke(app, ["pairs", "show", "orz-7b"]).stdout)
    (table,) = shown.values()
    assert table["chat_template"] == str(PACKAGED.with_name("open_reasoner_zero.jinja"))
