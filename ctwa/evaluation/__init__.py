"""Evaluation of any model: preference losses, perplexity, rewards of completions, an LLM judge; docs/eval.md."""

from ctwa.evaluation.config import EvalConfig, read_config
from ctwa.evaluation.evaluate import evaluate
from ctwa.evaluation.results import Results, results_text
from ctwa.evaluation.runs import config_of

__all__ = ["EvalConfig", "Results", "config_of", "evaluate", "read_config", "results_text"]
