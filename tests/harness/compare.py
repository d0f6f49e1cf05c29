"""lmms-eval on the bundled pair, plain, with replay and with a patch, beside what the workbench computes itself.

Run by `tests/harness/run`. Ends with status 1 if an accuracy or a response differs.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import datasets
import scoring
import torch

import workbench as wb
from workbench.answers import verify
from workbench.experiments import intervene
from workbench.likelihoods import response_ids, response_nats
from workbench.presets import default_matrix, settings_for

HERE = Path(__file__).parent
LIMIT = int(sys.argv[1]) if len(sys.argv) > 1 else 48
BATCH = 16
TASK, CHOICE = "workbench_shapes", "workbench_shapes_choice"
CONDITIONS = {"base": "base", "rlvr": "rlvr", "replay": "tokens, low", "patch": "patch, low"}


def write(path, problems):
    rows = [{"image": p.images[0], "question": p.question, "answer": p.answer} for p in problems]
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(path)


def evaluate(tasks, intervention, folder, *flags):
    """By task the accuracy that lmms-eval reports, and what it logs of every sample, in order.

    Of a response it scores what is after the thoughts (`filtered_resps`), and logs all of it beside that where they differ.
    """
    out = folder / "results" / "_".join([*tasks, intervention, *flags])
    command = [sys.executable, "-m", "lmms_eval", "--model", "workbench"]
    command += [
        "--model_args",
        f"pair=shapes,device=cpu,intervention={intervention}",
        "--tasks",
        ",".join(tasks),
    ]
    command += [
        "--include_path",
        str(HERE),
        "--batch_size",
        str(BATCH),
        "--output_path",
        str(out),
        "--log_samples",
    ]
    done = subprocess.run([*command, *flags], cwd=folder, capture_output=True, text=True)
    results = list(out.rglob("*results.json"))
    if done.returncode or not results:
        sys.exit(f"{' '.join([*command, *flags])}\n{done.stdout}\n{done.stderr}")
    scores = json.loads(results[0].read_text())["results"]
    found = {}
    for task in tasks:
        (file,) = out.rglob(f"*samples_{task}.jsonl")
        rows = sorted(map(json.loads, file.read_text().splitlines()), key=lambda row: row["doc_id"])
        found[task] = (
            next(scores[task][k] for k in ("exact_match,none", "acc,none") if k in scores[task]),
            rows,
        )
    return found


def answers(pair, problems, condition):
    """What the workbench says to the problems."""
    texts = []
    for start in range(0, len(problems), BATCH):
        batch = problems[start : start + BATCH]
        prompts = [pair.encode(problem) for problem in batch]
        made = intervene(pair, batch, prompts, condition, batch_size=BATCH)
        model = "base" if condition == "base" else "rlvr"
        found = wb.decode_many(
            pair, prompts, model=model, interventions=made, max_new_tokens=64, batch_size=BATCH
        )
        texts += [responses[0].text for responses in found]
    return texts


def choices(pair, problems, condition):
    """Which option the workbench finds most probable, as an index."""
    picked = []
    for problem in problems:
        prompt = pair.encode(problem)
        (made,) = intervene(pair, [problem], [prompt], condition)
        ids = [response_ids(pair, option) for option in scoring.options({})]
        nats = response_nats(
            pair.base if condition == "base" else pair.rlvr,
            [prompt] * len(ids),
            ids,
            pad_id=pair.pad_id,
            interventions=[made] * len(ids),
        )
        picked.append(min(range(len(ids)), key=lambda i: nats[i] * len(ids[i])))
    return picked


def main():
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    pair = wb.load_pair("shapes", device="cpu")
    matrix = default_matrix(pair.depth, **settings_for(pair))
    problems = wb.load_problems("shapes", limit=LIMIT)
    colored = [p for p in wb.load_problems("shapes", limit=4 * LIMIT) if p.answer in scoring.COLORS][:LIMIT]
    same = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "shapes.parquet", problems)
        write(folder / "choices.parquet", colored)
        os.environ["HF_HOME"] = str(folder / "cache")
        print(f"lmms-eval beside the workbench, {len(problems)} questions and {len(colored)} with choices")
        for word, title in CONDITIONS.items():
            condition = matrix.get(title, title)
            texts = answers(pair, problems, condition)
            verdicts = [verify(t, p.answer, p.verifier).correct for t, p in zip(texts, problems, strict=True)]
            picked = choices(pair, colored, condition)
            own = sum(map(bool, verdicts)) / len(verdicts)
            own_picked = sum(
                scoring.COLORS[i] == p.answer for i, p in zip(picked, colored, strict=True)
            ) / len(picked)
            chat = evaluate([TASK], word, folder)
            simple = evaluate([TASK, CHOICE], word, folder, "--force_simple")
            for kind, (reported, rows) in (("chat", chat[TASK]), ("simple", simple[TASK])):
                equal = sum(
                    row.get("resps", row["filtered_resps"]) == text
                    for row, text in zip(rows, texts, strict=True)
                )
                print(
                    f"{word:7} {kind:8} accuracy {reported:.4f} beside {own:.4f}; {equal} of {len(texts)} responses equal"
                )
                same &= abs(reported - own) < 1e-9 and equal == len(texts)
            print(f"{word:7} choices  accuracy {simple[CHOICE][0]:.4f} beside {own_picked:.4f}", flush=True)
            same &= abs(simple[CHOICE][0] - own_picked) < 1e-9
    print("equal" if same else "DIFFERENT")
    sys.exit(not same)


if __name__ == "__main__":
    main()
