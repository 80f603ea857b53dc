"""Prompts with constraints that code can check, in the manner of IFEval (arXiv 2311.07911): `task=instructions`.

``text`` reads words, sentences and bullets; ``constraints`` has a class for each kind of constraint; ``subjects`` has
what the prompts are about; ``prompts`` draws them; ``rewards`` scores completions; ``prepare`` writes the files.
Nothing is imported here: ``rewards`` must load without torch.
"""
