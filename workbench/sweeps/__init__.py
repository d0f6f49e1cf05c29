"""Ablation sweeps: a YAML file becomes cells, cells run anywhere, what is done is in a ledger and never lost."""
