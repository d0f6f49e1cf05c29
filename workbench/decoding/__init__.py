"""Responses: greedy or sampled, many from one prefill, in process (`decode`) or by vLLM (`vllm_engine`); stop tokens (`stops`);
and how probable a given response is (`likelihoods`).

    import workbench as wb
    wb.decode(pair, pair.encode(problem), intervention=learned, samples=16, temperature=1.0, seed=0)

Another engine implements `responses` as `vllm_engine.VllmEngine` does, and is named in `decode`.
"""
