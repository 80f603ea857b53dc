"""The named testbeds A, C, D and F: which base model, which token budget, and the settings they were measured with."""

from collections.abc import Mapping
from dataclasses import dataclass

from ctwa.errors import CtwaError
from ctwa.testbed.tasks import Problem


@dataclass(frozen=True)
class RlSettings:
    """Settings of the reinforcement learning runs; the same in every preset but for the number of steps.

    Group-relative policy optimisation: advantage ``(score - mean) / (std + 1e-6)`` within each prompt's completions,
    clipped surrogate averaged over tokens, constant learning rate. One step draws ``num_prompts`` fresh problems and
    ``num_completions`` answers to each, and updates ``num_minibatches`` times on ``num_prompts / num_minibatches``
    whole groups. The three objectives start with equal weights; CTWA uses the paper's rates and targets (weight rate
    0.05, smoothing 0.1, targets 0.15 for accuracy and 0.08 for conciseness and clarity).
    """

    num_steps: int
    num_held_out: int = 512  # evaluated every `eval_every` steps, one completion each
    eval_every: int = 10
    num_prompts: int = 16
    num_completions: int = 8
    num_minibatches: int = 2
    temperature: float = 1.0
    max_prompt_tokens: int = 16
    max_response_tokens: int = 80
    learning_rate: float = 3e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    clip_ratio: float = 0.2
    max_grad_norm: float = 1.0
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0


@dataclass(frozen=True)
class Preset:
    """One testbed: the base model (mixture of response styles, seed, how strong), the conciseness budget, RL.

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
    rl: RlSettings
    max_sft_steps: int = 800
    first_check: int = 320
    check_every: int = 5
    num_check_problems: int = 512
    usual_sft_steps: int = 400  # for the progress bar
    budget_base: float = 32.0
    budget_per_operation: float = 0.0
    num_train: int = 4096

    def budget(self, problem: Problem) -> float:
        """The number of tokens, ``<eos>`` included, that a concise response stays below."""
        return self.budget_base + self.budget_per_operation * problem.num_operations


MIXTURE_A = {"V": 0.30, "S": 0.10, "M": 0.10, "T": 0.15, "H": 0.20, "D": 0.15}
MIXTURE_C = {"P": 0.45, "V": 0.10, "S": 0.08, "H": 0.15, "h": 0.07, "D": 0.10, "T": 0.05}

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="A",
            summary="strong early interference that the paper's CTWA does not relieve: the negative case",
            mixture=MIXTURE_A,
            base_accuracy=0.47,
            sft_seed=0,
            rl=RlSettings(num_steps=60),
            check_every=1,  # its accuracy rises by .15 within ten steps
        ),
        Preset(
            name="C",
            summary="accuracy rises and then falls, as in the paper's figures; use eight seeds or more",
            mixture=MIXTURE_C,
            base_accuracy=0.61,
            sft_seed=1,
            rl=RlSettings(num_steps=150),
        ),
        Preset(
            name="D",
            summary="a weaker base of the mixture of C: equal weights lose accuracy from the start; the quickstart's",
            mixture=MIXTURE_C,
            base_accuracy=0.42,
            sft_seed=1,
            rl=RlSettings(num_steps=50, num_held_out=400),
        ),
        Preset(
            name="F",
            summary="C with a budget that grows with the problem, so that the objectives agree: the control",
            mixture=MIXTURE_C,
            base_accuracy=0.61,
            sft_seed=1,
            rl=RlSettings(num_steps=80),
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
