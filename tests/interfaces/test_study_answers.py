"""How many problems a study answers: by option, by preset, else all."""

from dataclasses import replace

import pytest

from workbench.interfaces.study_cli import Parts
from workbench.models.preset_files import pair_preset


@pytest.mark.parametrize(
    ("given", "of_preset", "problems", "expected"),
    [(None, None, 64, 64), (None, 18, 64, 18), (24, 18, 64, 24), (24, None, 8, 8), (None, 18, 8, 8)],
)
def test_the_option_goes_before_the_preset(given, of_preset, problems, expected):
    shapes = pair_preset("shapes")
    preset = replace(shapes, study={} if of_preset is None else {"answers": of_preset})
    assert Parts(answers=given).answered(preset, problems) == expected
    if of_preset is None:
        assert Parts(answers=given).answered(None, problems) == expected


def test_of_the_bundled_pairs_one_answers_fewer_than_it_traces():
    assert "answers" not in pair_preset("shapes").study_settings
    assert pair_preset("smol").study_settings["answers"] % 9 == 0  # as many of each family of `sums`
