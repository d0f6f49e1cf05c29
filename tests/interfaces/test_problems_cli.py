"""`workbench problems check` and `workbench rejudge`: what they print, write and refuse."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from workbench.errors import InputError
from workbench.interfaces.cli import app

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path):
    Image.new("RGB", (300, 200), "red").save(tmp_path / "1.png")
    rows = [
        {
            "question": f"<image>\nWhich {EVIL}?",
            "image": "1.png",
            "choices": {"B": "blue", "A": "red"},
            "answer": "(B)",
        },
        {"question": "How many?", "answer": 3, "extra": [1]},
    ]
    (tmp_path / "set.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.output


def test_check_shows_the_first_problems_as_a_model_will_see_them(folder):
    said = call("problems", "check", folder / "set.jsonl", "--html", folder / "page.html", "--show", 1)
    assert f"[set/0] image 300x200\nWhich {EVIL}?\nOptions:\nA. red\nB. blue\n" in said
    assert "answer: B (by choice)" in said
    assert "How many?" not in said
    assert (
        "2 problems; 1 picture; 1 of text alone; answers by choice 1, numeric 1. Left out or changed: cells of column 'extra', "
        "which are no text or number: 1; questions whose marks of pictures were taken out: 1"
    ) in said
    page = (folder / "page.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script>" not in page
    assert page.count("data:image/png;base64,") == 1


def test_check_maps_columns_and_refuses_what_it_can_not_read(folder):
    rows = folder / "named.jsonl"
    rows.write_text(json.dumps({"query": "What?", "left": "1.png", "right": "1.png"}))
    said = call("problems", "check", rows, "--columns", "question=query", "--columns", "image=left,right")
    assert "1 problem; 2 pictures; answers by exact 1; 1 without an answer" in said
    with pytest.raises(InputError, match=r"`(columns|--columns)` is 'query'; expected FIELD=COLUMN"):
        call("problems", "check", rows, "--columns", "query")
    with pytest.raises(InputError, match="no folder"):
        call("problems", "check", rows, "--html", folder / "nowhere" / "page.html")


def run_of(folder, spec):
    run = folder / "run"
    (run / "tables").mkdir(parents=True)
    said = {
        "problem": "set/0",
        "text": "The answer is B. Note that A is red.",
        "answer": "A",
        "correct": False,
    }
    pd.DataFrame([{**said, "how": "last letter, choice"}]).to_parquet(run / "tables" / "responses.parquet")
    (run / "spec.json").write_text(json.dumps(spec))
    return run


def test_rejudge_writes_a_table_beside_the_old_one(folder):
    run = run_of(
        folder, {"source": {"problems": str(folder / "set.jsonl"), "limit": 2}, "settings": {"seed": 0}}
    )
    before = (run / "tables" / "responses.parquet").read_bytes()
    said = call("rejudge", run)
    assert (
        "1 responses; 1 judged otherwise: 1 newly right, 0 newly wrong\n  answer phrase, letter: 1 newly right"
        in said
    )
    table = pd.read_parquet(run / "tables" / "responses_rejudged.parquet")
    assert table[["answer", "correct", "correct_before"]].values.tolist() == [["B", True, False]]
    assert len(pd.read_csv(run / "tables" / "responses_rejudged_changed.csv")) == 1
    assert (run / "tables" / "responses.parquet").read_bytes() == before
    with pytest.raises(InputError, match="is there already; replace it with --overwrite"):
        call("rejudge", run)
    assert "judged otherwise" in call("rejudge", run, "--overwrite")


def test_rejudge_names_what_is_missing(folder):
    run = run_of(folder, {"settings": {}})
    with pytest.raises(
        InputError, match=r"does not name the problems; name them: workbench rejudge .* --problems shapes"
    ):
        call("rejudge", run)
    assert "1 newly right" in call("rejudge", run, "--problems", folder / "set.jsonl")
    with pytest.raises(InputError, match="no such folder"):
        call("rejudge", folder / "nowhere")
    with pytest.raises(InputError, match=r"no tables/responses.parquet"):
        call("rejudge", folder)


def test_the_message_about_a_lost_picture_shows_the_option_that_reads_it(folder):
    (folder / "lost.jsonl").write_text(json.dumps({"question": "What?", "left": "1.png", "right": "1.png"}))
    done = subprocess.run(
        [sys.executable, "-m", "workbench.interfaces.cli", "problems", "check", str(folder / "lost.jsonl")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "--columns image=left,right reads them, --columns image= leaves them out" in done.stderr
