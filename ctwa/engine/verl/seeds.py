"""The names that seed a run's completions.

They are made of the run's seed, the step and the prompt's place in the batch, so a completion does not depend on the
order in which anything arrives, and a resumed run samples what the uninterrupted one would have.
"""

SEED_FIELD = "sampling_seed"
"""The column of a batch of prompts that names the seed of each."""
