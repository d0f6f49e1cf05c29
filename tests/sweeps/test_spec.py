"""A sweep's YAML file: grids, exclusions, and every mistake with its line and column."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml

from workbench.errors import InputError
from workbench.interventions import Patch, Replay
from workbench.models.preset_files import pair_preset
from workbench.sweeps.spec import EXAMPLE, SCHEMA, parse_sweep, read_sweep, schema, seeded

START = "pairs: [shapes]\nproblems: [shapes]\n"


def conditions(interventions: str, depth: int = 8, **keys: str):
    sweep = parse_sweep(
        f"{START}interventions: {interventions}\n" + "".join(f"{k}: {v}\n" for k, v in keys.items())
    )
    return sweep.conditions(sweep.pairs[0], depth)


def test_grids_multiply_and_what_is_not_named_is_the_pairs():
    made = conditions("{t: {replay: {tau: [0.2, 0.4], alpha: [10, 20, 40], iterations: 3}}}")
    assert list(made)[:3] == ["base", "rlvr", "t tau=0.2 alpha=10.0"]
    assert len(made) == 2 + 6
    kept = made["t tau=0.4 alpha=40.0"]
    assert kept == Replay(tau=0.4, alpha=40.0, iterations=3, threshold="quantile", layers=5)


def test_a_list_in_a_list_is_one_value():
    made = conditions(
        "{p: {patch: {layers: [3, [1, 2]]}}, f: {replay: {threshold: fixed, layers: 2, levels: [[1, 2.5]]}}}"
    )
    assert made["p layers=1+2"] == Patch(layers=(1, 2), threshold="quantile")
    assert made["f"].levels == (1.0, 2.5)


def test_the_default_matrix_is_an_entry():
    made = conditions("{m: {matrix: {tau: [0.2, 0.4]}}}", plain="[rlvr]")
    assert len(made) == 1 + 2 * 11
    assert made["m tau=0.2: patch, low"].tau == 0.2


def test_a_preset_can_have_patches_of_their_own():
    grids = "{m: {matrix: {}}, p: {patch: {select: [low, high]}}, t: {patch: {tau: 0.2}}, r: {replay: {}}}"
    sweep = parse_sweep(f"pairs: [deepeyes-7b]\nproblems: [shapes]\ninterventions: {grids}\n")
    made = sweep.conditions(sweep.pairs[0])
    released = Patch(**pair_preset("deepeyes-7b").patch)
    assert made["m: patch, low, all positions"] == made["p select=low"] == released
    assert made["m: patch, low"] == replace(released, positions=None)
    assert made["p select=high"] == replace(released, select="high")
    assert made["t"] == Patch(tau=0.2, layers=16)
    assert made["r"] == Replay(**pair_preset("deepeyes-7b").replay)


def test_what_is_excluded_need_not_make_sense():
    grid = "{t: {replay: {site: [tokens, mid_tokens], layer: [null, 3], tau: [0.2, 0.4]}}}"
    rules = "[{site: tokens, layer: 3}, {site: mid_tokens, layer: null}, {tau: 0.2, site: mid_tokens}]"
    assert len(conditions(grid, exclude=rules)) == 2 + 3
    sweep = parse_sweep(f"{START}exclude: [{{intervention: base, seed: [1, 2]}}]\nseeds: [0, 1]")
    pair, problems = sweep.pairs[0], sweep.problems[0]
    assert [sweep.excluded(pair, problems, name, name, seed) for name in ("base", "rlvr") for seed in (0, 1)] == [
        [], [0], [], []
    ]  # fmt: skip


def test_an_exclusion_goes_by_entry_and_by_what_tables_call_a_set():
    sweep = parse_sweep(
        "pairs: [shapes]\nproblems: [{source: shapes}, {source: shapes, split: validation}]\n"
        "interventions: {t: {replay: {tau: [0.2, 0.4]}}, t wide: {replay: {tau: 0.6}}}\n"
        "exclude: [{intervention: t, problems: shapes (validation)}, {intervention: [rlvr, t tau=0.2], problems: shapes}]"
    )
    (pair,), conditions = sweep.pairs, sweep.conditions(sweep.pairs[0], 8)
    left = [
        [
            name
            for name, condition in conditions.items()
            if not sweep.excluded(pair, problems, name, condition, 0)
        ]
        for problems in sweep.problems
    ]
    assert left == [["base", "t tau=0.4", "t wide"], ["base", "t wide"]]


def test_a_cells_seed_draws_random_selections_only():
    assert seeded(Replay(select="random", seed=5), 3).seed == 3
    assert seeded(Patch(seed=5), 3) == Patch()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pairs: [shapes]\nproblms: [shapes]", r"2:1: unknown key 'problms' \(did you mean 'problems'\?\)"),
        ("pairs: [shapes]", r"1:1: `problems` is missing; expected a sweep such as:\npairs: \[shapes\]"),
        ("pairs: [shaps]\nproblems: [shapes]", r"1:9: .*did you mean 'shapes'"),
        ("pairs: [{base: a}]\nproblems: [shapes]", r"1:9: give a `name`, or `base` and `rlvr`"),
        ("pairs: []\nproblems: [shapes]", r"1:1: `pairs` is empty"),
        ("pairs: [{name: shapes, checkpoint: 7}]\nproblems: [shapes]", r"1:24: `checkpoint` is 7; shapes has \[10, 25,"),
        ("pairs: [{name: deepeyes-7b, checkpoint: 7}]\nproblems: [shapes]", r"`checkpoint` is 7; only a bundled pair"),
        ("pairs: [shapes]\nproblems: [{source: shapes, limt: 4}]", r"2:29: unknown key 'limt' \(did you mean 'limit'\?\)"),
        (START + "samples: 1.5", "3:1: `samples` is 1.5; expected integer"),
        (START + "samples: '4'", "3:1: `samples` is '4'; expected integer"),
        (START + "samples: 0", "3:1: `samples` is 0; expected greater than or equal to 1"),
        (START + "seeds: []", "3:1: `seeds` is empty"),
        (START + "seeds: [0, x]", "3:12: `seeds` is 'x'; expected integer"),
        (START + "temperature: .nan", "3:1: `temperature` is nan"),
        (START + "interventions:\n  t:\n    replay: {tua: 0.4}", r"5:14: unknown key 'tua' \(did you mean 'tau'\?\)"),
        (START + "interventions:\n  t:\n    replay: {tau: []}", "5:14: `tau` is empty; expected at least one value"),
        (START + "interventions:\n  t:\n    replay: {tau: [0.2, high]}", "5:25: `tau` is 'high'; expected number"),
        (START + "interventions:\n  t:\n    replay: {tau: [0.2, 2]}", r"5:14: `tau` is 2\.0; expected a fraction"),
        (START + "interventions:\n  t:\n    replay: {tau: [0.2, 0.2]}", "5:14: `tau` has a value twice"),
        (START + "interventions:\n  t: {replay: {site: residual, direction: self}}", "4:16: `site` is 'residual'"),
        (START + "interventions:\n  t: {replay: {site: mid_tokens}}", "4:7: `layer` is None with site 'mid_tokens'"),
        (START + "interventions:\n  t: {replay: {layers: [4, 99]}}", "4:16: `layers` is 99, but the models have 8 layers"),
        (START + "interventions:\n  t: {patch: {layers: 99}}", "4:15: `layers` of the patch go up to 98"),
        (START + "interventions:\n  t: {replay: {}, patch: {}}", "4:7: give one of `replay`, `patch`, `matrix`, .* and `own`"),
        (START + "interventions:\n  t: {own: {of: 'nowhere:Mine'}}", "`of` is 'nowhere:Mine', which can't be imported"),
        (START + "interventions:\n  t: {own: {of: 'zeroed:Zeroed', depth: 1}}", "does not take these fields"),
        (START + "interventions:\n  t: {replays: {}}", r"4:7: unknown key 'replays' \(did you mean 'replay'\?\)"),
        (START + "exclude: [{taus: 0.2}]", r"3:12: unknown key 'taus' \(did you mean 'tau'\?\)"),
        (START + "exclude: [{pair: shapes}]", "3:1: no cell is left"),
        (START + "plain: []", "1:1: no cell is left"),
        (START + "exclude: [{seed: 5}]", "3:11: this agrees with no cell"),
        (START + "exclude: [{seed: 0, intervention: base}, {problems: shaeps}]", "3:42: this agrees with no cell"),
        (START + "seeds: [1, 0, 1]", "3:15: `seeds` names 1 twice"),
        ("pairs: [shapes, shapes]\nproblems: [shapes]", "1:17: `pairs` names 'shapes' twice"),
        ("pairs: [shapes]\nproblems: [shapes, {source: shapes, limit: 4}]", "2:20: `problems` names 'shapes' twice"),
        ("pairs: [shapes]\nproblems: [shaeps]", r"2:12: 'shaeps' is no problem set, file or folder \(did you mean 'shapes'"),
        ("pairs: [shapes]\nproblems: [/nowhere/p.jsonl]", "2:12: '/nowhere/p.jsonl' is no problem set, file or folder"),
        (
            "pairs: [shapes]\nproblems: [{source: shapes, split: vaildation}]",
            r"2:29: 'shapes' has no split 'vaildation' \(did you mean 'validation'",
        ),
        ("pairs: [shapes]\nproblems: [{source: easy-vqa, split: validation}]", "'easy-vqa' has no split 'validation'"),
        ("pairs: [{base: ./none, rlvr: a/b}]\nproblems: [shapes]", "1:10: there is no folder ./none"),
        (START + "interventions: {base: {replay: {}}}", "3:17: 'base' is what a plain model is called"),
        (
            START + "interventions: {t: {replay: {tau: [0.2, 0.4]}}, t tau=0.2: {patch: {}}}",
            "'t tau=0.2' is the name of two interventions",
        ),
        (START + "pairs: [shapes]", "3:1: `pairs` stands here a second time"),
        ("pairs: [", "1:8: this is no YAML|1:9: this is no YAML"),
        ("- shapes", "1:1: this holds a list"),
        ("", "this holds a NoneType"),
    ],
)  # fmt: skip
def test_mistakes_are_told_where_they_are(text, message):
    with pytest.raises(InputError) as told:
        parse_sweep(text, "s.yaml", here=True)
    assert re.search("s.yaml:" + message if message[0].isdigit() else message, str(told.value)), told.value


def test_pairs_that_differ_in_dtype_have_names_of_their_own():
    sweep = parse_sweep("pairs: [shapes, {name: shapes, dtype: float64}]\nproblems: [shapes]")
    assert [pair.title for pair in sweep.pairs] == ["shapes", "shapes, float64"]


def test_everything_wrong_is_told_at_once():
    with pytest.raises(InputError) as told:
        parse_sweep("pairs: [shapes]\nproblems: [{source: shapes, limt: 4}]\nsamples: many", "s.yaml")
    assert str(told.value).count("s.yaml:") == 2


def test_a_missing_file_is_told_with_an_example(tmp_path):
    with pytest.raises(InputError, match="can't be read"):
        read_sweep(tmp_path / "none.yaml")


def test_checking_a_file_imports_nothing_heavy(tmp_path):
    (tmp_path / "s.yaml").write_text(START + "interventions: {t: {replay: {tau: [0.2, 0.4]}}}")
    program = (
        "import sys; from workbench.sweeps.spec import read_sweep; read_sweep(sys.argv[1])\n"
        "heavy = {'torch', 'transformers', 'nnsight', 'plotly', 'pandas'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "s.yaml")], check=True)


def test_the_published_schema_is_current():
    assert json.loads(SCHEMA.read_text()) == schema()


def test_the_schema_takes_what_the_reader_takes_and_no_typo():
    validate = pytest.importorskip("jsonschema").Draft202012Validator(schema()).is_valid
    good = yaml.safe_load(EXAMPLE)
    assert validate(good)
    assert not validate(good | {"sample": 4})
    good["interventions"]["tokens"]["replay"]["tua"] = 0.4
    assert not validate(good)
