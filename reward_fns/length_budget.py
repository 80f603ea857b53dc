"""Length budget: does the response keep within a number of tokens?"""


def length_budget(response: str, response_tokens: int, budget: int, limit: int | None = None) -> float:
    """1 up to a budget of tokens, from there down to 0 at a limit; a response that says nothing has 0.

    It says nothing of what is written: let it count where another objective is met.

    Args:
        response: the response.
        response_tokens: its tokens, the end of sequence among them.
        budget: tokens that cost nothing.
        limit: tokens at which nothing is left; twice the budget by default.
    """
    limit = 2 * budget if limit is None else limit
    if not any(character.isalnum() for character in response):
        return 0.0
    if response_tokens <= budget:
        return 1.0
    return max(0.0, (limit - response_tokens) / (limit - budget)) if limit > budget else 0.0


def check_length_budget(budget: int, limit: int | None = None) -> None:
    """Refuse what is no budget."""
    if budget <= 0 or (limit is not None and limit < budget):
        raise ValueError(f"budget={budget} and limit={limit}: write 0 < budget <= limit")
