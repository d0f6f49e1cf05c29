"""The commands, as typed: they exit with the right code, say what is wrong, and never print a traceback."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import tiny

from workbench import runs
from workbench.interfaces import options, terminal
from workbench.models.loading import load_pair
from workbench.tracing.latent_lens import LatentLens
from workbench.tracing.readings import TunedLens
from workbench.tracing.tuned_lens import Translators

PARITY = Path(__file__).parents[1] / "parity"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny pair on disk."""
    pair, home = tiny.pair("qwen2_5_vl"), tmp_path_factory.mktemp("pair")
    for name, anatomy in (("base", pair.base), ("rlvr", pair.rlvr)):
        anatomy.model.save_pretrained(home / name)
    pair.processor.save_pretrained(home / "base")
    return home


def test_importing_is_instant_and_loads_nothing_heavy():
    program = (
        "import sys; import workbench; heavy = {'torch', 'transformers', 'nnsight', 'plotly', 'pandas', 'numpy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); print(workbench.__version__)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=True, capture_output=True).stdout


def test_help_loads_nothing_heavy():
    program = (
        "import sys; from workbench.interfaces import cli; sys.argv = ['workbench', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'nnsight', 'plotly', 'pandas', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    for command in ("study", "ablate", "agent", "conform", "doctor", "organism"):
        assert command in done.stdout


def test_study_on_own_models(folders, tmp_path, workbench, monkeypatch):
    monkeypatch.setattr(
        "kaleido.write_fig_from_object_sync", lambda *a, **k: None
    )  # PNG: the figures' own tests
    (tmp_path / "mine").mkdir()
    for i in range(3):
        tiny.image(seed=i).save(tmp_path / "mine" / f"{i}.png")
    models = ("--base", str(folders / "base"), "--rlvr", str(folders / "rlvr"))
    arguments = ("study", *models, "--problems", "mine", "--out", "run", "--bins", "2")
    code, out, err = workbench(*arguments)
    assert code == 0, err
    assert "claim" in out
    assert "run/report.html" in out
    assert (tmp_path / "run" / "report.html").is_file()
    code, _, err = workbench(*arguments)
    assert code == 2
    assert "exists: a run of" in err


def test_a_study_reads_layers_through_a_folder_of_translators(folders, tmp_path, workbench, monkeypatch):
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)
    (tmp_path / "mine").mkdir()
    for i in range(2):
        tiny.image(seed=i).save(tmp_path / "mine" / f"{i}.png")
    TunedLens(Translators.identity(tiny.LAYERS, tiny.HIDDEN)).save(tmp_path / "tuned")
    models = ("--base", str(folders / "base"), "--rlvr", str(folders / "rlvr"))
    call = ("study", *models, "--problems", "mine", "--bins", "2")
    code, out, err = workbench(*call, "--out", "run", "--reading", "tuned")
    assert code == 0, err
    assert "tuned lens" in out
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["settings"]["reading"]["name"] == "tuned lens"
    TunedLens(Translators.identity(tiny.LAYERS + 1, tiny.HIDDEN)).save(tmp_path / "other")
    code, _, err = workbench(*call, "--out", "again", "--reading", "other")
    assert code == 2
    assert f"`--reading`: translators of base have {tiny.LAYERS + 1} layers" in " ".join(err.split())


def test_a_study_shows_the_nearest_text_states_of_a_folder(folders, tmp_path, workbench, monkeypatch):
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)
    (tmp_path / "mine").mkdir()
    for i in range(2):
        tiny.image(seed=i).save(tmp_path / "mine" / f"{i}.png")
    own = {model: str(folders / model) for model in ("base", "rlvr")}
    LatentLens.build(load_pair(**own), ["a red circle", "two blue crosses"]).save(tmp_path / "states")
    call = ("study", "--base", own["base"], "--rlvr", own["rlvr"], "--problems", "mine", "--bins", "2")
    code, _, err = workbench(*call, "--out", "run", "--reading", "states")
    assert code == 0, err
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    assert spec["settings"]["reading"]["name"] == "latent lens"
    tables = {file.stem for file in (tmp_path / "run" / "tables").glob("*.csv")}
    assert {"neighbour_shift", "neighbour_fidelity"} <= tables
    (tmp_path / "states" / "states.json").unlink()
    code, _, err = workbench(*call, "--out", "again", "--reading", "states")
    assert code == 2
    assert "`--reading`" in err or "`folder`" in err


def test_ablate_on_own_models(folders, tmp_path, workbench, monkeypatch):
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)
    lines = []
    for i in range(2):
        tiny.image(seed=i).save(tmp_path / f"{i}.png")
        lines.append(json.dumps({"id": f"q{i}", "question": "How many?", "answer": "3", "image": f"{i}.png"}))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    models = ("--base", str(folders / "base"), "--rlvr", str(folders / "rlvr"))
    settings = ("--samples", "2", "--max-new-tokens", "3", "--layers", "2", "--threshold", "quantile")
    arguments = ("ablate", *models, "--problems", "mine.jsonl", *settings, "--out", "run")
    monkeypatch.setenv("COLUMNS", "80")
    code, out, err = workbench(*arguments)
    assert code == 0, err
    assert "│ self-smoothing" in out
    assert "…" not in out
    assert len(json.loads((tmp_path / "run" / "spec.json").read_text())["interventions"]) == 13
    assert (tmp_path / "run" / "figures" / "pass_at_k.html").is_file()
    assert not list(tmp_path.glob(".ablate-*"))
    assert workbench(*arguments)[0] == 2
    code, _, err = workbench(*arguments[:-1], "other", "--tau", "2")
    assert code == 2
    assert "`--tau` is '2'; expected" in err


def test_an_engine_leaves_out_what_it_cannot_draw(tiny_pair, capsys):
    cells = options.LowCells(layers=2, threshold=options.Threshold.QUANTILE)
    drawn = cells.matrix(tiny_pair, options.Engines.VLLM)
    assert "tokens, low" in drawn
    assert "patch, low" not in drawn
    assert (
        "no more: mid tokens, low; patch, low; patch, high; patch, low, all positions; patch, high, all positions."
        in capsys.readouterr().err
    )


def test_agent_on_own_models(folders, tmp_path, workbench):
    lines = []
    for i in range(2):
        tiny.image(seed=i).save(tmp_path / f"{i}.png")
        row = {"id": i, "question": "How many?", "image": f"{i}.png", "system": "Look."}
        lines.append(json.dumps(row | ({"answer": "3"} if i else {})))
    (tmp_path / "mine.jsonl").write_text("\n".join(lines))
    models = ("--base", str(folders / "base"), "--rlvr", str(folders / "rlvr"))
    settings = ("--turns", "2", "--max-new-tokens", "3", "--threshold", "quantile", "--layers", "2")
    arguments = ("agent", *models, "--problems", "mine.jsonl", *settings)
    code, out, err = workbench(*arguments, "--intervention", "tokens", "--lens", "--out", "run")
    assert code == 0, err
    assert "2 problems, 0 answered\n0 of 1 correct" in out
    assert {p.name for p in (tmp_path / "run" / "transcripts").iterdir()} == {"0001.html", "0002.html"}
    turns = pd.read_parquet(tmp_path / "run" / "tables" / "turns.parquet")
    assert turns["problem"].tolist() == ["mine/0"] * 2 + ["mine/1"] * 2
    assert (turns["made_last_loss"] <= turns["made_first_loss"]).all()
    spec = json.loads((tmp_path / "run" / "spec.json").read_text())
    name, chosen = spec["settings"]["intervention"]
    assert (name, chosen["select"], chosen["threshold"]) == ("Replay", "low", "quantile")
    assert spec["settings"]["tool"]["relative_to"] is None
    assert workbench(*arguments, "--out", "run")[0] == 2
    assert workbench(*arguments, "--relative-to", "seen", "--out", "seen")[0] == 0
    spec = json.loads((tmp_path / "seen" / "spec.json").read_text())
    assert spec["settings"]["tool"]["relative_to"] == "seen"
    code, _, err = workbench(*arguments, "--relative-to", "sen", "--out", "other")
    assert code == 2
    assert "`--relative-to` is 'sen'; expected pixels, seen or a number" in err
    code, _, err = workbench(*arguments, "--turns", "0", "--out", "other")
    assert code == 2
    assert "`--turns` is '0'; expected at least 1" in err


def test_agent_without_arguments_has_scenes_to_zoom_into(workbench, tmp_path):
    code, _, err = workbench("agent", "--limit", "2", "--out", "run")
    assert code == 0, err
    agents = pd.read_parquet(tmp_path / "run" / "tables" / "agents.parquet")
    assert agents["calls"].sum() > 0
    assert agents["problem"].str.startswith("shapes-agent").all()


def test_progress_goes_to_standard_error_a_line_a_stage(capsys, monkeypatch):
    with terminal.progress_bars() as progress:
        for done in (0, 1, 2, 2):
            progress("tracing", done, 2)
        progress("figures", 1, 1)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "tracing: 2 of 2\nfigures: 1 of 1\n"
    monkeypatch.setattr(terminal, "PAUSE", -1.0)
    with terminal.progress_bars() as progress:
        progress("tracing", 1, 2)
    assert capsys.readouterr().err == "tracing: 1 of 2\n"
    clock = iter([0.0, 90.0])
    monkeypatch.setattr(terminal, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = terminal._lines()
    progress("answering", 0, 3)
    progress("answering", 1, 3)
    assert capsys.readouterr().err.splitlines()[-1] == "answering: 1 of 3, about 3 min left"


def test_figures_at_once_in_one_folder_are_refused(workbench, tmp_path):
    (tmp_path / "f").mkdir()
    with runs.alone(tmp_path / "f" / ".figures.lock", "no"):
        code, _, err = workbench("figures", "paper_plan", "--out", "f", "--limit", "2")
    assert code == 2
    assert "`--out` f: other figures are being made there" in err
    assert err.rstrip().endswith("workbench figures --out f-2")
    assert list((tmp_path / "f").iterdir()) == []


def test_a_study_says_what_it_left_out(workbench, tmp_path, monkeypatch):
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)
    (tmp_path / "mine.jsonl").write_text(json.dumps({"id": "q", "question": "How many?"}))
    code, out, err = workbench("study", "--problems", "mine.jsonl", "--out", "run")
    assert code == 0, err
    assert "Left out: interventions. 1 of 1 problems, such as 'mine/q', have no answer" in out
    assert "Left out: perturbation. 1 of 1 problems, such as 'mine/q', have no picture" in out
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Left out of this study" in page
    assert "have no picture to disturb" in page


def test_a_warning_is_one_plain_line():
    program = (
        "import sys, warnings; from workbench.interfaces import cli\n"
        "cli.app = lambda: warnings.warn('a video has\\nfewer frames', UserWarning)\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stderr == "warning: a video has fewer frames\n"


def test_conform_exits_by_what_it_found(workbench):
    assert workbench("conform", str(PARITY / "lens"))[0] == 0
    assert workbench("conform", str(PARITY / "lens"), "--tolerance", "1e-30")[0] == 1
    code, out, _ = workbench("conform", str(PARITY / "token_replay"), str(PARITY / "cross_model"))
    assert code == 0
    assert "logits_last" in out


def test_doctor_says_what_works(workbench):
    code, out, _ = workbench("doctor")
    assert code in (0, 1)
    assert "torch" in out


def test_ctrl_c_leaves_no_traceback_and_no_run(folders, tmp_path):
    (tmp_path / "mine").mkdir()
    for i in range(120):
        tiny.image(seed=i).save(tmp_path / "mine" / f"{i}.png")
    models = ("--base", str(folders / "base"), "--rlvr", str(folders / "rlvr"))
    arguments = (
        "study",
        *models,
        "--problems",
        str(tmp_path / "mine"),
        "--limit",
        "120",
        "--out",
        str(tmp_path / "run"),
    )
    command = [sys.executable, "-m", "workbench.interfaces.cli", *arguments]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        # A shell starts what it runs in the background with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.time() + 120
    while not list(tmp_path.glob(".study-*/trace-*")) and time.time() < until:
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 130, out + err
    assert "Traceback" not in out + err
    assert "the same command goes on from there" in err
    assert not (tmp_path / "run").exists()
