"""What results show of themselves: the numbers that they hold, and hostile text only as text."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import pandas as pd
import pytest
import tiny
import torch
from parsed import shown
from synthetic import SCRIPT, pictured_trace, synthetic_trace

from workbench import Patch, Replay, decode, learn_tokens, prepare_patch, stratified_shift
from workbench.analysis.verdicts import Claim
from workbench.decoding.decode import Response
from workbench.estimates import Interval
from workbench.replay.from_checkpoints import LearnedProblems
from workbench.studies.paper import Finding
from workbench.tracing.agreement import agreement_by_layer
from workbench.views.markup import grids_of


def text(result) -> str:
    return "".join(shown(result).itertext())


def rows(element: ET.Element) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in element.iter("tr")]


@pytest.fixture(scope="module")
def prompt(tiny_pair):
    return tiny_pair.encode(tiny.problem())


@pytest.fixture(scope="module")
def learned(tiny_pair, prompt):
    return learn_tokens(tiny_pair, prompt, Replay(layers=2, iterations=3, threshold="quantile"))


def test_a_pair_tells_what_was_loaded(tiny_pair):
    told = text(tiny_pair)
    for piece in ("3 layers, hidden 32", "qwen2_5_vl", "Qwen2_5_VLProcessor", "float32", "cpu"):
        assert piece in told
    weights = [row for row in rows(shown(tiny_pair)) if row[0] == "weights"]
    assert weights == [["weights", *(tiny_pair.provenance[role]["weights"] for role in ("base", "rlvr"))]]


def test_a_pair_escapes_names_and_does_without_provenance(tiny_pair):
    assert SCRIPT in text(replace(tiny_pair, name=SCRIPT, provenance={"base": SCRIPT, "checkpoint": SCRIPT}))
    assert "none" in text(replace(tiny_pair, processor=None, provenance={}))


def test_a_prompt_shows_pictures_under_their_grid_and_one_chip_for_them(prompt):
    ((_, high, wide),) = prompt.grids
    page, told = shown(prompt), text(prompt)
    assert f"picture 1: {high} × {wide} tokens" in told
    assert f"▦ {high * wide} × <|image_pad|>, picture 1" in told
    chips = [span.get("title") for span in page.iter("span") if span.get("title")]
    assert len(chips) == len(prompt) - high * wide + 1
    image = next(page.iter("image"))
    assert image.attrib["href"].startswith("data:image/png;base64,")


def test_a_prompt_of_many_pictures_and_tokens_stays_short(tiny_pair):
    many = tiny_pair.encode(tiny.problem(images=10, question="How many? " + "y" * 900))
    told = text(many)
    assert "2 pictures are not shown" in told
    assert "more positions" in told
    left = int(told.rpartition(" … and ")[2].split()[0].replace(",", ""))
    assert 500 < left < len(many)


def test_a_prompt_escapes_its_tokens(prompt):
    hostile = replace(prompt, problem_id=SCRIPT, tokens=(SCRIPT, *prompt.tokens[1:]))
    assert text(hostile).count(SCRIPT) == 2


def test_a_trace_has_a_row_a_layer_and_columns_a_kind():
    trace = pictured_trace()
    table = rows(shown(trace))
    assert table[0] == ["", "visual: 72 positions", "text: 36 positions", "special: 12 positions"]
    assert table[1] == ["layer", *["entropy", "KL", "× noise", "agree"] * 3]
    assert [row[0] for row in table[2:]] == ["0", "1", "2", "3"]
    here = trace.kind == 1
    expected = (trace.entropy_base[2, here].mean(), trace.kl[2, here].mean())
    assert [float(cell) for cell in table[4][1:3]] == pytest.approx([float(v) for v in expected], rel=0.01)
    noise = trace.kl[2, here].double().mean() / trace.kl_null[:, 2, here].double().mean()
    assert float(table[4][3]) == pytest.approx(float(noise), rel=0.01)


def test_a_trace_without_null_or_pictures_leaves_those_columns_out():
    table = rows(shown(synthetic_trace(visual=0, draws=0)))
    assert table[1] == ["layer", *["entropy", "KL", "agree"] * 2]


def test_learned_tokens_show_losses_norms_shares_and_settings(learned):
    told, page = text(learned), shown(learned)
    first, last = (float(learned.losses[i]) for i in (0, -1))
    losses = told.partition("loss, nats: ")[2].split()
    assert [float(losses[0]), float(losses[2].partition("‖")[0])] == pytest.approx([first, last], rel=0.01)
    assert "threshold='quantile'" in told
    assert "seed=0" in told
    norms = [r.attrib["fill-opacity"] for r in page.iter("rect") if "fill-opacity" in r.attrib]
    relative = learned.tokens.norm(dim=1) / learned.tokens.norm(dim=1).max()
    assert [float(shade) for shade in norms] == pytest.approx(relative.tolist(), abs=0.006)
    share = float(learned.mask[0, learned.places].float().mean())
    assert f"0: {share:.0%}" in [title.text for title in page.iter("title")]


def test_learned_tokens_show_failures_and_escape(learned):
    none = replace(learned, losses=torch.zeros(0), tokens=torch.zeros_like(learned.tokens))
    assert "no iteration" in text(none)
    assert SCRIPT in text(replace(learned, problem_id=SCRIPT, stopped=SCRIPT))


def test_grids_follow_frames_and_pictures():
    places = [(0, 0, 0), (0, 0, 1), (1, 0, 0), (1, 0, 1), (0, 0, 0), (0, 1, 0), (-1, -1, -1)]
    assert grids_of([1, 2, 3, 4, 5, 6, 7], places) == [[[1, 2]], [[3, 4]], [[5], [6]]]


def test_learned_problems_are_a_table_and_not_a_wall(tiny_pair, learned, prompt):
    both = LearnedProblems([learned, replace(learned, problem_id=SCRIPT)], [prompt] * 2, tiny_pair)
    assert repr(both).startswith("LearnedProblems(2 problems, ModelPair(")
    assert [row[0] for row in rows(shown(both))] == ["problem", learned.problem_id, SCRIPT]
    frame = both.to_dataframe()
    assert frame["last_loss"].tolist() == [float(learned.losses[-1])] * 2


def test_a_patch_shows_where_it_writes(tiny_pair, prompt):
    prepared = prepare_patch(tiny_pair, prompt, Patch(layers=2, threshold="quantile"))
    told = text(replace(prepared, problem_id=SCRIPT))
    assert f"{SCRIPT}: {int(prepared.mask.sum())} of {prepared.mask.numel()} cells overwritten" in told
    shares = prepared.mask.float().mean(1).tolist()
    titles = [title.text for title in shown(prepared).iter("title")]
    assert titles == [f"{layer}: {share:.0%}" for layer, share in enumerate(shares)]


def test_a_response_shows_its_text_and_how_it_ended(tiny_pair, prompt):
    assert "3 tokens, cut off" in text(decode(tiny_pair, prompt, max_new_tokens=3)[0])
    assert SCRIPT in text(Response(SCRIPT, 0, SCRIPT, 3, True, 0.1))


def test_a_shift_shows_the_strata_of_visual_tokens_first():
    shift = stratified_shift(synthetic_trace(), resamples=20)
    table = rows(shown(shift))
    assert table[0] == ["stratum", "base entropy", "cells", "KL", "KL of null", "KL / null"]
    assert [row[0] for row in table[1:6]] == ["0 lowest", "1", "2", "3", "4 highest"]
    where = shift.table.query("scope == 'without last layer' and kind == 'visual' and stratum == 0").iloc[0]
    assert table[1][3].startswith(f"{where['kl']:.3f}"[:4])
    assert "every token kind: " in text(shift)


def test_claims_and_findings_show_interval_and_verdict():
    claim = Claim(SCRIPT, "Table 1", "points", Interval(2.0, 1.0, 3.0), 64)
    assert rows(shown(claim))[1][:5] == [SCRIPT, "Table 1", "points", "2.00 [1.00, 3.00]", "above 0"]
    finding = Finding({}, pd.DataFrame({"a": [1]}), [claim])
    assert repr(finding) == "Finding(0 figures, a table of 1 rows, 1 claims)"
    assert "holds" in text(finding)
    assert "No claims." in text(replace(finding, claims=()))
    trace = synthetic_trace()
    assert len(rows(shown(Finding({}, agreement_by_layer(trace, resamples=20))))) == 0
