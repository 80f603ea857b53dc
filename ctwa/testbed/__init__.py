"""A small arithmetic world in which several objectives really conflict, made in seconds on a CPU.

``tasks`` draws problems and writes demonstrations, ``tokenizer`` and ``model`` define a 0.6 M-parameter language model,
``sft`` trains a base model, ``bases`` has those that come with ctwa, ``data`` writes the prompts, ``rewards`` scores
completions, ``presets`` names the settings, and ``prepare`` does everything at once. Nothing is imported here:
``rewards`` must load without torch.
"""
