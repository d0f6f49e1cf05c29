"""The paper's scenarios as typed: problem sets of movies and of two images, from the file to every picture on the page."""

import json
import re
import sys

import pandas as pd
import pytest
import tiny
from movies import numbers, steady, write

import workbench as wb
from workbench.interfaces import cli
from workbench.views.pictures import picture_uri

SETTINGS = (
    "--limit",
    "2",
    "--top-k",
    "3",
    "--null-draws",
    "1",
    "--bins",
    "2",
    "--samples",
    "2",
    "--layers",
    "2",
)
SETTINGS += ("--max-new-tokens", "2", "--threshold", "quantile", "--perturb", "no")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny pair on disk; movies, and pairs of images, each with a table of questions."""
    pair, home = tiny.pair("qwen2_5_vl"), tmp_path_factory.mktemp("scenarios")
    for name, anatomy in (("base", pair.base), ("rlvr", pair.rlvr)):
        anatomy.model.save_pretrained(home / name)
    pair.processor.save_pretrained(home / "base")
    sets: dict[str, list[dict]] = {"movies": [], "two": []}
    for i in range(2):
        write(home / f"{i}.mp4", steady(31, 10), size=(48 + 16 * i, 32))
        names = [f"{i}{letter}.png" for letter in "ab"]
        for number, name in enumerate(names):
            tiny.image(40 + 8 * i, 24 + 16 * number, seed=2 * i + number).save(home / name)
        asked = {"question": "What is it?", "answer": "3"}
        sets["movies"].append({**asked, "video": f"{i}.mp4"})
        sets["two"].append({**asked, "image": names})
    for name, rows in sets.items():
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return home


@pytest.fixture
def run(home, monkeypatch, capfd, tmp_path):
    """Runs a command on the tiny pair: (exit code, stderr)."""
    monkeypatch.chdir(home)
    monkeypatch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)

    def run(*arguments):
        models = ("--base", "base", "--rlvr", "rlvr", "--out", str(tmp_path / "run"))
        monkeypatch.setattr(sys, "argv", ["workbench", *arguments, *models])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code, capfd.readouterr().err

    return run


def views(page):
    """What a page's explorer shows of every problem's images or video."""
    found = [
        json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    ]
    (data,) = (one for one in found if "problems" in one)
    return [problem["views"] for problem in data["problems"]]


def test_a_study_of_movies_shows_every_moment(run, home, tmp_path):
    code, err = run("study", "--problems", "movies.jsonl", "--frames", "6", "--ablate", "yes", *SETTINGS)
    assert code == 0, err
    problems = wb.load_problems(home / "movies.jsonl", frames=6)
    assert numbers(problems[0].video) == [0, 6, 12, 18, 24, 30]
    shown = views((tmp_path / "run" / "report.html").read_text())
    for problem, (view,) in zip(problems, shown, strict=True):
        assert view["name"] == "video"
        assert view["frames"] == [picture_uri(frame) for frame in problem.video[::2]]
    assert json.loads((tmp_path / "run" / "spec.json").read_text())["source"]["frames"] == 6
    drift = pd.read_parquet(tmp_path / "run" / "tables" / "drift.parquet")
    assert {"tokens, low", "patch, low", "self-smoothing"} <= set(drift["intervention"])


def test_a_study_of_two_images_shows_both(run, home, tmp_path):
    code, err = run("study", "--problems", "two.jsonl", "--ablate", "no", *SETTINGS)
    assert code == 0, err
    shown = views((tmp_path / "run" / "report.html").read_text())
    for problem, pictures in zip(wb.load_problems(home / "two.jsonl"), shown, strict=True):
        assert [view["name"] for view in pictures] == ["view 1", "view 2"]
        assert [view["image"] for view in pictures] == [picture_uri(image) for image in problem.images]


def test_the_explorer_shows_movies_beside_images(home, tiny_pair):
    problems = [*wb.load_problems(home / "movies.jsonl"), *wb.load_problems(home / "two.jsonl")]
    shown = views(wb.explore(tiny_pair, [problems[0], problems[2]], top_k=2, followed=2).html())
    assert [[len(view["frames"]) for view in pictures] for pictures in shown] == [[8], [0, 0]]
    assert len(set(shown[0][0]["frames"])) == 8
    assert len({view["image"] for view in shown[1]}) == 2


def test_an_agent_refuses_movies_and_leaves_nothing(run, tmp_path):
    code, err = run("agent", "--problems", "movies.jsonl", "--turns", "2", "--max-new-tokens", "2")
    assert code == 2
    assert "no image (or a movie), and the zoom tool needs images" in err
    assert not list(tmp_path.iterdir())


def test_an_agent_sees_two_images(run, tmp_path):
    code, err = run("agent", "--problems", "two.jsonl", "--turns", "1", "--max-new-tokens", "2")
    assert code == 0, err
    turns = pd.read_parquet(tmp_path / "run" / "tables" / "turns.parquet")
    assert turns["images"].tolist() == [2, 2]


def test_frames_that_make_no_sense(run):
    code, err = run("study", "--problems", "movies.jsonl", "--frames", "0")
    assert code == 2
    assert "`--frames` is '0'; expected at least 1" in err
