"""What a user says of rows whose columns are not verl's: the same keys in training, evaluation and on command lines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from ctwa.data.answers import Rule
from ctwa.strict import StrictModel

PLACE = "{prompt}"


class Columns(StrictModel):
    """Which columns of the data are what; a dot goes into a column (``answer.value``).

    Attributes:
        prompt: text, or messages.
        ground_truth: what reward functions compare with.
        data_source: where a row is from; by default the name of the file, or of the data set on the hub.
    """

    prompt: str | None = None
    ground_truth: str | None = None
    data_source: str | None = None


class RowSettings(StrictModel):
    """How rows are read.

    Attributes:
        columns: which columns are what, where they are not found by their names.
        answer: how the ground truth is taken out of its column; null: as the first row suggests.
        system_prompt: a system message before every prompt.
        prompt_template: what the user says, with the row's prompt in the place of ``{prompt}``.
        bad_rows: ``stop`` at rows that cannot be used, or ``skip`` and count them.
    """

    columns: Columns = Field(default_factory=Columns)
    answer: Rule | None = None
    system_prompt: str | None = None
    prompt_template: str | None = None
    bad_rows: Literal["stop", "skip"] = "stop"

    @field_validator("prompt_template")
    @classmethod
    def _has_its_place(cls, template: str | None) -> str | None:
        if template is not None and template.count(PLACE) != 1:
            raise ValueError(
                f"the template has {template.count(PLACE)} times {PLACE}; write it once, e.g. 'Solve: {PLACE}'"
            )
        return template

    @field_validator("system_prompt", "prompt_template")
    @classmethod
    def _is_no_interpolation(cls, text: str | None) -> str | None:
        if text is not None and "${" in text:
            raise ValueError("it has ${, which a configuration takes for another key; write $ {")
        return text

    @field_validator("system_prompt")
    @classmethod
    def _says_something(cls, prompt: str | None) -> str | None:
        if prompt is not None and not prompt.strip():
            raise ValueError("the system prompt is empty; write one, or null")
        return prompt


class DataSettings(RowSettings):
    """Our keys of the ``data`` node.

    Attributes:
        validation_share: the share of the training prompts that is held out, where ``val_files`` is null.
        validation_seed: which prompts these are; the run's seed has no part in it, so that seeds can be compared.
    """

    validation_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    validation_seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
