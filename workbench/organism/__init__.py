"""The bundled pair `shapes`: a tiny Qwen2.5-VL taught to see (SFT), then taught to reason (GRPO), from nothing, on a CPU."""
