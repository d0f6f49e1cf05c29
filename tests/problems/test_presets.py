"""Every problem set with a name, from small files with its schema in the places where it is looked for."""

import base64
import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet
import pytest
import tiny

from workbench.errors import InputError
from workbench.models.chat import question_text
from workbench.problems import from_rows as rows_module
from workbench.problems.answers import verify
from workbench.problems.presets import read_problem_presets
from workbench.problems.problem import load_problems


def png(seed: int = 0) -> bytes:
    file = io.BytesIO()
    tiny.image(12, 8, seed).save(file, "PNG")
    return file.getvalue()


TEXT = base64.b64encode(png()).decode()


@pytest.fixture
def kit(tmp_path, monkeypatch) -> Path:
    (tmp_path / "kit").mkdir()
    monkeypatch.setenv("LMUData", str(tmp_path / "kit"))
    return tmp_path / "kit"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Name of a data set -> its folder in an otherwise empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def folder(name: str) -> Path:
        home = tmp_path / "hub" / f"datasets--{name.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs" / "main").write_text("c0ffee")
        snapshot = home / "snapshots" / "c0ffee"
        snapshot.mkdir(parents=True)
        return snapshot

    return folder


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".tsv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)


MCQ = {"A": "red", "B": "blue", "C": "", "D": "", "image": TEXT, "category": "colour"}
KIT = {
    "mathverse": (
        "MathVerse_MINI_Vision_Only.tsv",
        [
            {
                "index": 1,
                "question": "See it.",
                "answer": "B",
                "question_type": "multi-choice",
                "image": TEXT,
            },
            {
                "index": 2,
                "question": "See it.",
                "answer": "\\frac{1}{2}",
                "question_type": "free-form",
                "image": TEXT,
            },
        ],
        [("See it.", "B", "choice"), ("See it.", "\\frac{1}{2}", "math")],
    ),
    "mathvision": (
        "MathVision.tsv",
        [
            {"index": 1, "question": "Q? (A) 1 (B) 2", "choices": "['1', '2']", "answer": "B", "image": TEXT},
            {"index": 2, "question": "How?", "choices": "[]", "answer": "2\\pi", "image": TEXT},
        ],
        [("Q? (A) 1 (B) 2", "B", "choice"), ("How?", "2\\pi", "math")],
    ),
    "mathvista": (
        "MathVista_MINI.tsv",
        [
            {
                "index": 1,
                "question": "Hint. Q? (A) x (B) y",
                "choices": "['x', 'y']",
                "answer": "y",
                "answer_option": "B",
                "question_type": "multi_choice",
                "answer_type": "text",
                "task": "geometry",
                "image": TEXT,
            },
            {
                "index": 2,
                "question": "Q?",
                "choices": "",
                "answer": "1.2",
                "answer_option": "",
                "question_type": "free_form",
                "answer_type": "float",
                "task": "figures",
                "image": TEXT,
            },
        ],
        [("Hint. Q? (A) x (B) y", "B", "choice"), ("Q?", "1.2", "math")],
    ),
    "dynamath": (
        "DynaMath.tsv",
        [
            {"index": 1, "question": "Q?", "answer": "A", "answer_type": "multiple choice", "image": TEXT},
            {"index": 2, "question": "Q?", "answer": "1.250", "answer_type": "float", "image": TEXT},
            {"index": 3, "question": "Q?", "answer": "even", "answer_type": "text", "image": TEXT},
        ],
        [
            ("## Question\n Q?", "A", "choice"),
            ("## Question\n Q?", "1.250", "numeric"),
            ("## Question\n Q?", "even", "exact"),
        ],
    ),
    "wemath": (
        "WeMath.tsv",
        [{"index": 1, "question": "Q?", "answer": "B", "hint": "", "requirement": "R", **MCQ}],
        [("Q?\nOptions:\nA. red\nB. blue", "B", "choice")],
    ),
    "logicvista": (
        "LogicVista.tsv",
        [
            {"index": 1, "question": "Q? A, B, C", "answer": "C", "image": TEXT},
            {"index": 2, "question": "Q? A, B, C", "answer": "A, C", "image": TEXT},
        ],
        [("Q? A, B, C", "C", "choice"), ("Q? A, B, C", "A, C", "exact")],
    ),
    "mmmu": (
        "MMMU_DEV_VAL.tsv",
        [
            {"index": 1, "split": "dev", "question": "Not me", "answer": "A", **MCQ},
            {"index": 2, "split": "validation", "question": "<image 1> Q?", "answer": "A", **MCQ},
            {"index": 3, "split": "validation", "question": "Q?", "answer": "7", **MCQ, "A": "", "B": ""},
        ],
        [
            (
                "Question: <image 1> Q?\nOptions:\nA. red\nB. blue\nPlease select the correct answer from the options above. \n",
                "A",
                "choice",
            ),
            ("Q?", "7", "numeric"),
        ],
    ),
    "mmmu-pro": (
        "MMMU_Pro_10c.tsv",
        [{"index": 1, "question": "Q?", "answer": "J", "image": TEXT} | {c: f"o{c}" for c in "ABCDEFGHIJ"}],
        [("Question: Q?\nOptions:\nA. oA\n", "J", "choice")],
    ),
    "hrbench-4k": (
        "HRBench4K.tsv",
        [{"index": 1, "question": "Q?", "answer": "A", "cycle_category": "x", **MCQ}],
        [("Q?\nOptions:\nA. red\nB. blue", "A", "choice")],
    ),
    "hrbench-8k": (
        "HRBench8K.tsv",
        [{"index": 1, "question": "Q?", "answer": "B", "cycle_category": "x", **MCQ}],
        [("Q?\nOptions:\nA. red\nB. blue", "B", "choice")],
    ),
    "visualprobe-hard": (
        "VisualProbe_Hard.tsv",
        [{"index": 1, "question": "What word?", "answer": "exit", "image": TEXT}],
        [("What word?", "exit", "exact")],
    ),
}


@pytest.mark.parametrize("name", KIT)
def test_sets_from_vlmevalkits_folder(name, kit, hub):
    file, rows, expected = KIT[name]
    write(kit / file, rows)
    problems = load_problems(name)
    told = [
        (question_text(p)[: len(e[0])], p.answer, p.verifier) for p, e in zip(problems, expected, strict=True)
    ]
    assert told == expected
    assert all(p.id.startswith(f"{name}/") and len(p.images) == 1 for p in problems)
    assert [p.id for p in load_problems(f"{name}:{kit / file}")] == [p.id for p in problems]


PICTURE = {"bytes": png(3), "path": "3.png"}
PROBE = [{"images": ["VisualProbe_{}/data/3.png"], "problem": "<image>\nWhat word?", "solution": "exit"}]
HUB = {
    "mathverse": (
        "AI4Math/MathVerse",
        "testmini.parquet",
        [
            {
                "sample_index": str(i),
                "problem_version": version,
                "question": "See it.",
                "answer": "A",
                "question_type": "multi-choice",
                "image": PICTURE,
            }
            for i, version in enumerate(("Text Only", "Vision Only"))
        ],
        ("See it.", "A", "choice"),
    ),
    "mathvision": (
        "MathLLMs/MathVision",
        "data/test-00000-of-00001.parquet",
        [
            {
                "id": "1",
                "question": "Q?",
                "options": [],
                "answer": "3",
                "subject": "s",
                "decoded_image": PICTURE,
            }
        ],
        ("Q?", "3", "math"),
    ),
    "mathvista": (
        "AI4Math/MathVista",
        "data/testmini-00000-of-00001.parquet",
        [
            {
                "pid": "1",
                "question": "Q?",
                "query": "Hint: x\nQuestion: Q?\nChoices:\n(A) u\n(B) v",
                "choices": ["u", "v"],
                "answer": "v",
                "question_type": "multi_choice",
                "image": "images/1.jpg",
                "decoded_image": PICTURE,
            }
        ],
        ("Hint: x\nQuestion: Q?\nChoices:\n(A) u\n(B) v", "B", "choice"),
    ),
    "hrbench-4k": (
        "DreamMr/HR-Bench",
        "hr_bench_4k.tsv",
        [{"index": 1, "question": "Q?", "answer": "A", **MCQ}],
        ("Q?\nOptions:\nA. red\nB. blue", "A", "choice"),
    ),
    "visualprobe-easy": ("Mini-o3/VisualProbe_Easy", "val.json", PROBE, ("What word?", "exit", "exact")),
    "visualprobe-medium": ("Mini-o3/VisualProbe_Medium", "val.json", PROBE, ("What word?", "exit", "exact")),
    "visualprobe-hard": ("Mini-o3/VisualProbe_Hard", "val.json", PROBE, ("What word?", "exit", "exact")),
}


@pytest.mark.parametrize("name", HUB)
def test_sets_from_the_hubs_cache(name, kit, hub):
    repository, file, rows, expected = HUB[name]
    home = hub(repository)
    (home / "data").mkdir()
    (home / "data" / "3.png").write_bytes(png(3))
    level = name.rpartition("-")[2].capitalize()
    write(home / file, json.loads(json.dumps(rows).replace("{}", level)) if file.endswith("json") else rows)
    (problem,) = load_problems(name)
    assert (question_text(problem), problem.answer, problem.verifier) == expected
    assert len(problem.images) == 1


VIDEO = {
    "videommmu": (
        "lmms-lab/VideoMMMU",
        "VideoMMMU.tsv",
        [
            {
                "index": 0,
                "id": "dev_Art_1",
                "category": "Perception",
                "question": "Q?",
                "options": '["u", "v"]',
                "answer": "B",
                "question_type": "multiple-choice",
                "video": "videos/Art/1.mp4",
                "image": "",
            }
        ],
        ("Q?\nOptions:\nA. u\nB. v", "B", "choice"),
        "videos/Art/1.mp4",
    ),
    "mlvu": (
        "MLVU/MVLU",
        "MLVU_MCQ.tsv",
        [
            {
                "task_type": "count",
                "prefix": "./MLVU/video/4_count",
                "duration": 4.0,
                "video": "1.mp4",
                "question": "Q?",
                "answer": "v",
                "candidates": "['u', 'v']",
                "index": 0,
            }
        ],
        ("Q?\nOptions:\nA. u\nB. v", "B", "choice"),
        "MLVU/video/4_count/1.mp4",
    ),
    "mmvu": (
        "yale-nlp/MMVU",
        "validation.json",
        [
            {
                "id": "v_1",
                "video": "https://huggingface.co/datasets/yale-nlp/MMVU/resolve/main/videos/Art/1.mp4",
                "question_type": "open-ended",
                "question": "Q?",
                "choices": {"A": "", "B": ""},
                "answer": "cubism",
            }
        ],
        ("Q?", "cubism", "exact"),
        "videos/Art/1.mp4",
    ),
    "videoholmes": (
        "TencentARC/Video-Holmes",
        "test_Video-Holmes.json",
        [
            {
                "video ID": "x1",
                "Question ID": 4,
                "Question Type": "SR",
                "Question": "Q?",
                "Options": {"A": "u", "B": "v"},
                "Answer": "A",
                "Explanation": "because",
            }
        ],
        ("Q?\nOptions:\nA. u\nB. v", "A", "choice"),
        "video/x1.mp4",
    ),
    "videoholmes from the kit": (
        "TencentARC/Video-Holmes",
        "Video_Holmes.tsv",
        [
            {
                "index": 0,
                "video": "x1",
                "video_path": "./video/x1.mp4",
                "candidates": "['A. u', 'B. v']",
                "question": "Q?",
                "answer": "B",
                "question_id": 4,
                "question_type": "SR",
                "explanation": "because",
            }
        ],
        ("Q?\nOptions:\nA. u\nB. v", "B", "choice"),
        "video/x1.mp4",
    ),
}


@pytest.mark.parametrize("name", VIDEO)
def test_video_sets_are_decoded_by_the_video_module(name, kit, hub, monkeypatch):
    repository, file, rows, expected, video = VIDEO[name]
    home, asked = hub(repository), []
    write(home / file, rows)
    source = name.split(" ")[0]

    def read_clip(path, where, frames):
        asked.append(path.resolve())
        pictures = tuple(tiny.image(seed=i) for i in range(frames))
        return SimpleNamespace(frames=pictures, metadata={"fps": 2.0})

    with pytest.raises(InputError, match=r"`video` '.*\.mp4' is missing: no file"):
        load_problems(source)
    (home / video).parent.mkdir(parents=True, exist_ok=True)
    (home / video).touch()
    with pytest.raises(InputError, match=r"could not be decoded|holds no video"):
        load_problems(source)  # an empty file
    monkeypatch.setattr(rows_module, "read_clip", read_clip)
    (problem,) = load_problems(source)
    assert (question_text(problem), problem.answer, problem.verifier) == expected
    assert len(problem.video) == 16
    assert problem.metadata["fps"] == 2.0
    assert len(load_problems(source, frames=4)[0].video) == 4
    assert asked == [(home / video).resolve()] * 2


AIME_ROW = {"id": 60, "problem": "What is $17 \\cdot 12$?", "url": "u"}
TEXTS = {
    "math-500": (
        "HuggingFaceH4/MATH-500",
        "test.jsonl",
        {
            "problem": "Halve $\\pi$.",
            "solution": "It is $\\boxed{\\frac{\\pi}{2}}$.",
            "answer": "\\frac{\\pi}{2}",
            "subject": "Precalculus",
            "level": 2,
            "unique_id": "test/precalculus/0.json",
        },
        ("test/precalculus/0.json", "Precalculus", "\\frac{\\pi}{2}"),
        ("So \\boxed{\\pi/2}.", "So \\boxed{\\pi}."),
    ),
    "gsm8k": (
        "openai/gsm8k",
        "main/test-00000-of-00001.parquet",
        {
            "question": "A hen lays 3 eggs a day. How many in 500 days?",
            "answer": "3 eggs #### a day, 500 days: <<3*500=1500>>1500.\n#### 1,500",
        },
        ("0", "", "1,500"),
        ("It lays 3 a day. The answer is 1500 eggs.", "The answer is 1501 eggs."),
    ),
    "aime24": (
        "HuggingFaceH4/aime_2024",
        "data/train-00000-of-00001.parquet",
        {**AIME_ROW, "solution": "It is $\\boxed{204}$.", "answer": "204", "year": "2024"},
        ("60", "", "204"),
        ("<think> 3? </think> <answer> \\boxed{204} </answer>", "<answer> \\boxed{3} </answer>"),
    ),
    "aime24 from another": (
        "math-ai/aime24",
        "data/test-00000-of-00001.parquet",
        {**AIME_ROW, "solution": "\\boxed{204}"},
        ("60", "", "204"),
        ("We add.\nAnswer: $204$", "We add.\nAnswer: $205$"),
    ),
    "aime25": (
        "math-ai/aime25",
        "test.jsonl",
        {"problem": "What is $7 \\cdot 10$?", "answer": "070", "id": "0"},
        ("0", "", "070"),
        ("\\boxed{70}", "\\boxed{7}"),
    ),
    "amc23": (
        "math-ai/amc23",
        "test-00000-of-00001.parquet",
        {"id": 0, "question": "Where do they meet?", "answer": "27.0", "url": "u/2023_AMC_12A"},
        ("0", "", "27.0"),
        ("\\boxed{27}", "\\boxed{28}"),
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_sets_of_mathematics_in_text_are_read_and_judged(name, hub):
    repository, file, row, (identity, family, answer), (right, wrong) = TEXTS[name]
    home, source = hub(repository), name.split(" ")[0]
    write(home / file, [row])
    (problem,) = load_problems(source)
    assert (problem.id, problem.family, problem.answer) == (f"{source}/{identity}", family, answer)
    assert question_text(problem) == row.get("problem", row.get("question"))
    assert (problem.verifier, problem.images, problem.choices) == ("math", (), ())
    verdicts = [verify(said, answer, problem.verifier).correct for said in (right, wrong)]
    assert verdicts == [True, False]
    (again,) = load_problems(f"{source}:{home / file}")
    assert (again.answer, again.question) == (problem.answer, problem.question)


def test_a_text_without_the_part_that_is_kept_is_refused(hub):
    home = hub("openai/gsm8k")
    write(home / "main/test-00000-of-00001.parquet", [{"question": "Q?", "answer": "It is 18."}])
    with pytest.raises(
        InputError, match=r"`answer` ends with 'It is 18\.'; expected '#### .* in it: load_pro"
    ):
        load_problems("gsm8k")
    with pytest.raises(
        InputError, match=r"'aime25' \(AIME 2025.* `hf download math-ai/aime25 --repo-type dat"
    ):
        load_problems("aime25")
    with pytest.raises(InputError, match=r"\(did you mean 'math-500'\?\)"):
        load_problems("math500")


def test_every_set_has_a_fixture():
    covered = {*KIT, *HUB, *(name.split(" ")[0] for name in (*VIDEO, *TEXTS))}
    assert set(read_problem_presets()) == covered


# --- refused -------------------------------------------------------------------------------------------


def test_a_set_that_is_not_here_says_where_it_was_looked_for(kit, hub):
    with pytest.raises(InputError) as refused:
        load_problems("mathvista")
    told = str(refused.value)
    assert (
        f"{kit}/MathVista_MINI.tsv; data/testmini-*.parquet of AI4Math/MathVista in the Hugging Face cache"
        in told
    )
    assert (
        "`hf download AI4Math/MathVista --repo-type dataset` or VLMEvalKit, which fetches MathVista_MINI.tsv"
        in told
    )
    assert "load_problems('mathvista:FILE')" in told


def test_calls_that_are_refused(kit, hub, tmp_path):
    with pytest.raises(
        InputError, match=r"'mathvista:no.tsv': no such file; expected MathVista, testmini as one of"
    ):
        load_problems("mathvista:no.tsv")
    with pytest.raises(InputError, match=r"`columns` applies to files and data sets, not to 'mathvista'"):
        load_problems("mathvista", columns={"question": "q"})
    with pytest.raises(
        InputError, match=r"neither a known problem set \(shapes, .*\(did you mean 'mathvista'\?\)"
    ):
        load_problems("mathvist")
    write(kit / "MMMU_DEV_VAL.tsv", [{"index": 1, "split": "dev", "question": "Q?", "answer": "A", **MCQ}])
    with pytest.raises(InputError, match="'mmmu' is an empty problem set"):
        load_problems("mmmu")
    write(tmp_path / "MLVU_MCQ.tsv", [{"index": 1, "video": "a.mp4", "question": "Q?", "answer": "A"}])
    with pytest.raises(InputError, match=r"line 2: no column 'prefix', which 'mlvu' needs; found index"):
        load_problems(f"mlvu:{tmp_path}/MLVU_MCQ.tsv")
    write(tmp_path / "wrong.tsv", [{"a": 1, "b": 2}])
    with pytest.raises(InputError, match=r"line 2: no column 'task', which 'mathvista' needs; found a, b$"):
        load_problems(f"mathvista:{tmp_path}/wrong.tsv")
    with pytest.raises(InputError, match=r"line 2: no column 'question', which 'wemath' needs; found a, b$"):
        load_problems(f"wemath:{tmp_path}/wrong.tsv")
    (tmp_path / "wrong.jsonl").write_text(json.dumps({"question": "Q?"}))
    with pytest.raises(InputError, match=r"no column 'split', which 'mmmu' needs; found question$"):
        load_problems(f"mmmu:{tmp_path}/wrong.jsonl")
    (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        InputError, match=r"wrong.csv' is a file of unknown kind; expected .tsv, .jsonl, .*: load"
    ):
        load_problems(f"mathvista:{tmp_path}/wrong.csv")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InputError, match=r"x\.json holds no list of objects"):
        load_problems(tmp_path / "x.json")
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(InputError, match=r"x\.parquet, near row 0: could not be read"):
        load_problems(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "table",
    [
        {"places": []},
        {"places": [{"file": "a.tsv", "columns": {"answers": "a"}}]},
        {"places": [{"file": "a.tsv"}], "verifier": "maths"},
        {"places": [{"file": "a.tsv"}], "tempalte": "x"},
    ],
)
def test_presets_that_are_wrong_are_refused(tmp_path, table):
    common = {"title": "t", "answer": "a", "template": "{question}", "sources": "s"}
    (tmp_path / "p.yaml").write_text(json.dumps({"x": common | table}))
    with pytest.raises(InputError, match=r"problem set 'x' in p\.yaml: "):
        read_problem_presets(tmp_path / "p.yaml")
