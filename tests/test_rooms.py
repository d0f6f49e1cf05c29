"""First guess: what does one thing stands in the file that is named for it, and nowhere else.

Each row is a concept, the file where a newcomer looks for it, and what only that file may hold: the definition itself, or
the call that does the work. Whoever writes a second one, or moves the first, hears of it here.
"""

import re
from pathlib import Path

import pytest

import workbench as wb

ROOT = Path(wb.__file__).parent
CONCEPTS = [
    ("where strata are cut", "lens/strata.py", r"^def (quantile|fraction)_strata\b"),
    ("which cells count as low", "lens/strata.py", r"^def select_cells\b"),
    ("KL of what is there as a whole", "lens/kl.py", r"\.exp\(\) \* \(\w+ - \w+\)"),
    ("KL over a vocabulary, by blocks", "lens/fused.py", r"def divergence\(self\)|^class LensStats\b"),
    ("tokens learnt", "replay/replay.py", r"^def learn_(tokens|many)\b"),
    ("a patch prepared", "replay/patching.py", r"^def prepare_patch\b"),
    ("a patch applied", "replay/patching.py", r"^class PreparedPatch\b"),
    ("answers judged", "problems/answers.py", r"^def verify\b"),
    ("the shift drawn", "views/shift_figures.py", r"^def (shift_heatmap|stratum_curves)\b"),
    ("the bundled pair trained", "organism/training.py", r"controls' differences to the base"),
    ("a pair's preset read", "models/preset_files.py", r"^def (pair_preset|read_presets)\b"),
    ("memory predicted", "machine/memory.py", r"^def predict_memory\b"),
    ("the digest of a sweep's cell", "sweeps/cells.py", r"^def cell_key\b"),
    ("HTML escaped", "views/markup.py", r"import escape$(?<!markup import escape)|html\.escape\("),
    ("a video decoded", "problems/video.py", r"^ +import av$|\.decode\(video|av\.open\("),
    ("a result kept", "runs.py", r"^def kept\b"),
    ("an interval", "estimates/interval.py", r"^class Interval\b"),
    ("an interval by resampling problems", "estimates/bootstrap.py", r"^def bootstrap\b"),
    ("responses decoded", "decoding/decode.py", r"^def (decode|decode_many|respond)\b"),
    ("the loop that draws tokens", "decoding/streams.py", r"^def generate\b|^class Stream\b"),
    ("two models that decode together", "decoding/together.py", r"^def together_ids\b"),
    ("where the other model's draw is taken", "decoding/criteria.py", r"^def (values_of|random_places)\b"),
    ("through what layers are read", "tracing/readings.py", r"^class (LogitLens|TunedLens)\b"),
    ("nearest states found", "lens/neighbours.py", r"^class Nearest\b|^def rank_of\b"),
    ("where the lens head is applied to the vocabulary", "lens/heads.py", r"^class LensHead\b"),
]


def files_with(pattern: str) -> set[str]:
    """Files of the package that hold a line which the pattern describes."""
    wanted = re.compile(pattern, re.MULTILINE)
    return {
        file.relative_to(ROOT).as_posix()
        for file in ROOT.rglob("*.py")
        if wanted.search(file.read_text(encoding="utf-8"))
    }


@pytest.mark.parametrize(("concept", "home", "pattern"), CONCEPTS, ids=[row[0] for row in CONCEPTS])
def test_the_first_guess_is_right(concept, home, pattern):
    assert files_with(pattern) == {home}, concept
