"""The bundled pair ``shapes``: a tiny Qwen2.5-VL taught to see (SFT), then taught to reason (GRPO), from nothing, on a CPU.

2.5 million parameters that read 4 x 4 boards of coloured shapes, count over the moments of short videos, and as an agent
zoom into pictures whose marks are too small for them. The base answers carefully or hastily, depending on how it is asked;
RL with a verifiable reward teaches it to be careful. The card, ``weights/README.md``, has the data, the recipe, the accuracies,
and what it misses.

    workbench study --problems shapes-video
    workbench agent --turns 3
    workbench organism train       # makes it again from nothing (recipe.yaml); pip install -e ".[train]"
    workbench organism evaluate    # reprints the card's table

The pair ``smol`` is text alone, on a language model that was really pretrained (SmolLM2-135M-Instruct): its base is a short
supervised start, its RLVR model GRPO from there, both adapters (card: ``smol/README.md``; recipe: ``smol.yaml``).

    workbench organism train --pair smol
    workbench organism evaluate --pair smol

The pair ``smolvl`` is the same with a small vision tower on that language model, and sees number cards (card:
``smolvl/README.md``; recipe: ``smolvl.yaml``): ``workbench organism train --pair smolvl``.

In order: `lessons`, `tower` (of what sees), `adapters_sft`, `adapters_grpo` (with `shared_prompts`), `adapters_evaluation`;
`adapters_training` runs them all.
Of ``shapes``: `data` (what it is taught with), `model`, `sft`, `grpo`, `evaluation`; `training` runs them all, `resuming` lets
each go on after a kill. Another organism is another recipe: copy ``recipe.yaml`` and pass it to ``workbench organism train``.
"""
