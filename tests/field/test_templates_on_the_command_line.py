"""What a pair is refused for can be mended on the command line, and mistakes there are seen before torch is imported."""

import json
import shutil
import subprocess
import sys

import pytest
import tiny

from workbench.interfaces import cli

THINKS = tiny.chat_template("qwen2_5_vl").replace("assistant\n{% endif", "assistant\n<think>\n{% endif")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny pair whose RLVR model's template opens <think>."""
    folder = tmp_path_factory.mktemp("pair")
    for seed, role in enumerate(("base", "rlvr")):
        tiny.model("qwen2_5_vl", seed).save_pretrained(folder / role)
        tiny.processor("qwen2_5_vl").save_pretrained(folder / role)
    (folder / "rlvr" / "chat_template.jinja").write_text(THINKS)
    (folder / "mine.jinja").write_text(THINKS)
    (folder / "broken.jinja").write_text("{% if %}")
    return folder


@pytest.fixture
def study(monkeypatch, capfd, tmp_path, home):
    def run(*more: str):
        line = ["workbench", "study", "--base", home / "base", "--rlvr", home / "rlvr", "--limit", "1"]
        line += [
            "--device",
            "cpu",
            "--ablate",
            "no",
            "--perturb",
            "no",
            "--bins",
            "2",
            "--out",
            tmp_path / "run",
        ]
        monkeypatch.setattr(sys, "argv", [str(part) for part in (*line, *more)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, capfd.readouterr().err, tmp_path / "run"

    return run


def test_the_refusal_names_the_flag(study):
    """Protects from a refusal that only Python can mend."""
    code, said, _ = study()
    assert code == 2
    assert "`--base` and `--rlvr` have chat templates that differ, " in said
    assert (
        "choose one with `--chat-template base`, `--chat-template rlvr`, `--chat-template FILE` or `--processor"
        in said
    )


@pytest.mark.parametrize(
    ("flag", "value"), [("chat-template", "rlvr"), ("chat-template", "mine.jinja"), ("processor", "rlvr")]
)
def test_the_flag_mends_it(study, home, flag, value):
    """Protects from a pair whose template opens <think> and that no command takes."""
    given = value if (flag, value) == ("chat-template", "rlvr") else str(home / value)
    code, said, run = study(f"--{flag}", given)
    assert code == 0, said
    told = next(json.loads(file.read_text()) for file in run.glob("*.json") if "pair" in file.read_text())
    text = json.dumps(told)
    assert ('"chat_template": ' + json.dumps(given) in text) == (flag == "chat-template")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--chat-template", "rvlr"],
            "`--chat-template` is 'rvlr' (did you mean 'rlvr'?); expected 'base', 'rlvr', or a",
        ),
        (
            ["--chat-template", "HOME/broken.jinja"],
            "broken.jinja' is no Jinja template that writes a question",
        ),
        (
            ["--processor", "/no/such/place"],
            "`--processor` '/no/such/place' is not a folder; give a folder with",
        ),
    ],
)
def test_mistakes_are_seen_without_torch(home, arguments, message):
    """Protects from waiting for imports to be told of a typing error."""
    line = ["study", "--base", str(home / "base"), "--rlvr", str(home / "rlvr"), *arguments]
    line = [part.replace("HOME", str(home)) for part in line]
    program = (
        "import sys; from workbench.interfaces import cli; sys.argv = ['workbench', *sys.argv[1:]]\n"
        "try: cli.main()\nexcept SystemExit as stopped: code = stopped.code\n"
        "print(code, sorted({'torch', 'transformers'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program, *line], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "2 []", done.stderr
    assert message in done.stderr


def test_a_side_without_its_picture_processor_is_mended_by_the_flag(home, tmp_path, study):
    """Protects from a checkpoint saved without the part that reads pictures, which no command took."""
    lacking = shutil.copytree(home / "rlvr", tmp_path / "lacking")
    (lacking / "processor_config.json").unlink()
    code, said, _ = study("--rlvr", str(lacking))
    assert code == 2
    assert "its processor could not be loaded" in said
    assert "`--processor" in said
    code, said, _ = study("--rlvr", str(lacking), "--processor", str(home / "base"))
    assert code == 0, said


@pytest.mark.parametrize(("flag", "value"), [("chat-template", "rlvr"), ("processor", "rlvr")])
def test_figures_take_the_same_flags(home, tmp_path, monkeypatch, capfd, flag, value):
    """Protects from a pair that `workbench study` takes and whose figures no command draws."""
    line = ["workbench", "figures", "top_predictions", "--base", home / "base", "--rlvr", home / "rlvr"]
    line += ["--limit", "2", "--device", "cpu", "--out", tmp_path / "out", "--cache", tmp_path / "cache"]

    def figures(*more: str) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [str(part) for part in (*line, *more)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, "".join(capfd.readouterr())

    code, said = figures()
    assert code == 2
    assert "choose one with `--chat-template base`, `--chat-template rlvr`" in said
    code, said = figures(f"--{flag}", value if flag == "chat-template" else str(home / value))
    assert (code, "top_predictions: made" in said) == (0, True), said
    pair = json.loads((tmp_path / "out" / "top_predictions.json").read_text())["pair"]
    assert pair.get("chat_template", "").startswith("rlvr") == (flag == "chat-template")
