"""Two models side by side: what they are made of, whether they can be compared, and how prompts reach them.

`load_pair` (`pairs`) loads a preset (`presets`, ``pairs.yaml``) or two checkpoints (`checkpoints`), refuses what can't be
compared position by position (`preflight`) before anything runs, and finds layers, norm and unembedding of each (`anatomy`).
`ModelPair.encode` makes an `EncodedPrompt` (`prompts`): token ids, their kinds, and where in the picture each visual token
lies (`layouts`, `tilings`).

    import workbench as wb
    pair = wb.load_pair("shapes")
    prompt = pair.encode(wb.load_problems("shapes", limit=1)[0])
    wb.load_pair("shapes", checkpoint="sft")    # a control in the RLVR model's place; `checkpoints_of` names them
    wb.load_pair(
        base="Qwen/Qwen2.5-VL-7B-Instruct", rlvr="TIGER-Lab/VL-Rethinker-7B", device="cuda", dtype="bfloat16"
    )

Both are hub ids or folders of Qwen2-VL, Qwen2.5-VL, Qwen3-VL, LLaVA-1.5 and -OneVision, InternVL (HF), Gemma 3,
SmolVLM/Idefics3, or text-only Qwen2, Qwen3 and Llama.

**Pairs by name.** The paper's pairs and published pairs of text (``workbench pairs list``) come with system prompt, pixel
budget, dtype and settings of replay and patches, each with its source; what could not be verified is null. Yours: write
``mine:`` with at least ``base:`` and ``rlvr:`` below it to a YAML file, and say ``--pair pairs.yaml:mine`` or
``wb.load_pair("pairs.yaml:mine")``.

**Comparable.** Refused before any forward: two precisions, two sets of weights in a folder, tokenizers, templates or processors
that differ (`preflight`, `weight_files`); ``chat_template="base"``, ``"rlvr"`` or a file, and ``processor=``, say which both read
(`settling`). Said, and kept in ``provenance["remarks"]``: equal weights, another rope, other ends of responses (`comparability`).

**Nothing stays behind.** A forward is given positions that come from its prompt alone (`positions`), and rotary tables that
stretch are put back (`rope_memory`): no call changes what another gets. NaN or infinity ends a prompt with its place (`finite`).

**Adapters.** ``base`` and ``rlvr`` may be LoRA adapters as peft saves them (extra ``peft``): each is merged into the model given
beside it as ``base``, else the one that its config names (`lora`). ``package:file.gguf`` names a model that a Python package
brings (`gguf`).

**Controls.** Models of the base that RL did not train stand beside RLVR where a claim is made. Your own are named in the pair's
YAML (``controls: {sft: ./sft, longer: ./adapter}``: folder, adapter or hub id) or in Python; each shares the pair's base:

    wb.study(pair, problems, "runs/mine", controls=wb.controls_of(pair, {"sft": "runs/sft"}))

**Devices.** ``--device auto`` (``pip install -e ".[gpu]"``) spreads each model over all GPUs, for pairs larger than one;
weights that would be left on CPU or disk are refused. ``--attn-implementation`` takes ``sdpa`` (the default), ``eager`` or
``flash_attention_2``. Where memory runs out, fewer prompts or smaller blocks of the vocabulary are computed at a time
(`backoff`): said once, with the size that fits; results stay the same up to rounding.

A new family: its layout in `layouts`, its picture cutting in `tilings`, a tiny config in ``tests/support/tiny.py``.
"""
