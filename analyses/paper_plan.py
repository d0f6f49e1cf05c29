"""What the whole paper would cost: every pair on its problem sets under the default matrix, beside the released loop.

From published configs (the sizes below) and what a card is taken to achieve, 300 TFLOP/s and 2 TB/s; nothing is loaded or run.
Problem counts are those that the sets' authors give, rounded; prompt and response lengths are assumptions, said in the table.
"""

import pandas as pd

from workbench.interfaces.cli import run_analysis
from workbench.interventions import default_matrix
from workbench.models.preset_files import read_presets
from workbench.studies.paper import Finding, Given
from workbench.sweeps.costs import CARD, Cost, Prompt, Shape, group_cost, memory, released_cost
from workbench.views.paper_figures import plan_bars

TOWER = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420}
CONFIGS = {  # Qwen2.5-VL
    "7b": {"num_hidden_layers": 28, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
           "num_key_value_heads": 4, "vocab_size": 152064, "vision_config": TOWER},
    "32b": {"num_hidden_layers": 64, "hidden_size": 5120, "intermediate_size": 27648, "num_attention_heads": 40,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 152064,
            "vision_config": TOWER | {"intermediate_size": 3456}},
}  # fmt: skip
MATH = {"mathverse": 788, "mathvision": 3040, "mathvista": 1000, "dynamath": 5010, "wemath": 1740, "logicvista": 447,
        "mmmu": 900, "mmmu-pro": 1730}  # fmt: skip
AGENT = {"hrbench-4k": 800, "hrbench-8k": 800, "visualprobe-medium": 270, "visualprobe-hard": 110}
VIDEO = {"videommmu": 900, "mlvu": 2170, "mmvu": 1000, "videoholmes": 1840}
SCENARIOS = {  # problems; visual tokens of a prompt, tokens of a response, turns
    "math": (MATH, 800, 512, 1),
    "agent": (AGENT, 5000, 256, 3),
    "video": (VIDEO, 8 * 256, 512, 1),
}
SAMPLES = 16


def analyse(given: Given) -> Finding:
    rows = []
    for name, preset in read_presets().items():
        if preset.bundled:
            continue
        shape = Shape.of(CONFIGS["32b" if "32b" in name else "7b"])
        scenario = {"deepeyes-7b": "agent", "video-r1-7b": "video"}.get(name, "math")
        sets, visual, response, turns = SCENARIOS[scenario]
        prompt = Prompt(visual, response=response, samples=SAMPLES)
        matrix = ["base", "rlvr", *default_matrix(shape.layers, **preset.matrix()).values()]
        ours = group_cost(shape, prompt, matrix)
        apart = sum((group_cost(shape, prompt, ["base", "rlvr", c]) for c in matrix[2:]), Cost())
        loop = sum((released_cost(shape, prompt, condition) for condition in matrix), Cost())
        for problems, count in sets.items():
            rows.append(
                {
                    "pair": name,
                    "problems": problems,
                    "count": count,
                    "cells": count * len(matrix),
                    "visual_tokens": visual,
                    "response_tokens": response,
                    "turns": turns,
                    "gpu_hours": ours.seconds(CARD) * count * turns / 3600,
                    "gpu_hours_without_sharing": apart.seconds(CARD) * count * turns / 3600,
                    "gpu_hours_released_loop": loop.seconds(CARD) * count * turns / 3600,
                    "memory_gb": memory(shape, shape, prompt) / 1e9,
                }
            )
    table = pd.DataFrame(rows)
    drawn = []
    for pair, part in table.groupby("pair", sort=False):
        for what, column in (("here", "gpu_hours"), ("released loop", "gpu_hours_released_loop")):
            seconds = part[column].sum() * 3600 / part["count"].sum()
            drawn.append({"pair": pair, "what": what, "seconds": seconds})
    subtitle = f"{table['cells'].sum():,.0f} cells: {table['gpu_hours'].sum():,.0f} GPU-hours, "
    subtitle += f"{table['gpu_hours_released_loop'].sum():,.0f} as the released loop; 16 samples and greedy, from configs"
    return Finding({"": plan_bars(pd.DataFrame(drawn), subtitle=subtitle)}, table)


if __name__ == "__main__":
    run_analysis("paper_plan")
