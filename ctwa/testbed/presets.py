"""The named testbeds A, C, D, F and G: which base model, and which token budget."""

from collections.abc import Mapping
from dataclasses import dataclass

from ctwa.errors import CtwaError
from ctwa.testbed.tasks import Problem


@dataclass(frozen=True)
class Preset:
    """One testbed: the base model (mixture of response styles, seed, how strong) and the conciseness budget.

    How strong the base is decides what can be seen. Accuracy rises by a tenth within some twenty steps of supervised
    training, at a step that varies by a hundred with the seed and with the order in which a machine adds numbers; so
    training stops at an accuracy, not at a step: as soon as ``base_accuracy`` is reached by completions sampled for
    training problems, checked every ``check_every`` steps from ``first_check`` on. The checks being noisy and apart,
    the base ends within about .05 of it.

    The conciseness budget of a problem is ``budget_base + budget_per_operation * num_operations`` tokens; a response
    is concise when it is shorter. 32 tokens for all leave no style that is correct by its own working, clear and
    concise on four operations; 9.5 an operation and 4 more let compact steps have all three.
    """

    name: str
    summary: str
    mixture: Mapping[str, float]
    base_accuracy: float
    sft_seed: int
    max_sft_steps: int = 800
    first_check: int = 320
    check_every: int = 5
    num_check_problems: int = 512
    usual_sft_steps: int = 400  # for the progress bar
    budget_base: float = 32.0
    budget_per_operation: float = 0.0
    num_train: int = 4096
    num_held_out: int = 512

    def budget(self, problem: Problem) -> float:
        """The number of tokens, ``<eos>`` included, that a concise response stays below."""
        return self.budget_base + self.budget_per_operation * problem.num_operations


MIXTURE_A = {"V": 0.30, "S": 0.10, "M": 0.10, "T": 0.15, "H": 0.20, "D": 0.15}
MIXTURE_C = {"P": 0.45, "V": 0.10, "S": 0.08, "H": 0.15, "h": 0.07, "D": 0.10, "T": 0.05}

MIXTURE_G = {"P": 0.392, "V": 0.14, "S": 0.014, "h": 0.25, "D": 0.154, "T": 0.05}

MAX_RESPONSE_TOKENS = 80
"""Of a completion, in runs, checks and evaluations."""

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="A",
            summary="strong early interference that the paper's CTWA does not relieve: the negative case",
            mixture=MIXTURE_A,
            base_accuracy=0.47,
            sft_seed=0,
            check_every=1,  # its accuracy rises by .15 within ten steps
        ),
        Preset(
            name="C",
            summary="accuracy rises and then falls, as in the paper's figures; use eight seeds or more",
            mixture=MIXTURE_C,
            base_accuracy=0.61,
            sft_seed=1,
        ),
        Preset(
            name="D",
            summary="a weaker base of the mixture of C: equal weights lose accuracy from the start; the quickstart's",
            mixture=MIXTURE_C,
            base_accuracy=0.42,
            sft_seed=1,
            num_held_out=400,
        ),
        Preset(
            name="F",
            summary="C with a budget that grows with the problem, so that the objectives agree: the control",
            mixture=MIXTURE_C,
            base_accuracy=0.61,
            sft_seed=1,
            budget_base=4.0,
            budget_per_operation=9.5,
        ),
        Preset(
            name="G",
            summary="the objectives agree, but in a style that is right once in seventy completions of the base",
            mixture=MIXTURE_G,
            base_accuracy=0.40,
            sft_seed=1,
            budget_base=4.0,
            budget_per_operation=9.5,
        ),
    )
}


def get_preset(name: str) -> Preset:
    """Look a preset up by its letter; a :class:`CtwaError` lists the known ones."""
    if name not in PRESETS:
        raise CtwaError(f"there is no testbed {name!r}: write one of {', '.join(PRESETS)}")
    return PRESETS[name]
