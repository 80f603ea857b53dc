"""The Hydra configuration of `ctwa train`, composed over verl's own."""

from omegaconf import OmegaConf

# YAML has no arithmetic: ${ctwa_sum:${data.max_prompt_length},${data.max_response_length}}.
OmegaConf.register_new_resolver("ctwa_sum", lambda *numbers: sum(numbers), replace=True)
