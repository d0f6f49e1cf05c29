"""Bad input on the command line: refused in words that name flag, found and expected, before torch is imported."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.interfaces.cli import app
from workbench.models.preset_files import pair_preset

# Command line | parts of the message, in order | a command (or, of a file, a line) that works.
ROWS: list[tuple[str, list[str], str]] = [
    # commands and flags
    ("stud", ["No such command", "did you mean 'study'", "sweep"], "workbench --help"),
    ("sweep rum x.yaml", ["sweep rum", "did you mean 'run'"], "workbench sweep --help"),
    ("study --limt 3", ["`--limt`", "did you mean '--limit'"], "workbench study --help"),
    ("agent --bins 3", ["No such option", "`--bins`"], "workbench agent --help"),
    ("study extra", ["unexpected", "extra"], "workbench study"),
    ("study --limit", ["'--limit' requires an argument"], "workbench study --limit 64"),
    ("sweep plan", ["`FILE` is missing"], "workbench sweep plan FILE"),
    ("pairs show", ["`NAME` is missing"], "workbench pairs show NAME"),
    ("conform", ["`FOLDERS` is missing"], "workbench conform FOLDERS"),
    ("bench --port 70000", ["`--port`", "70000"], "workbench bench --port"),
    ("bench --ip nowhere.invalid", ["`--ip` 'nowhere.invalid'", "take another"], "workbench bench --port 0"),
    ("bench --number -1", ["`--number`", "'-1'", "at least 0"], "workbench bench --number 0"),
    (
        "bench --port 0 --problems shpes",
        ["`--problems` 'shpes'", "did you mean 'shapes'"],
        "workbench bench --problems shapes",
    ),
    # numbers
    ("study --limit 0", ["`--limit`", "'0'", "at least 1"], "workbench study --limit 64"),
    ("study --limit many", ["`--limit`", "'many'", "integer"], "workbench study --limit 64"),
    ("agent --limit 0", ["`--limit`", "'0'", "at least 1"], "workbench agent --limit 8"),
    ("figures --limit -3", ["`--limit`", "'-3'", "at least 1"], "workbench figures --limit 300"),
    ("study --samples 0", ["`--samples`", "'0'", "at least 1"], "workbench study --samples 16"),
    ("ablate --samples -1", ["`--samples`", "'-1'", "at least 1"], "workbench ablate --samples 16"),
    ("study --bins 1", ["`--bins`", "'1'", "at least 2"], "workbench study --bins 5"),
    ("study --top-k 0", ["`--top-k`", "'0'", "at least 1"], "workbench study --top-k 10"),
    ("study --null-draws -1", ["`--null-draws`", "'-1'", "at least 0"], "workbench study --null-draws 3"),
    ("study --seed -1", ["`--seed`", "'-1'", "at least 0"], "workbench study --seed 0"),
    ("study --frames 0", ["`--frames`", "'0'", "at least 1"], "workbench study --frames 16"),
    ("study --batch-size 0", ["`--batch-size`", "'0'", "at least 1"], "workbench study --batch-size 8"),
    ("ablate --batch-size=-1", ["`--batch-size`", "'-1'", "at least 1"], "workbench ablate --batch-size 8"),
    (
        "agent --max-new-tokens 0",
        ["`--max-new-tokens`", "'0'", "at least 1"],
        "workbench agent --max-new-tokens 256",
    ),
    ("agent --turns 0", ["`--turns`", "'0'", "at least 1"], "workbench agent --turns 10"),
    ("study --tau 2", ["`--tau`", "'2'", "1"], "workbench study --tau 0.4"),
    ("study --tau nan", ["`--tau`", "nan", "expected"], "workbench study --tau 0.4"),
    ("ablate --alpha -1", ["`--alpha`", "'-1'", "at least 0"], "workbench ablate --alpha 10"),
    ("ablate --alpha inf", ["`--alpha`", "inf", "finite"], "workbench ablate --alpha 10"),
    ("ablate --temperature inf", ["`--temperature`", "inf", "finite"], "workbench ablate --temperature 1.0"),
    ("agent --temperature -1", ["`--temperature`", "'-1'", "at least 0"], "workbench agent --temperature 0"),
    ("study --reading nowhere", ["`--reading` nowhere is no folder"], "workbench study --reading runs/tuned"),
    ("study --layers 0", ["`--layers`", "'0'", "at least 1"], "workbench study --layers 5"),
    ("study --layers 99", ["`--layers` is 99", "8 layers"], "workbench study --layers 8"),
    ("study --layers 99 --ablate no", ["`--layers` is 99", "8 layers"], "workbench study --layers 8"),
    (
        "agent --layers 99 --intervention patch",
        ["`--layers` is 99", "8 layers"],
        "workbench agent --layers 8",
    ),
    ("compare", ["`RUNS` is empty", "two or more"], "workbench compare runs/shapes runs/smol"),
    ("compare one", ["`RUNS` one is no folder"], "workbench compare runs/shapes runs/smol"),
    (
        "compare one two",
        ["`RUNS` one is no folder", "manifest.json"],
        "workbench compare runs/shapes runs/smol",
    ),
    (
        "compare one two --out .",
        ["`--out` . is a folder"],
        "workbench compare runs/shapes runs/smol --out compare.html",
    ),
    ("study --pairs shapes", ["`--pairs` is 'shapes'", "two names"], "workbench study --pairs shapes,smol"),
    (
        "study --pairs shapes,nope",
        ["`--pairs` 'nope' is not a known pair"],
        "workbench study --pairs shapes,smol",
    ),
    ("agent --pair smol", ["`--pair` 'smol' reads no pictures"], "workbench agent --pair shapes"),
    (
        "problems check nope.tsv",
        ["`SOURCE` 'nope.tsv'", "no such file or folder"],
        "workbench problems check problems.jsonl",
    ),
    ("study --pairs shapes,shapes", ["two of one name"], "workbench study --pairs shapes,smol"),
    (
        "study --pairs a,b --pair shapes",
        ["`--pairs` was given beside `--pair`"],
        "workbench study --pairs shapes,smol",
    ),
    ("conform {case} --tolerance -1", ["`--tolerance`", "'-1'", "at least 0"], "workbench conform FOLDERS"),
    ("organism evaluate --samples 0", ["`--samples`", "'0'", "at least 1"], "--samples 64"),
    ("organism evaluate --videos -1", ["`--videos`", "'-1'", "at least 0"], "--videos 150"),
    ("doctor --pair shapes --tokens 0", ["`--tokens`", "'0'", "at least 1"], "--tokens 800"),
    ("sweep run {sweep} --workers 0", ["`--workers`", "'0'", "at least 1"], "--workers 2"),
    ("sweep run {sweep} --cache -1", ["`--cache`", "'-1'", "at least 0"], "--cache 2.0"),
    ("sweep plan {sweep} --throughput 0", ["`--throughput` is 0", "above 0"], "--throughput 300"),
    # words
    ("study --dtype float8", ["`--dtype`", "'float8'", "bfloat16"], "workbench study --dtype bfloat16"),
    ("study --ablate maybe", ["`--ablate`", "'maybe'", "'auto'"], "workbench study --ablate auto"),
    ("study --threshold fixed", ["`--threshold`", "'fixed'", "quantile"], "--threshold quantile"),
    ("agent --intervention patsh", ["`--intervention`", "'patsh'", "'patch'"], "--intervention none"),
    (
        "agent --relative-to sen",
        ["`--relative-to`", "'sen'", "pixels, seen or a number"],
        "--relative-to 1000",
    ),
    ("agent --relative-to -5", ["`--relative-to`", "'-5'", "number"], "workbench agent --relative-to 1000"),
    ("study --engine vlm", ["`--engine`", "'vlm'", "vllm"], "workbench study"),
    ("sweep run {sweep} --engine mars", ["`--engine`", "'mars'", "'slurm'"], "workbench sweep run FILE"),
    ("study --device cudaa", ["`--device`", "'cudaa'", "did you mean 'cuda'"], "--device cpu"),
    (
        "conform {case} --device gpu",
        ["`--device`", "'gpu'", "cpu, cuda"],
        "workbench conform FOLDERS --device cpu",
    ),
    (
        "study --attn-implementation sddpa",
        ["`--attn-implementation`", "'sddpa'", "sdpa"],
        "--attn-implementation sdpa",
    ),
    ("doctor --pair shapes --placement apart", ["`--placement`", "'apart'", "sequential"], "--placement"),
    ("doctor --pair shapes --image 3", ["`--image`", "'3'", "width and height"], "--image 1000x800"),
    ("doctor --tokens 5", ["`--tokens`", "memory of a pair"], "workbench doctor --pair shapes"),
    # pairs
    ("study --pair shaps", ["`--pair` 'shaps'", "did you mean 'shapes'"], "workbench study --pair shapes"),
    ("doctor --pair shaps", ["`--pair` 'shaps'", "did you mean 'shapes'"], "workbench doctor --pair shapes"),
    ("pairs show shaps", ["`NAME` 'shaps'", "did you mean 'shapes'"], "workbench pairs show shapes"),
    ("study --pair shapes --base a", ["`--pair` 'shapes'", "beside `--base`"], "workbench study --base"),
    ("study --base a", ["`--rlvr` is missing", "a"], "workbench study --base runs/base --rlvr runs/rlvr"),
    ("ablate --rlvr a", ["`--base` is missing", "a"], "workbench ablate --base runs/base --rlvr runs/rlvr"),
    ("study --base no/one --rlvr no/two", ["`--base` 'no/one'", "offline"], "hf download no/one"),
    (
        "study --base {home}/none --rlvr {model}",
        ["`--base`", "none'", "is not a folder"],
        "workbench study --base",
    ),
    ("study --base {home} --rlvr {model}", ["`--base`", "no config.json"], "workbench study --base"),
    ("study --base {model} --rlvr {cut}", ["`--rlvr`", "cut short"], "workbench study --base"),
    (
        "study --base {model} --rlvr {deeper}",
        ["`--base` and `--rlvr` differ", "8 and 9"],
        "workbench study --base",
    ),
    ("study --base {model} --rlvr {empty}", ["`--rlvr`", "no safetensors weights"], "workbench study --base"),
    ("study --pair {home}/none.yaml:x", ["none.yaml", "could not be read", "pairs by name"], "base: Qwen"),
    ("study --pair {broken}:x", ["broken.yaml", "could not be read as YAML"], "base: Qwen"),
    ("study --pair {pairs}:mime", ["`--pair` 'mime'", "did you mean 'mine'"], "workbench study --pair mine"),
    (
        "study --pair {pairs}:odd",
        ["preset 'odd'", "unknown field 'tua'", "expected base"],
        "expected base, rlvr",
    ),
    ("pairs list {broken}", ["broken.yaml", "could not be read as YAML"], "base: Qwen"),
    # problems
    (
        "study --problems shpes",
        ["`--problems` 'shpes'", "did you mean 'shapes'"],
        "workbench study --problems shapes",
    ),
    ("study --problems none.tsv", ["`--problems` 'none.tsv'", "no such file"], "workbench study --problems"),
    (
        "ablate --problems {home}/x.txt",
        ["`--problems` 'x.txt'", "unknown kind", ".jsonl"],
        "workbench ablate",
    ),
    ("study --problems mathvista", ["`--problems` 'mathvista'", "not on this machine"], "hf download"),
    ("study --split tset", ["`--split` is 'tset'", "train, validation, test"], "--split test"),
    ("figures --split tset", ["`--split` is 'tset'", "train, validation, test"], "--split test"),
    (
        "study --problems {torn}",
        ["torn.jsonl, line 1", "malformed JSON", "expected one object a line"],
        '"question"',
    ),
    ("study --problems {unasked}", ["unasked.jsonl, line 1", "question"], "query"),
    ("study --problems {nobody}", ["`--problems`", "empty problem set"], "workbench study --problems shapes"),
    (
        "ablate --problems {open}",
        ["`--problems`", "1 of 1 problems", "no answer"],
        "workbench ablate --problems shapes",
    ),
    (
        "study --problems {open} --ablate yes",
        ["`--ablate` is yes", "of `--problems` 1 of 1 problems", "no answer"],
        "workbench study --ablate no",
    ),
    (
        "study --problems {open} --perturb yes",
        ["`--perturb` is yes", "of `--problems` 1 of 1 problems", "no picture"],
        "workbench study --perturb no",
    ),
    # reading
    (
        "figures --chat-template rvlr",
        ["`--chat-template` is 'rvlr'", "did you mean 'rlvr'", "a file with a Jinja template"],
        "workbench figures --chat-template rlvr",
    ),
    (
        "study --chat-template {template}",
        ["`--chat-template`", "is no Jinja template that writes a question"],
        "workbench study --chat-template rlvr",
    ),
    (
        "figures --processor {home}/none",
        ["`--processor`", "is not a folder", "hub id"],
        "workbench figures --base runs/base --rlvr runs/rlvr --processor runs/base",
    ),
    (
        "figures --attn-implementation sddpa",
        ["`--attn-implementation` is 'sddpa'", "sdpa"],
        "workbench figures --attn-implementation sdpa",
    ),
    ("doctor --pair shapes --image 0x5", ["`--image` is '0x5'", "at least 1 pixel"], "--image 1000x800"),
    # problems check, rejudge, columns
    ("problems check {open} --html {home}", ["`--html`", "is a folder", "name a file"], "page.html"),
    (
        "problems check {open} --html {home}/no/x.html",
        ["`--html`", "no folder", "name a file in a folder"],
        "--html page.html",
    ),
    (
        "problems check {open} --show -1",
        ["`--show`", "'-1'", "at least 0"],
        "workbench problems check SOURCE",
    ),
    (
        "problems check {open} --columns image",
        ["`--columns` is 'image'", "expected FIELD=COLUMN"],
        "workbench problems check SOURCE",
    ),
    (
        "study --columns pic=img",
        ["`--columns` maps 'pic'", "no field of a problem", "image_path"],
        "workbench study --columns question=query",
    ),
    (
        "problems check {open} --columns image=img",
        ["`--columns` maps 'image' to 'img'", "found question"],
        "workbench problems check SOURCE --columns",
    ),
    ("rejudge", ["`RUN` is missing"], "workbench rejudge RUN"),
    ("rejudge {home}/none", ["`RUN`", "no such folder", "kept responses"], "workbench rejudge runs/study"),
    ("rejudge {run}", ["`RUN`", "no tables/responses.parquet"], "workbench rejudge runs/study"),
    (
        "agent --problems {open}",
        ["of `--problems` 1 of 1 problems", "no image", "the zoom tool needs images"],
        "workbench agent --problems shapes-agent",
    ),
    # folders
    ("study --out {file}", ["`--out`", "is a file", "expected a folder"], "workbench study --out"),
    (
        "study --out {home}",
        ["`--out`", "is no run of the workbench", "nothing in it"],
        "workbench study --out",
    ),
    ("study --out {home} --overwrite", ["`--out`", "is no run of the workbench"], "workbench study --out"),
    ("study --out {run}", ["`--out`", "a run of 2 files", "--overwrite"], "workbench study --out"),
    ("ablate --out {file}/run", ["`--out`", "can't be written"], "workbench ablate --out my-run"),
    ("figures radar --out {file}", ["`--out`", "is a file"], "workbench figures --out"),
    ("figures radar --cache {file}", ["`--cache`", "is a file"], "workbench figures --cache"),
    (
        "figures radar --run {home}",
        ["`--run`", "no finished run", "manifest.json"],
        "workbench figures --run",
    ),
    ("figures radr", ["`NAMES`", "'radr'", "did you mean 'radar'"], "workbench figures alternatives"),
    ("conform {home}/none", ["`FOLDERS`", "none'", "is not a folder"], "workbench conform"),
    (
        "conform {home}",
        ["`FOLDERS`", "lacks case.json", "a recorded case holds"],
        "workbench conform FOLDERS",
    ),
    (
        "organism train --recipe none.yaml",
        ["`--recipe` none.yaml", "can't be read", "recipe.yaml"],
        "--recipe",
    ),
    (
        "organism train --recipe {broken}",
        ["`--recipe`", "can't be read", "recipe.yaml"],
        "--recipe recipe.yaml",
    ),
    ("organism train --recipe {pairs}", ["`--recipe`", "lacks", "vocabulary"], "--recipe recipe.yaml"),
    ("organism train --out {file}", ["`--out`", "is a file"], "workbench organism train --out"),
    (
        "organism evaluate --folder {home}",
        ["`--folder`", "base/model.safetensors"],
        "workbench organism train --out",
    ),
    ("organism evaluate --split tset", ["`--split` is 'tset'", "test"], "--split test"),
    # sweeps
    ("sweep run none.yaml", ["none.yaml can't be read", "write a sweep"], "pairs: [shapes]"),
    ("sweep plan {broken}", ["broken.yaml:", "this is no YAML"], "pairs: [shapes]"),
    ("sweep run {wrong}", ["wrong.yaml:1:", "'shaps'", "did you mean 'shapes'"], "wrong.yaml:1:"),
    ("sweep run {sweep} --out {file}", ["`--out`", "is a file"], "workbench sweep run FILE --out"),
    (
        "sweep run {sweep} --share {home}",
        ["`--share`", "holds no sweep"],
        "workbench sweep run sweep.yaml --out",
    ),
    ("sweep status {home}", ["`FOLDER`", "holds no sweep"], "workbench sweep run sweep.yaml --out"),
    ("sweep resume {home}", ["`FOLDER`", "holds no sweep"], "workbench sweep run sweep.yaml --out"),
    ("sweep export {home}", ["`FOLDER`", "holds no sweep"], "workbench sweep run sweep.yaml --out"),
    ("sweep export {sweep}", ["`FOLDER`", "is a file", "expected the folder of a sweep"], "--out my-sweep"),
    ("sweep verify {home}", ["holds no sweep"], "workbench sweep run sweep.yaml --out"),
    ("sweep diff {home} {home}", ["holds no sweep"], "workbench sweep run sweep.yaml --out"),
]

PROGRAM = """
import contextlib, io, json, sys
from workbench.interfaces import cli

told = []
for line in json.loads(sys.stdin.read()):
    sys.argv = ["workbench", *line]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as stopped:
            code = stopped.code
    heavy = [name for name in ("torch", "transformers", "nnsight", "plotly") if name in sys.modules]
    told.append([code, out.getvalue(), err.getvalue(), heavy])
print(json.dumps(told))
"""


def places(home: Path) -> dict[str, Path]:
    """Files and folders that something is wrong with, by the name that rows have for them."""
    (home / "file").write_text("")
    (home / "x.txt").write_text("")
    (home / "template").write_text("{% if %}")
    (home / "broken.yaml").write_text("a: [1\nb: {")
    (home / "pairs.yaml").write_text("mine: {base: a, rlvr: b}\n")
    (home / "odd.yaml").write_text("odd: {base: a, rlvr: b, tua: 1}\n")
    (home / "torn.jsonl").write_text('{"question": "How')
    (home / "unasked.jsonl").write_text('{"query": "How many?", "answer": "3"}\n')
    (home / "open.jsonl").write_text('{"question": "How many?"}\n')
    (home / "nobody").mkdir()
    (home / "sweep.yaml").write_text("pairs: [shapes]\nproblems: [{source: shapes, limit: 1}]\n")
    (home / "wrong.yaml").write_text("pairs: [shaps]\nproblems: [shapes]\n")
    (home / "run").mkdir()
    for name in ("manifest.json", "spec.json"):
        (home / "run" / name).write_text('{"spec.json": ""}')
    model = pair_preset("shapes").source("base")
    config = json.loads((model / "config.json").read_text())
    whole = (model / "model.safetensors").read_bytes()
    for name, changed, weights in (
        ("cut", {}, whole[:4000]),
        ("empty", {}, b""),
        ("deeper", {"num_hidden_layers": 9}, whole),
    ):
        (home / name).mkdir()
        text = config["text_config"] | changed
        (home / name / "config.json").write_text(json.dumps(config | {"text_config": text}))
        if weights:
            (home / name / "model.safetensors").write_bytes(weights)
    made = {path.stem if path.is_file() else path.name: path for path in home.iterdir()}
    made["pairs"] = home / "pairs.yaml"
    case = Path(__file__).parents[1] / "parity" / "lens"
    return made | {"home": home, "model": Path(model), "case": case}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory):
    """What each row's command line says, all typed into one process that has not imported torch."""
    home = tmp_path_factory.mktemp("bad")
    known = places(home)
    odd = {"{pairs}:odd": f"{home}/odd.yaml:odd"}
    lines = []
    for typed, _, _ in ROWS:
        words = [odd.get(word, word) for word in typed.split()]
        lines.append([re.sub(r"\{(\w+)\}", lambda match: str(known[match[1]]), word) for word in words])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(lines),
        capture_output=True,
        text=True,
        cwd=home,
        check=True,
    )
    before = sorted(path.name for path in home.iterdir())
    return dict(zip((typed for typed, _, _ in ROWS), json.loads(done.stdout), strict=True)), before


@pytest.mark.parametrize(("typed", "parts", "works"), ROWS, ids=[row[0] for row in ROWS])
def test_bad_input_is_refused_in_words_before_torch(refusals, typed, parts, works):
    code, out, err, heavy = refusals[0][typed]
    assert code == 2, out + err
    assert re.search("^workbench: ", err, re.MULTILINE)  # what a file holds may be said before
    place = 0
    for part in parts:
        assert part in err[place:], f"{part!r} is not in {err!r}"
        place = err.index(part, place)
    assert works in err
    assert "Traceback" not in err
    assert out == ""
    assert not re.search(r"load_problems\(|load_pair\(|Replay\(|\w=['\"]", err), "speaks Python"
    assert heavy == []


def test_a_refusal_leaves_nothing_behind(refusals):
    assert [name for name in refusals[1] if name.startswith(".") or name == "runs"] in ([], ["runs"])


def test_rows_are_many_and_different():
    assert len({row[0] for row in ROWS}) == len(ROWS) >= 120


def test_what_only_torch_can_see_is_said_in_flags_too(monkeypatch, capsys, tmp_path):
    from workbench.interfaces import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["workbench", "study", "--device", "cuda:77", "--limit", "1"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    err = capsys.readouterr().err
    assert "`--device` 'cuda:77' does not work here" in err
    assert err.rstrip().endswith("workbench study --device cpu")
    assert not list(tmp_path.glob("runs/*"))


def test_no_command_has_more_than_eight_parameters_of_its_own():
    import inspect

    from workbench.interfaces import (
        cli,
        compare_cli,
        machine_cli,
        organism_cli,
        pairs_cli,
        study_cli,
        sweep_cli,
    )

    counted = 0
    for module in (cli, compare_cli, study_cli, machine_cli, organism_cli, pairs_cli, sweep_cli):
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not name.startswith("_"):
                counted += 1
                assert len(inspect.signature(function).parameters) <= 8, name
    assert counted > 15
    assert app.registered_commands
