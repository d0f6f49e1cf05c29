"""Finished studies side by side: from their folders alone, whatever they lack, on a page that a browser shows."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import tiny
from browser import open_page, wait_until
from scipy.stats import t
from statsmodels.stats.meta_analysis import combine_effects
from study_copies import copy_study

import workbench as wb
from workbench.errors import InputError
from workbench.estimates import Interval
from workbench.replay.patching import Patch
from workbench.runs import write_tables

ODD = '<img src=x onerror="alert(1)"> & </script><b>pair</b>'


@pytest.fixture(scope="module")
def run(pair_of, tmp_path_factory):
    """A small real study, with answers."""
    problems = [replace(tiny.problem("qwen2_5_vl"), id=f"tiny/{i}", question=f"shape {i}?") for i in range(3)]
    out = tmp_path_factory.mktemp("study") / "run"
    settings = {"top_k": 3, "null_draws": 1, "bins": 2, "resamples": 20, "samples": 2, "max_new_tokens": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kaleido.write_fig_from_object_sync", lambda *a, **k: None)
        wb.study(pair_of("qwen2_5_vl"), problems, out, interventions={"patch": Patch(layers=2)}, **settings)
    return out


@pytest.fixture(scope="module")
def runs(run, tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    return [
        copy_study(
            run,
            home / f"run-{i}",
            pair=ODD if i == 3 else f"pair-{i}",
            shift=0.2 * i - 0.1,
            seed=i,
            layers=3 + i,
        )
        for i in range(12)
    ]


@pytest.mark.parametrize("count", [2, 5, 12])
def test_pooled_numbers_are_statsmodels_own_on_the_same_table(runs, count):
    comparison = wb.compare(*runs[:count])
    assert len(comparison.pairs) == count
    assert comparison.pairs["depth"].tolist() == [3 + i for i in range(count)]
    number = ["claim", "place", "measured", "kind", "expected"]
    for row in comparison.pooled.to_dict("records"):
        part = comparison.claims
        for column in number:
            part = part.loc[part[column] == row[column]]
        assert len(part) == row["pooled"] == count
        log = row["scale"] == "factor"
        values = np.log(part["estimate"]) if log else part["estimate"]
        errors = part["standard_error"].to_numpy()
        theirs = combine_effects(values.to_numpy(), errors**2, method_re="iterated", use_t=True, maxiter=1000)
        low, high = theirs.conf_int()[1]
        expected = np.array([theirs.mean_effect_re, low, high])
        ours = [row[f"estimate{end}"] for end in ("", "_low", "_high")]
        np.testing.assert_allclose(ours, np.exp(expected) if log else expected, rtol=1e-9)
        assert row["i2"] == pytest.approx(max(0.0, theirs.i2))
    assert comparison.columns["meaning"].ne("").all()
    assert comparison.verdict in repr(comparison)


def test_beside_what_is_undecided_stands_what_would_have_been_found(runs, tmp_path):
    comparison = wb.compare(*runs[:5])
    for row in comparison.claims.to_dict("records"):
        factor = row["scale"] == "factor"
        width = np.diff(
            [np.log(row[f"estimate_{e}"]) if factor else row[f"estimate_{e}"] for e in ("low", "high")]
        )
        effect = width.item() / 2 * (1 + t.ppf(0.8, 63) / t.ppf(0.975, 63))
        assert row["detectable"] == pytest.approx(np.exp(effect) if factor else effect)
    for row in comparison.pooled.to_dict("records"):
        interval = Interval.in_row(row, "estimate")
        assert row["detectable"] == interval.detectable(units=5, factor=row["scale"] == "factor")
    page = comparison.save(tmp_path / "page.html").read_text()
    part = page[page.index('id="together"') : page.index('id="claims"')]
    open_rows = (comparison.pooled[["verdict", "adjusted"]] == "is undecided").any(axis=1)
    assert part.count("power 80% from") == open_rows.sum() > 0
    part = page[page.index('id="claims"') : page.index('id="answers"')]
    assert part.count("power 80% from") == (comparison.claims["verdict"] == "is undecided").sum() > 0


def test_layers_stand_by_relative_depth_and_shares_add_up(runs):
    comparison = wb.compare(*runs[:5])
    ends = comparison.depths.groupby("pair")["depth"].agg(["min", "max"])
    assert ends["max"].tolist() == [1.0] * 5
    assert ends.loc["pair-4", "min"] == pytest.approx(1 / 7)
    totals = comparison.shares.groupby(["pair", "scope", "kind"])["share"].sum()
    np.testing.assert_allclose(totals, 1.0)


def test_no_model_is_loaded(runs, tmp_path):
    program = (
        "import sys; import workbench as wb\n"
        f"wb.compare({str(runs[0])!r}, {str(runs[1])!r}).save({str(tmp_path / 'page.html')!r})\n"
        "heavy = {'torch', 'transformers', 'nnsight'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert (tmp_path / "page.html").is_file()


def edit(run, out, pair, **changes):
    """A copy whose specification differs: ``settings``, ``problems``, ``made_with``."""
    copy_study(run, out, pair=pair)
    spec = json.loads((out / "spec.json").read_text())
    for part, values in changes.items():
        spec[part] |= values
    (out / "spec.json").write_text(json.dumps(spec))
    return out


def test_what_differs_is_named(run, runs, tmp_path):
    other = edit(
        run,
        tmp_path / "other",
        "other",
        problems={"count": 9, "digest": "others"},
        made_with={"workbench": "0.0.9", "torch": "2.9.0"},
        settings={"samples": 4, "bins": 7},
    )
    spec = json.loads((other / "spec.json").read_text())
    spec["pair"]["base"]["weights"] = "pair-0-base"
    (other / "spec.json").write_text(json.dumps(spec))
    notes = " ".join(wb.compare(runs[0], other).notes)
    assert "Other problems: pair-0 / other were asked 2 different sets" in notes
    assert "Other settings: strata of entropy 2 (pair-0), 7 (other)." in notes
    assert "Other settings: samples 2 (pair-0), 4 (other)." in notes
    assert "Other versions: torch" in notes
    assert "2.9.0 (other)" in notes
    assert "One base model: pair-0 and other were trained from the same" in notes
    assert "Missing: perturbation, in all pairs (not asked for)." in notes


def test_missing_and_broken_parts_cost_no_other(run, runs, tmp_path):
    bare = copy_study(run, tmp_path / "bare", pair="bare")
    (bare / "tables" / "claims.parquet").unlink()
    broken = copy_study(run, tmp_path / "broken", pair="broken")
    (broken / "tables" / "shift.parquet").write_text("no parquet")
    old = copy_study(run, tmp_path / "old", pair="old")
    table = pd.read_parquet(old / "tables" / "agreement.parquet").rename(columns={"kl": "divergence"})
    table.to_parquet(old / "tables" / "agreement.parquet")
    comparison = wb.compare(runs[0], runs[1], bare, broken, old)
    notes = " ".join(comparison.notes)
    assert "Missing: claims, in bare (the run has no table claims)." in notes
    assert "Missing: shift, in broken (the table shift can't be read" in notes
    assert "Missing: agreement, in old (the table agreement is of another version: it has no kl)." in notes
    assert set(comparison.claims["pair"]) == {"pair-0", "pair-1", "broken", "old"}
    assert set(comparison.shares["pair"]) == {"pair-0", "pair-1", "bare", "old"}
    assert set(comparison.depths["pair"]) == {"pair-0", "pair-1", "bare", "broken"}
    assert comparison.save(tmp_path / "page.html").is_file()
    also = copy_study(run, tmp_path / "also", pair="also")
    (also / "tables" / "claims.parquet").unlink()
    without = wb.compare(bare, also)
    assert without.pooled.empty
    assert "no claim that two of them have with an interval" in without.verdict
    assert 'id="depth"' in without.save(tmp_path / "without.html").read_text()


def changed(run, out, table, **columns):
    """A copy, named after its folder, with columns of a table made others: values, or a function of the old ones."""
    copy_study(run, out, pair=out.name)
    path = out / "tables" / f"{table}.parquet"
    rows = pd.read_parquet(path)
    rows.assign(**columns).to_parquet(path)
    return out


@pytest.mark.parametrize(
    ("table", "columns", "ails"),
    [
        ("claims", {"estimate": "much"}, "row 0: `estimate` is 'much'; expected a number"),
        ("claims", {"estimate": None}, "row 0: `estimate` is None; expected a number"),
        ("claims", {"problems": np.nan}, "row 0: `problems` is nan; expected a whole number"),
        ("claims", {"p": "small"}, "row 0: `p` is 'small'; expected a number"),
        ("claims", {"estimate_low": 9.0}, "row 0: `estimate_low` 9 exceeds `estimate_high` "),
        ("agreement", {"layer": "first"}, "row 0: `layer` is 'first'; expected a whole number"),
        ("shift", {"share": True}, "row 0: `share` is True; expected a number"),
        ("ablation", {"vs_rlvr_low": "x"}, "row 0: `vs_rlvr_low` is 'x'; expected a number"),
        ("ablation", {"problems": 8.5}, "row 0: `problems` is 8.5; expected a whole number"),
    ],
)
def test_what_ails_a_table_costs_that_table_of_that_run(run, runs, tmp_path, table, columns, ails):
    comparison = wb.compare(runs[0], changed(run, tmp_path / "odd", table, **columns), runs[1])
    assert f"Missing: {table}, in odd (tables/{table}.parquet, {ails}" in " ".join(comparison.notes)
    parts = {
        "claims": comparison.claims,
        "agreement": comparison.depths,
        "shift": comparison.shares,
        "ablation": comparison.answers,
    }
    for name, rows in parts.items():
        assert set(rows["pair"]) == {"pair-0", "pair-1"} | ({"odd"} if name != table else set())
    assert comparison.save(tmp_path / "page.html").is_file()


def test_what_ails_a_setting_costs_that_setting(run, runs, tmp_path):
    odd = {"settings": {"bins": [3, 4]}, "problems": {"count": "many"}, "made_with": {"commit": 7}}
    other = edit(run, tmp_path / "other", "other", **odd)
    comparison = wb.compare(runs[0], other)
    notes = " ".join(comparison.notes)
    assert "Missing: strata, in other (spec.json: `settings.bins` is [3, 4]; expected a number)." in notes
    assert "Missing: problems, in other (spec.json: `problems.count` is 'many'; expected a number)." in notes
    assert comparison.pairs["strata"].isna().tolist() == [False, True]
    write_tables(tmp_path / "tables", comparison.tables())
    assert comparison.save(tmp_path / "page.html").is_file()


def test_rows_without_a_kind_and_repeated_rows_are_on_the_page(run, runs, tmp_path):
    unkind = changed(run, tmp_path / "unkind", "claims", kind=None)
    own = wb.compare(runs[0], unkind).claims.query("pair == 'unkind'")
    assert len(own) == len(wb.compare(runs[0], runs[1]).claims.query("pair == 'pair-1'"))
    twice = copy_study(run, tmp_path / "twice", pair="twice")
    for name in ("claims", "ablation"):
        table = pd.read_parquet(twice / "tables" / f"{name}.parquet")
        pd.concat([table, table]).to_parquet(twice / "tables" / f"{name}.parquet")
    comparison = wb.compare(twice, runs[0], runs[1])
    assert set(comparison.pooled["pooled"]) == {2}
    assert not comparison.answers.duplicated(["pair", "measured"]).any()
    assert "not pooled: the first of 2 rows" in comparison.save(tmp_path / "page.html").read_text()


def few(run, out):
    """A copy whose numbers are of 9 problems."""
    copy_study(run, out, pair=out.name)
    for name in ("claims", "ablation"):
        path = out / "tables" / f"{name}.parquet"
        pd.read_parquet(path).assign(problems=9).to_parquet(path)
    return out


def test_runs_of_too_few_problems_decide_nothing(run, runs, tmp_path):
    small = [few(run, tmp_path / f"small-{i}") for i in range(3)]
    comparison = wb.compare(*small)
    count, changes = len(comparison.pooled), len(comparison.pooled_answers)
    assert count
    assert changes
    assert comparison.verdict == (
        f"3 pairs, and no claim that two of them have with an interval from 16 problems or more: {count} are of too few "
        f"problems. Of answers, no difference to the plain RLVR model is pooled: {changes} are of too few problems."
    )
    notes = " ".join(comparison.notes)
    assert f"Too few problems: {count} claims in small-0, small-1 and small-2 are of fewer than 16;" in notes
    assert f"Too few problems: {changes} differences of answers in small-0" in notes
    page = comparison.save(tmp_path / "page.html").read_text()
    assert page.count("Nothing is pooled; why not stands with each number below.") == 2
    assert page.count("<small>not pooled: 9 problems, fewer than 16<") == 3 * (count + changes)
    beside = wb.compare(small[0], *runs[:2])
    plain = wb.compare(*runs[:2])
    assert beside.pooled["verdict"].tolist() == plain.pooled["verdict"].tolist()
    assert set(beside.pooled["pooled"]) == set(beside.pooled_answers["pooled"]) == {2}
    mixed = wb.compare(*small[:2], changed(run, tmp_path / "none", "claims", estimate_low=np.nan))
    assert "from 16 problems or more" in mixed.verdict


def test_the_same_models_count_once_and_names_are_told_apart(run, runs, tmp_path):
    twin = copy_study(run, tmp_path / "twin", pair="pair-0", shift=1.0)
    comparison = wb.compare(runs[0], twin, runs[1])
    assert comparison.pairs["pair"].tolist() == ["pair-0 (run-0)", "pair-0 (twin)", "pair-1"]
    assert set(comparison.pooled["pooled"]) == {2}
    assert any("pooled once, as pair-0 (run-0)" in note for note in comparison.notes)
    assert wb.compare(runs[0], runs[1], names=["x", "y"]).pairs["pair"].tolist() == ["x", "y"]


def test_runs_of_one_pair_are_not_called_two_pairs(run, tmp_path):
    twins = wb.compare(*(copy_study(run, tmp_path / name, pair="a") for name in ("x", "y")))
    assert "1 pair in 2 runs, and no number" in twins.verdict
    assert "1 pair in 2 runs side by side" in twins.save(tmp_path / "page.html").read_text()


def test_other_strata_are_left_out_of_the_bars_in_words(run, runs, tmp_path):
    finer = copy_study(run, tmp_path / "finer", pair="finer")
    table = pd.read_parquet(finer / "tables" / "shift.parquet")
    more = table.loc[table["stratum"] == 0].assign(stratum=2)
    pd.concat([table, more]).to_parquet(finer / "tables" / "shift.parquet")
    page = wb.compare(runs[0], runs[1], finer).save(tmp_path / "page.html").read_text()
    assert "their strata are others: finer: 3 strata by quantile" in page


def test_bad_input_is_refused_with_a_call_that_works(run, runs, tmp_path):
    call = r"compare\('runs/shapes', 'runs/smol'\)"
    with pytest.raises(InputError, match=rf"`runs` is empty; .*{call}"):
        wb.compare()
    with pytest.raises(InputError, match=rf"`runs` holds one run, .*{call}"):
        wb.compare(runs[0])
    with pytest.raises(InputError, match=rf"holds .* twice; .*{call}"):
        wb.compare(runs[0], runs[1], runs[0])
    with pytest.raises(
        InputError, match=rf"is no folder; expected .*manifest.json, or that of a finished sweep: {call}"
    ):
        wb.compare(runs[0], tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"exists, but is no finished run; .*{call}"):
        wb.compare(runs[0], tmp_path)
    with pytest.raises(InputError, match=r"`runs` holds 3; expected folders"):
        wb.compare(runs[0], 3)
    with pytest.raises(InputError, match=r"`names` is \['a', 'a'\] for 2 runs"):
        wb.compare(runs[0], runs[1], names=["a", "a"])
    hollow = copy_study(run, tmp_path / "hollow", pair="hollow")
    for table in (hollow / "tables").glob("*.parquet"):
        table.unlink()
    with pytest.raises(
        InputError, match=rf"hollow has nothing to compare: the run has no table claims.*{call}"
    ):
        wb.compare(runs[0], hollow)
    (hollow / "spec.json").write_text("{")
    with pytest.raises(InputError, match=r"its spec.json can't be read"):
        wb.compare(runs[0], hollow)


def test_texts_of_runs_are_escaped_everywhere(runs, tmp_path):
    comparison = wb.compare(*runs[:5])
    page = comparison.save(tmp_path / "page.html").read_text()
    for text in (page, comparison._repr_html_()):
        assert "<img src=x" not in text
        assert "<b>pair</b>" not in text
    assert "&lt;b&gt;pair&lt;/b&gt;" in page


@pytest.mark.browser
@pytest.mark.parametrize("width", [800, 1400])
def test_the_page_in_a_browser(runs, browser, tmp_path, width):
    path = wb.compare(*runs).save(tmp_path / "page.html")
    assert path.stat().st_size < 10e6
    page, trouble = open_page(browser, path, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    for section in ("claims", "answers", "depth", "shares"):
        page.evaluate(f"document.getElementById('{section}').scrollIntoView()")
        wait_until(page, f"document.querySelectorAll('#{section} .main-svg').length > 0")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("#depth .scatterlayer .trace").count() >= 12
    page.evaluate("document.querySelector('input[name=depth-kind][value=text]').click()")
    wait_until(page, "document.querySelectorAll('#depth [data-tab=text] .main-svg').length > 0")
    assert page.locator("#together tbody tr").count() == len(wb.compare(*runs).pooled)
    assert page.locator("#answers .claims tbody tr").count() == len(wb.compare(*runs).pooled_answers) > 0
    assert trouble == []
