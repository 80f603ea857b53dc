"""Models: where one is or can be had, what is wrong with it, how it completes prompts, how several are merged."""
