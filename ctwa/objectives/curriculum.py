"""Which prompts come next: sources by their shares, and within a source prompts by how often they are solved.

Dimensions: R rows of the data set, N completions, M objectives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, ValidationInfo, field_validator, model_validator
from torch import Tensor

from ctwa import metrics as key_of
from ctwa.batch import RewardMatrix, slack
from ctwa.errors import CtwaError
from ctwa.strict import StrictModel
from ctwa.weights import check_weights

_ALL = ""
"""The name of the one source there is where the user names none."""


MOST_SOURCES = 32
"""With more of them a data source tells rows apart, and not tasks: nothing is shown by source then."""


def source_named(data_source: object) -> str:
    """What a row's ``data_source`` is called: rows without one are a source, too."""
    return str(data_source or "unnamed")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Difficulty(StrictModel):
    """Draw a prompt by its solve rate: the more often, the nearer this is to a target.

    The solve rate of a sampling is the share of the prompt's completions that are solved. With several objectives a
    completion is solved to the share of their weight that reaches its bound; what was not scored is not asked.

    Attributes:
        by: the objective that says what is solved, or several with their weights.
        at_least: what it returns for a completion that is solved, before any gate or shaping; by objective where the
            bounds differ.
        target: the solve rate that is drawn most often.
        least: how likely a prompt is that is always or never solved, as a share of one at the target. In between the
            likelihood is linear. A prompt that was never sampled counts as one at the target.
        decay: the weight of the solve rate so far when a prompt is sampled again; 0 keeps the last sampling alone.
    """

    by: str | dict[str, float]
    at_least: float | dict[str, float] = 1.0
    target: Annotated[float, Field(gt=0, lt=1)] = 0.5
    least: Annotated[float, Field(gt=0, le=1)] = 0.1
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.5

    @property
    def weights(self) -> dict[str, float]:
        """Of the objectives, by name."""
        return {self.by: 1.0} if isinstance(self.by, str) else self.by

    def bound(self, name: str) -> float:
        """What an objective returns at least for a completion that is solved."""
        return self.at_least if isinstance(self.at_least, float) else self.at_least[name]

    @field_validator("by", "at_least", mode="before")
    @classmethod
    def _is_of_objectives(cls, value: Any, info: ValidationInfo) -> Any:
        """Say it in one sentence where pydantic would say it of each type that there may be."""
        names = info.field_name == "by"
        one, each = ("the name of an objective", "a weight above 0") if names else ("a number", "a number")
        for number in value.values() if isinstance(value, dict) else ():
            if not _is_number(number) or (names and number <= 0):
                raise ValueError(f"{number!r} is not {each}; write {{NAME: {each}, ...}}")
        if names and isinstance(value, dict) and value:
            check_weights(value)
        if not (value if isinstance(value, dict) else isinstance(value, str) if names else _is_number(value)):
            raise ValueError(f"{value!r} is neither {one} nor {{NAME: {each}, ...}}; write one of them")
        return value

    @model_validator(mode="after")
    def _has_every_bound(self) -> Difficulty:
        if isinstance(self.at_least, dict) and self.at_least.keys() != self.weights.keys():
            raise ValueError(
                f"at_least is of {', '.join(self.at_least) or 'nothing'}, and by of {', '.join(self.weights)}; write "
                "the same names, or one number for all"
            )
        return self

    def solved_N(self, rewards: RewardMatrix) -> Tensor:
        """(N,) float64, to which share each completion is solved; NaN where none of the objectives scored it."""
        solved_N = torch.zeros(len(rewards.rewards_NM), dtype=torch.float64)
        asked_N = torch.zeros_like(solved_N)
        for name, weight in self.weights.items():
            rewards_N, scored_N = rewards.column(name)
            least = self.bound(name) - slack(self.bound(name))
            solved_N += weight * (scored_N & (rewards_N >= least))
            asked_N += weight * scored_N
        return solved_N / asked_N

    def likelihood_R(self, rates_R: Tensor) -> Tensor:
        """How likely prompts of some solve rates are, 1 at the most; a rate of NaN is not known."""
        nearness_R = torch.where(rates_R <= self.target, rates_R / self.target, (1 - rates_R) / (1 - self.target))
        return self.least + (1 - self.least) * nearness_R.nan_to_num(nan=1.0)

    def described(self) -> str:
        """In words, for a plan."""
        solved = " and ".join(
            f"{name} >= {self.bound(name):g}" + (f" (weight {weight:g})" if len(self.weights) > 1 else "")
            for name, weight in self.weights.items()
        )
        return (
            f"by the share of completions with {solved}: most often at {self.target:g}, {self.least:g} times as often "
            "at 0 and 1"
        )


class CurriculumSettings(StrictModel):
    """Which prompts come next; by default every row of the data once in an epoch.

    Attributes:
        sources: how many of the prompts each data source gives, as shares or in any unit, however many rows it has; all
            sources of the data, 0 for one that gives none.
        difficulty: draw prompts by how often they were solved when they were sampled last.
    """

    sources: dict[str, Annotated[float, Field(ge=0, le=1e6)]] | None = None
    difficulty: Difficulty | None = None

    @property
    def is_on(self) -> bool:
        """Whether anything is asked for."""
        return bool(self.sources) or self.difficulty is not None

    @property
    def shares(self) -> dict[str, float]:
        """Of the sources that give prompts, with the sum 1, in alphabetical order."""
        sources = self.sources or {}
        return {name: sources[name] / sum(sources.values()) for name in sorted(sources) if sources[name] > 0}

    @model_validator(mode="after")
    def _has_a_source(self) -> CurriculumSettings:
        if self.sources and not self.shares:
            raise ValueError(f"sources: all of {', '.join(self.sources)} have weight 0; give one a positive weight")
        return self

    def described(self, num_rows: Mapping[str, int]) -> list[str]:
        """In words, for a plan.

        Args:
            num_rows: of each source.
        """
        shares = [f"{name} {share:.1%} of the prompts ({num_rows[name]:,} rows)" for name, share in self.shares.items()]
        drawn = [f"drawn {self.difficulty.described()}"] if self.difficulty else []
        return [*([", ".join(shares)] if shares else []), *drawn]


class Curriculum:
    """Draws the rows of the steps. What it has drawn and seen is its state; equal seeds draw equal rows.

    The sources take turns, so that after any number of prompts each one has given its share. Within a source, rows come
    in random order, each once before any comes again; with ``difficulty`` they are drawn by their likelihood, none
    twice in a step while there are others.

    Args:
        settings: what is asked for.
        sources_R: the data source of each row.
        seed: of the draws.
        shuffle: False leaves the rows in their order, where there is no ``difficulty``.

    Raises:
        CtwaError: a source that is to give prompts has no row.
    """

    def __init__(
        self, settings: CurriculumSettings, sources_R: Sequence[str], *, seed: int, shuffle: bool = True
    ) -> None:
        self._difficulty = settings.difficulty
        self._shuffle = shuffle
        self._shares = settings.shares or {_ALL: 1.0}
        self._sources_R = list(sources_R) if settings.sources else [_ALL] * len(sources_R)
        of_source: dict[str, list[int]] = {name: [] for name in self._shares}
        for row, name in enumerate(self._sources_R):
            if name in of_source:
                of_source[name].append(row)
        for name, rows in of_source.items():
            if not rows:
                raise CtwaError(
                    f"ctwa.curriculum.sources: of '{name}' no row is left (data.train_max_samples and "
                    "data.filter_overlong_prompts leave rows out); write 0 for it, or leave fewer out"
                )
        self._rows = {name: torch.tensor(rows) for name, rows in of_source.items()}
        self._generator = torch.Generator().manual_seed(seed)
        self._due = dict.fromkeys(self._shares, 0.0)
        self._to_come: dict[str, Tensor] = {name: rows[:0] for name, rows in self._rows.items()}
        self._rates_R = torch.full((len(self._sources_R),), float("nan"), dtype=torch.float64)
        self._step: list[int] = []
        self._measured: list[float] = []

    def begin_step(self) -> None:
        """The rows that are drawn from now on are a new step's; the place of the first is 0."""
        self._step, self._measured = [], []

    def draw(self, num_prompts: int) -> list[int]:
        """The next rows, as indices into the data set."""
        names = [self._next_source() for _ in range(num_prompts)]
        rows = {name: iter(self._next_rows(name, number)) for name, number in Counter(names).items()}
        drawn = [next(rows[name]) for name in names]
        self._step += drawn
        return drawn

    def observe(self, places_N: Sequence[int], rewards: RewardMatrix) -> None:
        """Learn how often prompts of the step were solved.

        Args:
            places_N: of each completion the place of its prompt in the step.
            rewards: of the completions, as the functions returned them.
        """
        if self._difficulty is None:
            return
        solved: dict[int, list[float]] = {}
        for place, share in zip(places_N, self._difficulty.solved_N(rewards).tolist(), strict=True):
            if share == share:  # which NaN is not: nobody scored the completion
                solved.setdefault(place, []).append(share)
        for place in sorted(solved):
            row, rate = self._step[place], sum(solved[place]) / len(solved[place])
            before, decay = float(self._rates_R[row]), self._difficulty.decay
            self._rates_R[row] = decay * before + (1 - decay) * rate if before == before else rate
            self._measured.append(rate)

    def metrics(self) -> dict[str, float]:
        """Of the rows that the step has drawn: each source's share, and how often they were solved."""
        metrics: dict[str, float] = {}
        if _ALL not in self._shares:
            num_of = Counter(self._sources_R[row] for row in self._step)
            metrics |= {key_of.source_share(name): num_of[name] / len(self._step) for name in self._shares}
        if self._measured:
            metrics[key_of.SOLVE_RATE] = sum(self._measured) / len(self._measured)
        if self._difficulty is not None:
            metrics[key_of.NEVER_SAMPLED] = float(self._rates_R.isnan().double().mean())
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """All that a restart needs, between two steps."""
        return {
            "curriculum": list(self._shares),
            "due": dict(self._due),
            "generator": self._generator.get_state(),
            "to_come": {name: rows.clone() for name, rows in self._to_come.items()},  # a slice would save what is past
            "rates": self._rates_R.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            CtwaError: it is of a run without a curriculum, of other sources or of other data.
        """
        if state.get("curriculum") != list(self._shares):
            raise CtwaError(
                "the checkpoint's place in the data is not one of this ctwa.curriculum: resume with the configuration "
                "that the checkpoint was made with, or start a new run"
            )
        if len(state["rates"]) != len(self._rates_R):
            raise CtwaError(
                f"the checkpoint's ctwa.curriculum is of {len(state['rates'])} rows, and the data have "
                f"{len(self._rates_R)}: resume with the data of the run, or start a new one"
            )
        self._due = dict(state["due"])
        self._generator.set_state(state["generator"])
        self._to_come = {name: rows.clone() for name, rows in state["to_come"].items()}
        self._rates_R = state["rates"].clone()

    def _next_source(self) -> str:
        """The one that lacks most of its share: with every prompt each is due its share of one, and one gives it."""
        for name, share in self._shares.items():
            self._due[name] += share
        name = max(self._due, key=self._due.__getitem__)
        self._due[name] -= 1
        return name

    def _next_rows(self, name: str, number: int) -> list[int]:
        return self._in_turn(name, number) if self._difficulty is None else self._by_likelihood(name, number)

    def _in_turn(self, name: str, number: int) -> list[int]:
        rows: list[int] = []
        while len(rows) < number:
            if not len(self._to_come[name]):
                every = self._rows[name]
                order = torch.randperm(len(every), generator=self._generator) if self._shuffle else slice(None)
                self._to_come[name] = every[order]
            wanted = number - len(rows)
            rows += self._to_come[name][:wanted].tolist()
            self._to_come[name] = self._to_come[name][wanted:]
        return rows

    def _by_likelihood(self, name: str, number: int) -> list[int]:
        assert self._difficulty is not None
        rows: list[int] = []
        every, of_step = self._rows[name], torch.tensor(self._step, dtype=torch.int64)
        is_free = ~torch.isin(every, of_step)
        while len(rows) < number:
            if not is_free.any():
                is_free = torch.ones_like(is_free)
            likelihood = self._difficulty.likelihood_R(self._rates_R[every]) * is_free
            wanted = min(number - len(rows), int(is_free.sum()))
            drawn = torch.multinomial(likelihood, wanted, generator=self._generator)
            is_free[drawn] = False
            rows += every[drawn].tolist()
        return rows
