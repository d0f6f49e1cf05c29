"""Disturbances: what each does, to which pixels and rows, seeded, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch

from workbench.errors import InputError
from workbench.models.prompts import TokenKind
from workbench.replay.disturbances import SQUARE, Disturbance, EmbeddingNoise, disturb
from workbench.tracing.residuals import read_calls

PICTURED = ("pixels", "colour", "patches")


def arrays(problem) -> list[np.ndarray]:
    return [np.asarray(picture, float) for picture in (*problem.images, *problem.video)]


@pytest.mark.parametrize("kind", PICTURED)
def test_every_picture_is_disturbed_in_its_own_way_and_again_the_same(tiny_pair, kind):
    problem, how = tiny.problem(images=2), Disturbance(kind, 0.5)
    prompt = tiny_pair.encode(problem)
    once, again, other = (arrays(disturb(problem, prompt, how, 0, draw)) for draw in (1, 1, 2))
    for before, a, b, c in zip(arrays(problem), once, again, other, strict=True):
        assert a.shape == before.shape
        assert np.array_equal(a, b)
        assert not np.array_equal(a, before)
        assert not np.array_equal(a, c)
    elsewhere = arrays(disturb(replace(problem, id="another"), prompt, how, 0, 1))
    assert not np.array_equal(once[0], elsewhere[0])
    assert not np.array_equal(once[0], arrays(disturb(problem, prompt, how, 1, 1))[0])


@pytest.mark.parametrize("kind", PICTURED)
def test_strength_zero_changes_nothing(tiny_pair, kind):
    problem = tiny.problem(images=2)
    same = disturb(problem, tiny_pair.encode(problem), Disturbance(kind, 0.0), 0, 1)
    for a, b in zip(arrays(problem), arrays(same), strict=True):
        # Hue is turned in HSV, which costs a rounding or two.
        assert np.abs(a - b).max() <= (8 if kind == "colour" else 0)


def test_pixel_noise_has_the_strength_asked_for():
    grey = tiny.image(200, 200)
    grey.paste((128, 128, 128), (0, 0, 200, 200))
    problem = tiny.problem(images=(grey,))
    noisy = arrays(disturb(problem, None, Disturbance("pixels", 0.1), 0, 1))[0]  # pyright: ignore[reportArgumentType]
    assert (noisy - 128).std() == pytest.approx(25.5, rel=0.02)
    strong = arrays(disturb(problem, None, Disturbance("pixels", 2.0), 0, 1))[0]  # pyright: ignore[reportArgumentType]
    assert {strong.min(), strong.max()} == {0, 255}


def test_patches_blank_whole_cells_of_visual_tokens(tiny_pair):
    problem = tiny.problem()  # 40 x 24 pixels
    prompt = tiny_pair.encode(problem)
    _, rows, columns = prompt.grids[0]
    before, after = (
        arrays(p)[0] for p in (problem, disturb(problem, prompt, Disturbance("patches", 0.4), 0, 1))
    )
    changed = (before != after).any(-1)
    mean = before.reshape(-1, 3).mean(0).round()
    assert (after[changed] == mean).all()
    blanked = 0
    for row in range(rows):
        for column in range(columns):
            cell = changed[
                round(24 * row / rows) : round(24 * (row + 1) / rows),
                round(40 * column / columns) : round(40 * (column + 1) / columns),
            ]
            assert cell.mean() > 0.9 or not cell.any()
            blanked += bool(cell.any())
    assert blanked == round(0.4 * rows * columns)


def test_pictures_cut_into_tiles_are_blanked_in_squares(pair_of):
    problem = tiny.problem("internvl", images=(tiny.image(28, 70),))
    prompt = pair_of("internvl").encode(problem)
    assert len(prompt.grids) > 1
    before, after = (
        arrays(p)[0] for p in (problem, disturb(problem, prompt, Disturbance("patches", 0.5), 0, 1))
    )
    changed = (before != after).any(-1).reshape(70 // SQUARE, SQUARE, 28 // SQUARE, SQUARE).mean((1, 3))
    assert ((changed > 0.9) | (changed == 0)).all()
    assert (changed > 0).sum() == 5


def test_frames_of_a_video_are_disturbed_too(tiny_pair):
    problem = tiny.problem(images=0, frames=4)
    shown = disturb(problem, tiny_pair.encode(problem), Disturbance("patches", 0.5), 0, 1)
    assert all((a != b).any() for a, b in zip(arrays(problem), arrays(shown), strict=True))


def test_embedding_noise_is_scaled_to_the_visual_rows_and_leaves_the_others(tiny_pair):
    prompt = tiny_pair.encode(tiny.problem(images=2))
    hidden = read_calls(tiny_pair.rlvr, prompt.model_inputs, 1)[0].hidden[0]
    visual = prompt.kinds == TokenKind.VISUAL
    noise = EmbeddingNoise.of(prompt, 0.5, seed=3)
    moved = noise.apply(0, hidden)
    assert torch.equal(moved[~visual], hidden[~visual])
    change = (moved - hidden)[visual]
    rms = hidden[visual].square().mean().sqrt()
    assert change.std().item() == pytest.approx(0.5 * rms.item(), rel=0.1)
    assert torch.equal(noise.apply(0, hidden), moved)
    assert torch.equal(noise.apply(1, hidden), hidden)
    longer = torch.cat([hidden, hidden[:3]])
    assert torch.equal(noise.apply(0, longer)[: len(hidden)], moved)
    assert torch.equal(noise.apply(0, longer)[len(hidden) :], hidden[:3])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("blur", 0.1),
            r"`kind` is 'blur'; expected one of pixels, embeddings, colour, patches: Disturbance\(",
        ),
        (("pixels", -0.1), r"`strength` of 'pixels' is -0.1; expected 0 or more"),
        (("patches", 1.5), r"`strength` of 'patches' is 1.5; expected 0 to 1"),
        (("embeddings", float("nan")), "`strength` of 'embeddings' is nan"),
        (("pixels", float("inf")), "`strength` of 'pixels' is inf"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Disturbance(*arguments)
