"""Doors from outside: the command line (`cli`, `study_cli`, `compare_cli`, `bench_cli`, `machine_cli`, `sweep_cli`, `pairs_cli`,
`organism_cli`) and the evaluation harnesses (`harness`, `lmms_eval_models`, `vlmevalkit`). Nothing is computed here.

Options that commands share are values in `options`: a parameter of such a type stands for all its fields (`flags`). They are
looked at in the order of their price, and all of that before torch is imported (`checks`). What the library refuses is said in
flags; progress and warnings go to standard error (`terminal`).

**lmms-eval**, in an environment of its own (``pip install -e ".[lmms-eval]"``):

    python -m lmms_eval --model workbench \\
        --model_args pair=vl-rethinker-7b,intervention=replay,tau=0.4,device=cuda \\
        --tasks realworldqa --batch_size 4 --gen_kwargs max_new_tokens=2048

runs any task of lmms-eval that generates a response on the pair: ``intervention=rlvr`` (plain), ``base``, ``replay`` or
``patch``, with settings that are not given taken from the pair's preset. Tasks that compare given answers need
``--force_simple``. lmms-eval 0.7.3 wants other versions than the extra ``dev`` takes (``av`` below 16, ``latex2sympy2``,
``filelock`` below 4), hence the environment. Beside our math-verify pip installs a ``latex2sympy2`` that can't be imported,
so the tasks that need it (mathvision, emma, stare) don't run there.

**VLMEvalKit**: ``wb.VLMEvalKitModel("vl-rethinker-7b", "replay")`` is a model for it, for sets of one turn and of
several. Both show the pictures of a question first.

A new command: a function in the file of its group that checks its options before it imports torch, then calls one function
of the library; `pairs_cli` is the shortest to copy. Its bad inputs are rows of ``tests/interfaces/test_bad_input.py``.
"""
