"""Completions of plain transformers models: the decode loop and the seeds, for rollouts and for evaluation."""
