"""The one exception for mistakes a user can mend."""


class CtwaError(ValueError):
    """A mistake in what the user wrote: config, data, reward function.

    The message is one sentence: what is wrong, where, and what to write instead.
    """
