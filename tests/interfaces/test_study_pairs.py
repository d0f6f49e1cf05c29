"""`workbench study --pairs`: one after another, resumed where it stopped, then the page; `workbench compare` on what is there."""

import json

import pandas as pd
import pytest
import tiny
import yaml

from workbench.studies import study as study_module
from workbench.studies import written

pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """Two tiny pairs by name."""
    home = tmp_path_factory.mktemp("pairs")
    for seed in range(3):
        tiny.model("qwen2_5_vl", seed).save_pretrained(home / str(seed))
    tiny.processor("qwen2_5_vl").save_pretrained(home / "0")
    pairs = {"one": {"base": "./0", "rlvr": "./1"}, "two": {"base": "./0", "rlvr": "./2"}}
    (home / "pairs.yaml").write_text(yaml.safe_dump(pairs))
    return f"{home}/pairs.yaml:one,{home}/pairs.yaml:two"


def test_several_pairs_are_studied_once_and_compared(presets, tmp_path, workbench, monkeypatch):
    (tmp_path / "mine").mkdir()
    for i in range(3):
        tiny.image(seed=i).save(tmp_path / "mine" / f"{i}.png")
    arguments = ("study", "--pairs", presets, "--problems", "mine", "--bins", "2", "--out", "all")
    traced = []
    trace = study_module.trace
    monkeypatch.setattr(study_module, "trace", lambda pair, *a, **k: traced.append(1) or trace(pair, *a, **k))
    stopped = written.write_tables
    monkeypatch.setattr(
        written,
        "write_tables",
        lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt) if len(traced) == 2 else stopped(*a, **k),
    )
    code, out, err = workbench(*arguments)
    assert code == 130, err
    assert [(tmp_path / "all" / name).exists() for name in ("one", "two", "compare.html")] == [
        True,
        False,
        False,
    ]
    monkeypatch.setattr(written, "write_tables", stopped)
    code, out, err = workbench(*arguments)
    assert code == 0, err
    assert "one: finished" in out
    assert len(traced) == 3
    assert "2 pairs side by side" in (tmp_path / "all" / "compare.html").read_text()
    code, out, err = workbench(*arguments)
    assert (code, len(traced)) == (0, 3)
    code, out, err = workbench(*arguments, "--limit", "2")
    assert code == 2
    assert "holds a study that was asked for otherwise (limit)" in err
    assert "--out all-2" in err
    assert len(traced) == 3
    code, out, err = workbench(
        "compare", "all/one", "all/two", "--out", "page.html", "--tables", "tables", "--names", "a,b"
    )
    assert code == 0, err
    assert "Page" in out
    assert list(pd.read_parquet(tmp_path / "tables" / "pairs.parquet")["pair"]) == ["a", "b"]
    assert {"pooled_claims", "kl_shares"} <= set(
        json.loads((tmp_path / "tables" / "columns.json").read_text())
    )


def test_a_pair_that_fails_costs_no_other(presets, tmp_path, workbench, monkeypatch):
    from workbench.errors import InputError
    from workbench.interfaces.options import ModelsHere

    (tmp_path / "mine").mkdir()
    tiny.image(seed=0).save(tmp_path / "mine" / "0.png")
    load = ModelsHere.load

    def broken(self, *given, **settings):
        if str(self.pair).endswith("one"):
            raise InputError("`base` can't be read: load_pair('shapes')")
        return load(self, *given, **settings)

    monkeypatch.setattr(ModelsHere, "load", broken)
    code, out, err = workbench(
        "study", "--pairs", presets, "--problems", "mine", "--bins", "2", "--out", "all"
    )
    assert code == 2, err
    assert "one: `base` can't be read" in out
    assert (tmp_path / "all" / "two" / "manifest.json").is_file()
    assert "No comparison: 1 finished" in out


def test_what_is_refused_leaves_no_folder_and_no_single_study_is_one_of_several(presets, tmp_path, workbench):
    code, _, err = workbench("study", "--pairs", f"{presets.split(',')[0]},nope", "--out", "deep/all")
    assert code == 2
    assert "`--pairs` 'nope' is not a known pair" in err
    assert not (tmp_path / "deep").exists()
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "manifest.json").write_text("{}")
    code, _, err = workbench("study", "--pairs", presets, "--out", "single")
    assert code == 2
    assert "is a finished study of one pair" in err
    assert "workbench study --out single-pairs" in err
    assert [path.name for path in (tmp_path / "single").iterdir()] == ["manifest.json"]
