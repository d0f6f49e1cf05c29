"""`trace` against TransformerLens (`test_families` has a naive lens), and `LensTrace` on disk and on screen."""

import json
import resource
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import oracle
import pytest
import tiny
import torch
from torch import Tensor

from workbench.errors import InputError
from workbench.interventions import Replay
from workbench.lens.fused import compare
from workbench.models.pairs import ModelPair
from workbench.models.preset_files import named_pair
from workbench.models.prompts import EncodedPrompt, TokenKind
from workbench.problems.problem import Problem
from workbench.replay.patching import Patch, prepare_patch, record
from workbench.tracing.lens_trace import AXES
from workbench.tracing.model_heads import lens_heads
from workbench.tracing.residuals import read_residuals
from workbench.tracing.trace import LensTrace, trace

SCRIPT = "<script>alert(1)</script>"


@cache
def pair_of(family: str = "qwen2_5_vl", dtype: torch.dtype = torch.float32) -> ModelPair:
    return tiny.pair(family, dtype)


@cache
def problems_of(family: str = "qwen2_5_vl") -> tuple[Problem, ...]:
    """Lengths and numbers and sizes of images all differ."""
    return tuple(
        tiny.problem(family, seed=seed, images=images) for seed, images in ((0, 1), (7, 2), (3, 1), (11, 1))
    )


@cache
def traced(family: str = "qwen2_5_vl", **settings) -> LensTrace:
    return trace(pair_of(family), problems_of(family), **settings)


def cells(record: LensTrace) -> dict[str, Tensor]:
    return {name: getattr(record, name) for name in AXES}


def assert_close(a: LensTrace, b: LensTrace, names: Sequence[str] = tuple(AXES)) -> None:
    for name in names:
        x, y = getattr(a, name), getattr(b, name)
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


# --- the numbers


def test_norms_and_cosine_are_those_of_the_residuals():
    pair, record = pair_of(), traced().select(prompt=1)
    prompt = pair.encode(problems_of()[1])
    base, rlvr = (
        torch.cat(oracle.hooked_residuals(a.model, a.layers, prompt.model_inputs))
        for a in (pair.base, pair.rlvr)
    )
    torch.testing.assert_close(record.base_norm, base.norm(dim=-1))
    torch.testing.assert_close(record.shift_norm, (rlvr - base).norm(dim=-1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        record.cosine, torch.cosine_similarity(base, rlvr, dim=-1), rtol=1e-5, atol=1e-5
    )


def test_every_layer_equals_transformer_lens_with_an_image(tmp_path: Path):
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.tools.analysis import logit_lens
    from transformers import AutoTokenizer

    pair, record = pair_of(), traced().select(prompt=1)
    inputs = dict(pair.encode(problems_of()[1]).model_inputs)
    ids = inputs.pop("input_ids")
    tiny.tokenizer("qwen2_5_vl").save_pretrained(tmp_path)
    lenses = []
    for anatomy in (pair.base, pair.rlvr):
        # A module of its own: booting rewrites it in place and makes its attention eager.
        own = tiny.model("qwen2_5_vl")
        own.load_state_dict(anatomy.model.state_dict())
        own.config.save_pretrained(tmp_path)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        bridge = TransformerBridge.boot_transformers(str(tmp_path), hf_model=own, tokenizer=tokenizer)
        with torch.no_grad():
            stack = bridge.run_with_cache(ids, **inputs)[1]
        # Its first entry is the embedding, before any layer.
        read = logit_lens(bridge, cache=stack, positions=None, return_type="log_probs")
        lenses.append(read.values[1:, 0])
    base, rlvr = lenses
    assert base.shape == (pair.depth, ids.shape[1], pair.vocab_size)
    torch.testing.assert_close(record.entropy_base, oracle.entropy(base), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(record.entropy_rlvr, oracle.entropy(rlvr), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(record.kl, oracle.kl(base, rlvr), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(record.top_probs_base, base.exp().topk(10).values, rtol=1e-5, atol=1e-5)


# --- batches, seeds, layers


def test_neither_order_nor_company_changes_a_draw():
    pair, problems = pair_of(), problems_of()
    forward = trace(pair, problems, batch_size=1)
    backward = trace(pair, problems[::-1], batch_size=1)
    for number in range(len(problems)):
        one, other = forward.select(prompt=number), backward.select(prompt=len(problems) - 1 - number)
        assert all(torch.equal(x, cells(other)[name]) for name, x in cells(one).items())
    assert_close(trace(pair, problems[2:3]), forward.select(prompt=2))


def test_the_seed_decides_the_null_and_nothing_else():
    pair, problems = pair_of(), problems_of()[:2]
    once, again = (trace(pair, problems, seed=3) for _ in range(2))
    assert all(torch.equal(x, cells(again)[name]) for name, x in cells(once).items())
    other = trace(pair, problems, seed=4)
    differ = [name for name, x in cells(once).items() if not torch.equal(x, cells(other)[name])]
    assert differ == ["kl_null"]
    assert other.provenance["seed"] == 4
    draws, layers, _ = once.kl_null.shape
    flat = [once.kl_null[d, layer] for d in range(draws) for layer in range(layers)]
    assert len({tuple(row.tolist()) for row in flat}) == draws * layers


def test_without_draws_there_is_an_empty_null():
    record = traced(null_draws=0)
    assert record.kl_null.shape == (0, 3, len(record.prompt))
    assert record.to_dataframe()["kl_null"].isna().all()
    assert_close(record, traced(), [name for name in AXES if name != "kl_null"])


def test_chosen_layers_are_those_rows_of_all():
    record = trace(pair_of(), problems_of(), layers=[2, 0])
    assert record.layers == (0, 2)
    assert record.depth == 3
    for name, (axes, _) in AXES.items():
        whole = getattr(traced(), name)
        rows = whole.index_select(axes.index("L"), torch.tensor([0, 2])) if "L" in axes else whole
        assert torch.equal(getattr(record, name), rows)


def test_a_pair_in_half_precision_is_traced_in_float32():
    record = trace(pair_of("qwen2_5_vl", torch.bfloat16), problems_of()[:2], top_k=3)
    assert record.kl.dtype == torch.float32
    torch.testing.assert_close(record.entropy_base.mean(), traced().entropy_base.mean(), rtol=0.05, atol=0)


def test_your_own_tensors_can_be_traced_and_shown_without_a_tokenizer():
    from workbench.models.loading import load_pair

    pair = load_pair(base=tiny.model("llama"), rlvr=tiny.model("llama", seed=1))
    prompt = EncodedPrompt.from_tensors(pair, input_ids=torch.tensor([[17, 5, 9]]))
    record = trace(pair, [prompt], top_k=2)
    assert record.prompts == (record.prompts[0],)
    assert record.prompts[0].problem_id == "prompt"
    assert record.vocabulary[17] == "#17"
    assert record.token_id.tolist() == [17, 5, 9]


def test_progress_counts_prompts():
    seen = []
    trace(pair_of(), problems_of(), batch_size=3, layers=[0], progress=lambda *step: seen.append(step))
    assert seen[0] == (0, 4)
    assert seen[-1] == (4, 4)
    assert seen == sorted(seen)


# --- the record


def test_positions_say_what_they_are():
    pair, record = pair_of(), traced()
    prompts = [pair.encode(problem) for problem in problems_of()]
    assert record.prompt.tolist() == [n for n, prompt in enumerate(prompts) for _ in range(len(prompt))]
    assert record.position.tolist() == [i for prompt in prompts for i in range(len(prompt))]
    assert record.kind.tolist() == torch.cat([prompt.kinds for prompt in prompts]).tolist()
    assert torch.equal(record.grid, torch.cat([prompt.grid for prompt in prompts]).int())
    assert [info.question for info in record.prompts] == [problem.question for problem in problems_of()]
    assert record.prompts[1].grids == prompts[1].grids
    assert len(record.prompts[1].images) == 2
    assert record.provenance["top_k"] == 10
    assert {"torch", "transformers", "nnsight"} <= set(record.provenance["libraries"])
    assert record.provenance["base"] == pair.provenance["base"]


def test_select_takes_one_prompt():
    record, one = traced(), traced().select(prompt=2)
    mask = record.prompt == 2
    assert torch.equal(one.kl, record.kl[:, mask])
    assert torch.equal(one.kl_null, record.kl_null[:, :, mask])
    assert one.prompt.unique().tolist() == [0]
    assert one.prompts == (record.prompts[2],)
    assert set(one.vocabulary) <= set(record.vocabulary)
    with pytest.raises(InputError, match=r"`prompt` is 4, but the trace holds prompts 0 to 3: `trace.select"):
        record.select(prompt=4)


def test_shards_joined_are_the_whole(tmp_path: Path):
    pair, problems = pair_of(), problems_of()
    whole = trace(pair, problems, batch_size=1)
    first, second = (trace(pair, part, batch_size=1) for part in (problems[:1], problems[1:]))
    joined = LensTrace.join([LensTrace.load(first.save(tmp_path / "first")), second])
    assert all(torch.equal(x, cells(joined)[name]) for name, x in cells(whole).items())
    assert joined.vocabulary == whole.vocabulary
    assert [info.problem_id for info in joined.prompts] == [problem.id for problem in problems]
    with pytest.raises(InputError, match="`traces` is empty; give at least one"):
        LensTrace.join([])
    with pytest.raises(InputError, match="`traces` come from different pairs, layers or settings"):
        LensTrace.join([first, trace(pair, problems[1:], batch_size=1, seed=1)])


def test_the_table_has_one_row_per_cell():
    record, table = traced(), traced().to_dataframe()
    layers, positions = record.kl.shape
    assert len(table) == layers * positions
    row = table.iloc[positions + 5]
    assert (row["layer"], row["position"], row["problem"]) == (1, 5, "p0")
    assert row["kl"] == record.kl[1, 5].item()
    assert row["kl_null"] == pytest.approx(record.kl_null[:, 1, 5].mean().item())
    assert row["kind"] == TokenKind(int(record.kind[5])).name.lower()
    assert row["token"] == record.prompts[0].tokens[5]
    assert row["top1_base"] == record.vocabulary[int(record.top_ids_base[1, 5, 0])]
    visual = table[table["kind"] == "visual"]
    assert (visual["grid_row"] >= 0).all()


def test_a_trace_comes_back_from_disk_as_it_was(tmp_path: Path):
    record = traced()
    back = LensTrace.load(record.save(tmp_path / "deep" / "trace"))
    assert all(torch.equal(x, cells(back)[name]) for name, x in cells(record).items())
    assert (back.layers, back.depth, back.vocabulary) == (record.layers, record.depth, record.vocabulary)
    assert back.provenance == record.provenance
    for ours, theirs in zip(record.prompts, back.prompts, strict=True):
        assert (ours.problem_id, ours.question, ours.answer) == (
            theirs.problem_id,
            theirs.question,
            theirs.answer,
        )
        assert (ours.tokens, ours.grids) == (theirs.tokens, theirs.grids)
        assert [image.tobytes() for image in ours.images] == [image.tobytes() for image in theirs.images]
    assert [path.name for path in tmp_path.glob("deep/*")] == ["trace"]


def test_it_says_what_it_is_in_one_line_and_escapes_html():
    record = traced()
    assert repr(record).startswith("LensTrace('Qwen2_5_VL")
    assert "4 prompts" in repr(record)
    assert "3 of 3 layers, top 10, 3 null draws" in repr(record)
    named = replace(record, provenance={"pair": SCRIPT})
    assert SCRIPT not in named._repr_html_()
    assert "&lt;script&gt;" in named._repr_html_()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kl": torch.zeros(3, 5)},
            r"`kl` is torch.float32 \(3, 5\); expected torch.float32 \(3, \d+\), .* \(L, P\)",
        ),
        ({"prompts": ()}, "`prompt` names prompts outside `prompts`, which holds 0"),
    ],
)
def test_a_record_that_does_not_fit_together_is_refused(changes: dict, message: str):
    with pytest.raises(InputError, match=message):
        replace(traced(), **changes)


def test_numbers_that_are_not_finite_are_refused_with_their_layer():
    entropy = traced().entropy_rlvr.clone()
    entropy[1, 4] = torch.nan
    with pytest.raises(
        InputError, match=r"`entropy_rlvr` is not finite, first at layer 1; .*dtype='float32'"
    ):
        replace(traced(), entropy_rlvr=entropy)


# --- bad input


@pytest.mark.parametrize(
    ("problems", "settings", "message"),
    [
        ([], {}, r"`problems` is empty; .*trace\(pair, load_problems\('shapes', limit=8\)\)"),
        (tiny.problem(), {}, "`problems` is a Problem; expected a list"),
        (7, {}, "`problems` is a int; expected a list"),
        (["what?"], {}, "`problems` holds a str; expected Problem or EncodedPrompt"),
        (None, {"top_k": 0}, r"`top_k` is 0, expected at least 1: `trace\(pair, problems, top_k=1\)`"),
        (None, {"null_draws": -1}, "`null_draws` is -1, expected at least 0"),
        (None, {"batch_size": 0}, "`batch_size` is 0, expected at least 1"),
        (
            None,
            {"layers": [3]},
            "`layers` names decoder layer 3, but this qwen2_5_vl model has layers 0 to 2",
        ),
        (None, {"top_k": 321}, r"`top_k` is 321, but the vocabulary of 'Qwen.*' has 320 tokens"),
    ],
)
def test_bad_arguments_are_named(problems, settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        trace(pair_of(), problems_of() if problems is None else problems, **settings)


def test_an_existing_folder_is_never_written_to(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match=r"`folder` .* exists; name a new one, `trace.save\('trace-2'\)`"):
        traced().save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_saved_folder_has_the_mode_that_any_new_one_has(tmp_path: Path):
    (tmp_path / "other").mkdir()
    saved = traced().save(tmp_path / "trace")
    assert saved.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"`folder` .*trace' cannot be written: .*File exists"):
        traced().save(tmp_path / "file" / "trace")


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(InputError, match=r"`folder` .* cannot be written: .*name one on a writable disk"):
            traced().save(tmp_path / "trace")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_damaged_folders_are_told_apart(tmp_path: Path):
    with pytest.raises(
        InputError, match=r"holds no finished trace \(no manifest.json\); give the folder that"
    ):
        LensTrace.load(tmp_path)
    folder = traced().save(tmp_path / "trace")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(InputError, match="has trace format 99, expected 1"):
        LensTrace.load(folder)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "cells.safetensors").write_bytes(b"cut short")
    with pytest.raises(InputError, match=r"holds a damaged trace \(SafetensorError"):
        LensTrace.load(folder)


def test_it_plots_kl_by_layer():
    figure = traced().plot()
    assert figure.layout.xaxis.title.text == "decoder layer"
    assert len(figure.data) > 0


def test_interventions_are_in_place_in_the_rlvr_model_alone(tiny_pair):
    problems = [tiny.problem(seed=seed) for seed in (0, 1)]
    prompts = [tiny_pair.encode(problem) for problem in problems]
    patch = prepare_patch(tiny_pair, prompts[0], Patch(layers=(1,), select="all", positions="all"))
    plain, changed = (trace(tiny_pair, problems, interventions=i) for i in (None, [patch, None]))
    assert torch.equal(plain.entropy_base, changed.entropy_base)
    other = plain.prompt == 1
    assert torch.allclose(plain.kl[:, other], changed.kl[:, other], atol=1e-6)
    assert torch.allclose(plain.kl[0], changed.kl[0], atol=1e-6)  # below the patch
    residuals = record(tiny_pair.base, prompts[0], [1]).hidden[0]
    own = read_residuals(
        tiny_pair.rlvr,
        prompts[0].model_inputs,
        layers=[1],
        write={1: lambda hidden: residuals[None].to(hidden)},
    )
    heads = lens_heads(tiny_pair)
    base = read_residuals(tiny_pair.base, prompts[0].model_inputs, layers=[1])[1][0]
    expected = compare(base, own[1][0], *heads, top_k=1).kl
    assert torch.allclose(changed.kl[1, ~other], expected, atol=1e-5)
    assert not torch.allclose(plain.kl[1, ~other], expected, atol=1e-3)
    assert changed.provenance["interventions"] == ["PreparedPatch"]


def test_an_intervention_for_another_problem_is_refused(tiny_pair):
    problems = [tiny.problem(seed=seed) for seed in (0, 1)]
    patch = prepare_patch(tiny_pair, tiny_pair.encode(problems[0]), Patch(layers=1))
    with pytest.raises(InputError, match="made for 'p0', the prompt is 'p1'"):
        trace(tiny_pair, problems, interventions=[None, patch])
    with pytest.raises(InputError, match="1 entries for 2 prompts"):
        trace(tiny_pair, problems, interventions=[patch])


@pytest.mark.parametrize(
    ("interventions", "says"),
    [
        ([Replay(layers=2)], "which is a setting; expected what is made of it for a prompt"),
        (7, "`interventions` is one int; expected a list"),
    ],
)
def test_settings_in_place_of_interventions_are_named(tiny_pair, interventions, says):
    with pytest.raises(InputError, match=says):
        trace(tiny_pair, [tiny.problem()], interventions=interventions)


@pytest.mark.parametrize(
    ("matmul", "unit"), [("medium", "avx512_bf16"), ("medium", None), (None, "amx_bf16")]
)
def test_the_lens_multiplies_changes_in_bfloat16_where_preset_and_processor_do(
    tiny_pair, monkeypatch, matmul, unit
):
    monkeypatch.setattr("workbench.tracing.model_heads.bfloat16_unit", lambda: unit)
    preset = replace(named_pair("shapes"), matmul=matmul)
    alike = replace(tiny_pair, preset=preset, rlvr=tiny_pair.base)
    both = lens_heads(alike)
    expected = torch.bfloat16 if matmul and unit else None
    assert [head.changes for head in both] == [expected] * 2
    assert (both[0].weight is both[1].weight) or expected is None
    # Two unembeddings: all products in float32.
    assert [head.changes for head in lens_heads(replace(tiny_pair, preset=preset))] == [None, None]
