"""Preference losses, preference data and the reference's log-probabilities, for M objectives."""

from ctwa.preference.data import Pair, PairSet, PreferenceSource, load_preferences, split_pairs
from ctwa.preference.log_probs import continuation_log_probs, response_log_probs
from ctwa.preference.losses import (
    CpoLoss,
    DpoLoss,
    IpoLoss,
    PairLogProbs,
    PreferenceLoss,
    SimpoLoss,
    objective_losses,
    objective_means,
    pair_losses,
    preference_metrics,
    soft_losses,
    sum_log_probs,
)
from ctwa.preference.reference import ReferenceLogProbs, cached_reference, fingerprint, model_fingerprint
from ctwa.preference.registry import LOSSES, PREFERENCE_METHODS, PreferenceLossConfig
from ctwa.preference.tokenization import PairTokens, PreferenceBatch, TokenSet, collate, tokenize_pairs

__all__ = [
    "LOSSES",
    "PREFERENCE_METHODS",
    "CpoLoss",
    "DpoLoss",
    "IpoLoss",
    "Pair",
    "PairLogProbs",
    "PairSet",
    "PairTokens",
    "PreferenceBatch",
    "PreferenceLoss",
    "PreferenceLossConfig",
    "PreferenceSource",
    "ReferenceLogProbs",
    "SimpoLoss",
    "TokenSet",
    "cached_reference",
    "collate",
    "continuation_log_probs",
    "fingerprint",
    "load_preferences",
    "model_fingerprint",
    "objective_losses",
    "objective_means",
    "pair_losses",
    "preference_metrics",
    "response_log_probs",
    "soft_losses",
    "split_pairs",
    "sum_log_probs",
    "tokenize_pairs",
]
