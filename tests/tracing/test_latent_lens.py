"""LatentLens: the package `latentlens` is the oracle of neighbours and of the index; overlap and rank by hand."""

import json
import pickle
from dataclasses import replace

import latentlens
import pytest
import tiny
import torch

import workbench as wb
from workbench.errors import InputError
from workbench.lens.neighbours import unit
from workbench.models.prompts import TokenKind
from workbench.tracing.both_models import stretches_of
from workbench.tracing.fidelity import neighbour_fidelity
from workbench.tracing.latent_lens import LatentLens, default_layers
from workbench.tracing.nulls import Noise
from workbench.tracing.residuals import read_residuals

CORPUS = ["a red circle", "a red cross", "two blue circles", "the largest shape is teal", "none of them"]


@pytest.fixture(scope="module")
def text_pair():
    return tiny.pair("qwen2")


@pytest.fixture(scope="module")
def index(text_pair):
    """Built by the package itself; one text at a time, since it takes no left padding."""
    how = {"layers": [1, 2], "batch_size": 1, "show_progress": False}
    return latentlens.build_index(
        "", CORPUS, model=text_pair.base.model, tokenizer=text_pair.tokenizer, **how
    )


@pytest.fixture(scope="module")
def folder(index, tmp_path_factory):
    home = tmp_path_factory.mktemp("index")
    index.save(home, storage_dtype=torch.float32)
    return home


def test_neighbours_are_those_of_the_package(text_pair, index, folder):
    lens = LatentLens.load(folder)
    assert len(lens) == len(index)
    prompt = text_pair.encode(tiny.problem("qwen2"))
    queries = torch.cat(
        [*(hidden[0] for hidden in read_residuals(text_pair.base, prompt.model_inputs).values())]
    )
    found, checked = lens.nearest(queries, 7), 0
    for row, expected in enumerate(index.search(queries, top_k=7)):
        cosines = torch.tensor([one.similarity for one in expected])
        torch.testing.assert_close(found.cosines[row], cosines, rtol=0, atol=1e-6)
        for place, one in enumerate(expected):
            gaps = (cosines - cosines[place]).abs()
            if (gaps < 1e-6).sum() > 1 or cosines[place] - cosines[-1] < 1e-6:
                continue  # a tie, or one that may go on beyond the last
            state = int(found.ids[row, place])
            mine = (
                lens.tokens[state],
                int(lens.layer[state]) + 1,
                int(lens.position[state]),
                int(lens.token_id[state]),
            )
            assert mine == (one.token_str, one.contextual_layer, one.position, one.token_id)
            assert lens.contexts[lens.context[state]] == one.caption
            checked += 1
    assert checked > 0.6 * found.ids.numel()


def test_an_index_built_here_is_the_package_s_own(text_pair, folder):
    told = []
    mine = LatentLens.build(
        text_pair, CORPUS, layers=[0, 1], batch_size=3, progress=lambda *counts: told.append(counts)
    )
    assert told == [(done, len(CORPUS)) for done in (*range(0, len(CORPUS), 3), len(CORPUS))]
    theirs = LatentLens.load(folder)
    assert torch.equal(mine.layer, theirs.layer)
    for name in ("token_id", "position"):
        assert torch.equal(getattr(mine, name), getattr(theirs, name))
    assert mine.tokens == theirs.tokens
    torch.testing.assert_close(mine.states, theirs.states, rtol=0, atol=1e-5)
    few = LatentLens.build(text_pair, CORPUS, layers=[1], contexts_per_token=1)
    assert len(set(few.token_id.tolist())) == len(few)


@pytest.mark.parametrize("depth", [4, 8, 28, 32])
def test_default_layers_are_the_package_s(depth):
    expected = [layer - 1 for layer in latentlens.auto_layers(depth) if layer >= 1]
    assert default_layers(depth) == expected


def test_states_come_back_from_a_folder(text_pair, tmp_path):
    lens = LatentLens.build(text_pair, CORPUS)
    again = LatentLens.load(lens.save(tmp_path / "lens"))
    assert torch.equal(again.states, lens.states)
    assert (again.tokens, again.contexts, again.described) == (lens.tokens, lens.contexts, lens.described)
    (tmp_path / "lens" / "states.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="holds no states"):
        LatentLens.load(tmp_path / "lens")


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a file ran code",)


def test_an_index_with_code_in_it_is_refused_before_it_runs(tmp_path):
    (tmp_path / "layer_1").mkdir()
    file = tmp_path / "layer_1" / "embeddings_cache.pt"
    torch.save({"embeddings": torch.zeros(1, 2), "metadata": [Trap()]}, file)
    with pytest.raises(InputError, match="holds more than tensors"):
        LatentLens.load(tmp_path)
    file.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(InputError, match="layer_1/embeddings_cache"):
        LatentLens.load(tmp_path)
    torch.save({"embeddings": torch.zeros(2, 2), "metadata": [{"token_str": "a"}]}, file)
    with pytest.raises(InputError, match="is no index of a layer"):
        LatentLens.load(tmp_path)
    with pytest.raises(InputError, match="holds no index; expected layer_N"):
        LatentLens.load(tmp_path / "nowhere")


ROWS = [{"token_id": i, "position": i, "caption": "a", "token_str": "a"} for i in range(4)]


def written(folder, held):
    (folder / "layer_1").mkdir(parents=True)
    torch.save(held, folder / "layer_1" / "embeddings_cache.pt")
    return folder


BAD_LAYERS = {
    "it holds a Tensor": torch.ones(4, 8),
    "it holds a list": [1],
    r"float32 \(4,\), and 4 entries": {"embeddings": torch.ones(4), "metadata": ROWS},
    r"float32 \(0, 8\), and 0 entries": {"embeddings": torch.ones(0, 8), "metadata": []},
    r"sparse_coo, and 4 entries": {"embeddings": torch.ones(4, 8).to_sparse(), "metadata": ROWS},
    r"complex64": {"embeddings": torch.ones(4, 8, dtype=torch.complex64), "metadata": ROWS},
    r"Overflow": {"embeddings": torch.ones(4, 8), "metadata": [{"token_id": 2**70}] * 4},
    r"interpreted as an integer": {"embeddings": torch.ones(4, 8), "metadata": [{"position": 1.5}] * 4},
    r"`token_id` holds -2 to -2": {"embeddings": torch.ones(4, 8), "metadata": [{"token_id": -2}] * 4},
    r"of row 0 is 0 ": {"embeddings": torch.zeros(4, 8), "metadata": ROWS},
}


@pytest.mark.parametrize("message", BAD_LAYERS)
def test_a_layer_that_is_none_is_refused_by_its_file_s_name(tmp_path, message):
    written(tmp_path, BAD_LAYERS[message])
    with pytest.raises(
        InputError, match=rf"layer_1/embeddings_cache\.pt is no index of a layer \(.*{message}"
    ):
        LatentLens.load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_an_index_in_half_precision_or_of_another_length_is_made_unit(tmp_path, dtype, scale):
    vectors = scale * unit(torch.randn(4, 8, generator=torch.Generator().manual_seed(3)))
    lens = LatentLens.load(written(tmp_path, {"embeddings": vectors.to(dtype), "metadata": ROWS}))
    torch.testing.assert_close(lens.states, unit(vectors.to(dtype)))
    assert lens.states.dtype == torch.float32
    assert lens.layer.tolist() == [0] * 4


@pytest.fixture(scope="module")
def states() -> LatentLens:
    made = torch.arange(4)
    vectors = unit(torch.randn(4, 8, generator=torch.Generator().manual_seed(3)))
    return LatentLens(
        vectors, made, made.clone(), made.clone(), made.clamp(max=1), ("a", "b", "c", "d"), ("ab", "cd")
    )


BAD_FIELDS = {
    r"`states` must have length 1, that of row 0 is 3": lambda lens: {"states": lens.states * 3},
    r"that of row 1 is nan \(in all 1": lambda lens: {
        "states": lens.states.where(lens.position[:, None] != 1, torch.nan)
    },
    r"`states` is float16": lambda lens: {"states": lens.states.half()},
    r"`layer` is float32": lambda lens: {"layer": lens.layer.float()},
    r"`layer` is a list": lambda lens: {"layer": [0, 1, 2, 3]},
    r"`layer` holds -2 to 1": lambda lens: {"layer": lens.layer - 2},
    r"`token_id` holds -3 to 0": lambda lens: {"token_id": lens.token_id - 3},
    r"`position` holds -1000 to -997": lambda lens: {"position": lens.position - 1000},
    r"`context` holds 0 to 1, expected 0 or more, below the number of `contexts`, 0": lambda lens: {
        "contexts": ()
    },
    r"`context` holds 100 to 101": lambda lens: {"context": lens.context + 100},
    r"`context` holds -1 to 0": lambda lens: {"context": lens.context - 1},
    r"`tokens` is \(1, 1, 1, 1\)": lambda lens: {"tokens": (1,) * 4},
    r"`provenance` is None": lambda lens: {"provenance": None},
    r"`provenance` is \{'model': 'x'\}": lambda lens: {"provenance": {"model": "x"}},
}


@pytest.mark.parametrize("message", BAD_FIELDS)
def test_fields_that_can_t_be_are_refused(states, message):
    with pytest.raises(InputError, match=message):
        replace(states, **BAD_FIELDS[message](states))


def test_unit_states_that_were_rounded_are_taken(states):
    rounded = replace(states, states=states.states.bfloat16().float())
    assert len(replace(rounded, position=states.position - 1)) == 4  # -1: not known


@pytest.mark.parametrize("held", [None, "x", {"model": "x"}])
def test_a_saved_provenance_that_is_none_is_refused_by_the_file_s_name(states, tmp_path, held):
    file = states.save(tmp_path) / "states.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"provenance": held}))
    with pytest.raises(InputError, match=r"holds no states \(states\.json .*`provenance` is"):
        LatentLens.load(tmp_path)


@pytest.fixture(scope="module")
def read(tiny_pair):
    problems = [tiny.problem(seed=0), tiny.problem(seed=1)]
    lens = LatentLens.build(tiny_pair, CORPUS)
    return wb.read_neighbours(tiny_pair, problems, lens, k=4, batch_size=2), lens, problems


def test_both_models_neighbours_overlap_and_rank(tiny_pair, read):
    found, lens, problems = read
    start = len(tiny_pair.encode(problems[0]))
    prompt = tiny_pair.encode(problems[1])
    for layer in range(tiny.LAYERS):
        tables = []
        for anatomy in (tiny_pair.base, tiny_pair.rlvr):
            states = anatomy.model(**prompt.model_inputs, output_hidden_states=True).hidden_states
            hidden = read_residuals(anatomy, prompt.model_inputs)[layer][0]
            if layer < tiny.LAYERS - 1:
                torch.testing.assert_close(hidden, states[layer + 1][0])
            tables.append(unit(hidden) @ lens.states.T)
        base, rlvr = (table.topk(4) for table in tables)
        torch.testing.assert_close(found.cosines_base[layer, start:], base.values, rtol=0, atol=1e-5)
        torch.testing.assert_close(found.cosines_rlvr[layer, start:], rlvr.values, rtol=0, atol=1e-5)
        both = [
            len({*a} & {*b}) / 4 for a, b in zip(base.indices.tolist(), rlvr.indices.tolist(), strict=True)
        ]
        rank = (tables[1] > tables[1].gather(1, base.indices[:, :1])).sum(1)
        assert (found.overlap[layer, start:] - torch.tensor(both)).abs().mean() < 0.02
        assert (found.rank[layer, start:] - rank).abs().float().mean() < 0.5
    assert 0 < found.overlap.mean() < 1


def test_noise_is_compared_as_the_rlvr_model_is(tiny_pair, read):
    _, lens, problems = read
    found = wb.read_neighbours(tiny_pair, problems, lens, k=4, null_draws=2, batch_size=1)
    assert torch.equal(
        found.overlap_null, wb.read_neighbours(tiny_pair, problems, lens, k=4, null_draws=2).overlap_null
    )
    prompt = tiny_pair.encode(problems[0])
    base, rlvr = (
        read_residuals(anatomy, prompt.model_inputs)[1][0] for anatomy in (tiny_pair.base, tiny_pair.rlvr)
    )
    traced = wb.trace(tiny_pair, problems[:1], top_k=1, null_draws=1)
    torch.testing.assert_close((rlvr - base).norm(dim=-1), traced.shift_norm[1])
    noise = Noise(2, 0)(1, stretches_of(prompt)[0], base, rlvr)
    own = unit(base) @ lens.states.T
    for draw, some in enumerate(noise):
        torch.testing.assert_close((some - base).norm(dim=-1), traced.shift_norm[1], rtol=1e-4, atol=1e-5)
        rows = zip(
            own.topk(4).indices.tolist(), (unit(some) @ lens.states.T).topk(4).indices.tolist(), strict=True
        )
        expected = torch.tensor([len({*a} & {*b}) / 4 for a, b in rows])
        assert (found.overlap_null[draw, 1, : len(prompt)] - expected).abs().mean() < 0.02


def test_text_is_recognised_as_itself(tiny_pair, read):
    _, _, problems = read
    prompts = [tiny_pair.encode(problem) for problem in problems]
    lens = LatentLens.build(tiny_pair, prompts, layers=range(tiny.LAYERS), contexts_per_token=10**6, skip=0)
    table = neighbour_fidelity(wb.read_neighbours(tiny_pair, prompts, lens, k=1), resamples=20)
    base = table.query("model == 'base' and kind == 'text'")
    assert (base["own"] == 1).all()
    assert base["cosine"].min() > 0.9999
    assert table.query("model == 'rlvr' and kind == 'text'")["cosine"].max() < 0.9999
    assert table.query("kind == 'visual'")["own"].isna().all()


def test_a_table_names_what_is_near(read):
    found, lens, _ = read
    table = found.to_dataframe()
    assert len(table) == found.overlap.numel()
    assert set(table["nearest_base"]) <= set(lens.tokens)
    assert set(table["kind"]) >= {"visual", "text"}
    assert "nearest of" in found._repr_html_()


def test_prompts_give_states_of_what_is_text_or_response(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem(), response="<answer> 3</answer>")
    lens = LatentLens.build(tiny_pair, [prompt], layers=[1], contexts_per_token=1000, skip=0)
    words = (prompt.kinds == TokenKind.TEXT) | (prompt.kinds == TokenKind.RESPONSE)
    assert torch.equal(lens.position, words.nonzero()[:, 0])
    hidden = read_residuals(tiny_pair.base, prompt.model_inputs)[1][0]
    torch.testing.assert_close(lens.states, unit(hidden[words]))


def test_bad_input_is_refused(tiny_pair, text_pair, read):
    _, lens, problems = read
    with pytest.raises(InputError, match="expected a text or an EncodedPrompt"):
        LatentLens.build(tiny_pair, [3])
    with pytest.raises(InputError, match="has no text beyond 2 positions"):
        LatentLens.build(tiny_pair, ["a"])
    with pytest.raises(InputError, match="expected some of 0 to 2"):
        LatentLens.build(tiny_pair, CORPUS, layers=[3])
    with pytest.raises(InputError, match="`k` is 0"):
        wb.read_neighbours(tiny_pair, problems, lens, k=0)
    with pytest.raises(InputError, match="expected a LatentLens"):
        wb.read_neighbours(tiny_pair, problems, wb.LogitLens())
    narrow = LatentLens(
        unit(lens.states[:, :8]),
        lens.layer,
        lens.token_id,
        lens.position,
        lens.context,
        lens.tokens,
        lens.contexts,
    )
    with pytest.raises(InputError, match="has states of width 8"):
        wb.read_neighbours(tiny_pair, problems, narrow)
    other = replace(lens, provenance={"model": {"weights": "of another"}})
    with pytest.raises(InputError, match="weights of another, which is neither of"):
        wb.read_neighbours(tiny_pair, problems, other)
    deep = replace(lens, layer=lens.layer + tiny.LAYERS)
    with pytest.raises(InputError, match=rf"has states with layer .* have 0 to {tiny.LAYERS - 1}"):
        wb.read_neighbours(tiny_pair, problems, deep)
    with pytest.raises(InputError, match=r"has states with token_id .* build it of this pair"):
        wb.explore(tiny_pair, problems, reading=replace(lens, token_id=lens.token_id + 10**6))
    with pytest.raises(InputError, match="a LatentLens has none: read_neighbours"):
        wb.trace(tiny_pair, problems, reading=lens)
    with pytest.raises(InputError, match="`layer` does not fit"):
        LatentLens(
            lens.states,
            lens.layer[:1],
            lens.token_id,
            lens.position,
            lens.context,
            lens.tokens,
            lens.contexts,
        )
