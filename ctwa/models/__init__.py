"""Models: which folder holds one, what is wrong with it, how it completes prompts, how several are merged."""
