"""One look at what a run will read, before anything starts: its data, reward functions, model, and prompts as tokens.

A run that would fail on one of them minutes later, or train on something else without a word, does not start. What is
cheap comes first; together it takes a second or two.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateSyntaxError
from omegaconf import DictConfig, OmegaConf

from ctwa.data.rows import ground_truth_fault
from ctwa.data.templates import refusal
from ctwa.engine.checks.adapter import look_at_adapter_of
from ctwa.engine.checks.conditioning import check_told
from ctwa.engine.checks.model import check_model, model_source
from ctwa.engine.checks.turns import check_loops_of_rows, tool_schemas
from ctwa.engine.data import KEYS, TRAIN, DataRow, Part, RunData
from ctwa.errors import CtwaError, one_line
from ctwa.models.look import look_at_model, look_at_tokenizer
from ctwa.models.source import Source
from ctwa.objectives.contract import need_ground_truth, shortened
from ctwa.objectives.conventions import column_fault
from ctwa.objectives.evaluator import load_contracts

if TYPE_CHECKING:
    from ctwa.engine.settings import Settings
    from ctwa.objectives.conditioning import Conditioning
    from ctwa.objectives.contract import Contract

NUM_RENDERED = 100
"""Random rows of a file whose prompts are rendered by the chat template."""
MEDIA = ("image_key", "video_key", "audio_key")
"""The keys that name the columns which verl puts into the messages."""


@dataclass(frozen=True)
class Prompts:
    """The rows' prompts as the model will get them.

    Attributes:
        lengths: in tokens.
        unknown_frac: the share of their tokens that stands for what the tokenizer does not know.
        first: the first, as the model reads it.
    """

    lengths: tuple[int, ...]
    unknown_frac: float
    first: str


def look(config: DictConfig, settings: Settings, data: RunData) -> None:
    """Look at everything that a run with objectives will read, of whose rows the form is known."""
    check_loops_of_rows(config, data.sample)
    model = look_at_trained_model(config)
    _check_media(config, model, data.sample)
    longest = config.data.max_prompt_length + config.data.max_response_length
    check_model(config, settings.gradients, model, longest, "data.max_prompt_length + data.max_response_length")
    contracts = load_contracts(settings.objectives)
    _check_what_functions_need(contracts, settings, data)
    tokenizer = load_tokenizer(config, model)
    if tokenizer is not None and data.sample:
        data.leave_out(partial(_refusal, config, tokenizer, tool_schemas(config) or None))
        rows = data.sample
        conditioning = settings.build_conditioning()
        if conditioning is not None:
            render = partial(_rendered, config, tokenizer, rows[0], tool_schemas(config) or None)
            check_told(conditioning, rows[0].row.values["prompt"], render)
        prompts = look_at_prompts(config, tokenizer, rows, conditioning)
        _check_unknown(config, prompts, settings.max_unknown_tokens)


def data_lines(config: DictConfig, data: RunData, conditioning: Conditioning | None = None) -> list[str]:
    """What a plan says of the data: its rows, how long the prompts are, and the first as the model reads it."""
    told = [f"  {'data' if not number else '':<12} {each}" for number, each in enumerate(data.lines())]
    tokenizer = load_tokenizer(config, None)
    if tokenizer is None or not data.sample:
        return told
    seen = look_at_prompts(config, tokenizer, data.sample, conditioning)[TRAIN]
    unknown = f", {seen.unknown_frac:.0%} of them unknown to the tokenizer" if seen.unknown_frac else ""
    return [
        *told,
        f"  prompts      {min(seen.lengths)} to {max(seen.lengths)} tokens{unknown} ({len(seen.lengths)} looked at, at "
        f"most {config.data.max_prompt_length} are taken)",
        f"  the first    {shortened(repr(seen.first))}",
    ]


def look_at_trained_model(config: DictConfig) -> Any:
    """Look at the model that is trained, and at the adapter that it begins with, where one is named.

    Returns:
        The model's config; None where it has to be downloaded yet.
    """
    source, other = model_source(config), config.actor_rollout_ref.model.get("hf_config_path")
    key = "actor_rollout_ref.model.hf_config_path"
    model = look_at_model(source, Source(other, key, source.trust_remote_code) if other else None)
    look_at_adapter_of(config, model)
    return model


def load_tokenizer(config: DictConfig, model: Any) -> Any:
    """The tokenizer of the run, as verl takes it; None where it has to be downloaded yet.

    Args:
        config: the resolved config.
        model: the model's config, where it is known.
    """
    node, source = config.actor_rollout_ref.model, model_source(config)
    if path := node.get("tokenizer_path"):
        source = Source(path, "actor_rollout_ref.model.tokenizer_path", source.trust_remote_code)
    tokenizer = look_at_tokenizer(source, model)
    if tokenizer is None:
        return None
    if tokenizer.eos_token_id is None:
        raise source.error(
            "has a tokenizer without an end-of-sequence token, so no completion would end; write eos_token in its "
            "tokenizer_config.json"
        )
    if template := node.get("custom_chat_template"):
        tokenizer.chat_template = template
    if not tokenizer.chat_template:
        raise source.error(
            "has no chat template, and prompts are chat messages; give the folder of a model that has one, or write "
            "the template to chat_template.jinja in it or in actor_rollout_ref.model.custom_chat_template"
        )
    return tokenizer


def _check_media(config: DictConfig, model: Any, rows: Sequence[DataRow]) -> None:
    """See that a model of text alone gets no row with images and the like, for which verl wants a processor."""
    if model is None or model.get_text_config() is not model:
        return
    for each in rows:
        for key in MEDIA:
            if each.row.values.get(config.data.get(key)):
                raise each.error(
                    f"its {config.data[key]} would be given to the model, which reads text alone; write "
                    f"data.{key}=none to train on the text without them, or leave the column out"
                )


def _check_what_functions_need(contracts: Mapping[str, Contract], settings: Settings, data: RunData) -> None:
    for name, contract in contracts.items():
        if "reference_tokens" in contract.required and settings.reference_length is None:
            raise CtwaError(
                f"objective '{name}' asks for reference_tokens, and there are none: write "
                "ctwa.reference_length={type:fixed} or another (docs/rewards.md)"
            )
    needed_by = need_ground_truth(contracts)
    columns = {name: contract.columns for name, contract in contracts.items()}
    for part in data.parts:
        if needed_by:
            _check_truths(part, needed_by, settings)
        for each in part.sample:
            about = settings.about(each.row.values)
            fault = ground_truth_fault(each.row.values, [name for name in needed_by if name in about])
            own = {name: of_function for name, of_function in columns.items() if name in about}
            if fault := fault or column_fault(each.row.values, own):
                raise each.error(fault)


def _check_truths(part: Part, needed_by: Sequence[str], settings: Settings) -> None:
    """See that no row lacks a ground truth that an objective about it asks for, where rows were read by columns."""
    rows = part.without_truth()
    lacking = ((row, own) for row in rows if (own := settings.about(row.row.values) & set(needed_by)))
    if (first := next(lacking, None)) is not None:
        row, own = first
        names = [name for name in needed_by if name in own]
        raise row.error(_without_truth(part, names, 1 + sum(1 for _ in lacking)))


def _without_truth(part: Part, needed_by: Sequence[str], number: int) -> str:
    """What is said of the first row without a ground truth, of so many."""
    names = ", ".join(f"'{name}'" for name in needed_by)
    columns = ", ".join(dict.fromkeys(name for form in part.forms for name in form.columns))
    others = f" (nor have {number - 1} others)" if number > 1 else ""
    return (
        f"it has no ground truth{others}, which the objectives ({names}) ask for; write 'data.columns={{ground_truth: "
        f"COLUMN}}' (it has {columns}), data.bad_rows=skip with a data.answer, or ground_truth=None in the function's "
        "signature where it can do without"
    )


def look_at_prompts(
    config: DictConfig, tokenizer: Any, rows: Sequence[DataRow], conditioning: Conditioning | None = None
) -> dict[str, Prompts]:
    """Render some rows' prompts, and see that they are whole and fit.

    Args:
        config: the resolved config.
        tokenizer: the model's.
        rows: rows of the files.
        conditioning: what writes weights into the prompts: they have to fit whatever they are told, and are shown with
            the objectives' own.

    Returns:
        What was seen, by key of the files.
    """
    seen, tools = {}, tool_schemas(config) or None
    for key in KEYS:
        of_key = [each for each in rows if each.key == key]
        chosen = of_key[:1] + random.Random(0).sample(of_key[1:], min(NUM_RENDERED, len(of_key) - 1))
        for each in {id(row): row for row in [*_first_of_roles([*chosen, *of_key]), *chosen]}.values():  # once each
            if (fault := _refusal(config, tokenizer, tools, each.row.values["prompt"])) is not None:
                raise each.error(fault)
        tokens = [
            [_rendered(config, tokenizer, each, tools, messages) for messages in _as_told(each, conditioning)]
            for each in chosen
        ]
        lengths = tuple(max(map(len, of_row)) for of_row in tokens)
        _check_lengths(config, chosen, lengths)
        firsts = [of_row[0] for of_row in tokens]
        seen[key] = Prompts(lengths, _unknown_frac(tokenizer, firsts), tokenizer.decode(firsts[0]))
    return seen


def _check_unknown(config: DictConfig, prompts: Mapping[str, Prompts], most: float) -> None:
    for key, seen in prompts.items():
        if seen.unknown_frac > most:
            raise model_source(config).error(
                f"does not know {seen.unknown_frac:.0%} of the tokens of data.{key}: it reads the first prompt as "
                f"{shortened(seen.first)!r}; give a model that can read these prompts, or allow so many with "
                "ctwa.max_unknown_tokens"
            )


def room_for_weights(config: DictConfig, data: RunData, conditioning: Conditioning) -> int:
    """The tokens that weights add to a prompt, at most, by the rows that are looked at.

    0 where there is no row, or the tokenizer has yet to be downloaded.
    """
    tokenizer, tools = load_tokenizer(config, None), tool_schemas(config) or None
    rows = [] if tokenizer is None else data.sample[:NUM_RENDERED]
    added = [0]
    for each in rows:
        plain, *told = (
            len(_rendered(config, tokenizer, each, tools, messages))
            for messages in (each.row.values["prompt"], *_as_told(each, conditioning))
        )
        added.append(max(told) - plain)
    return max(added)


def _as_told(each: DataRow, conditioning: Conditioning | None) -> list[Any]:
    """The messages of a row as the policy may get them: told the objectives' own weights, or one of them alone."""
    prompt = each.row.values["prompt"]
    if conditioning is None:
        return [prompt]
    return [conditioning.write(prompt, weights) for weights in (conditioning.own, *conditioning.corners())]


def _first_of_roles(rows: Sequence[DataRow]) -> list[DataRow]:
    """The first row of each sequence of roles, by which chat templates refuse prompts."""
    first: dict[tuple[str, ...], DataRow] = {}
    for each in rows:
        first.setdefault(tuple(message["role"] for message in each.row.values["prompt"]), each)
    return list(first.values())


def _refusal(config: DictConfig, tokenizer: Any, tools: list[dict[str, Any]] | None, messages: Any) -> str | None:
    """What keeps a prompt from being given to the model as it says, and what to write; None where nothing does."""
    return refusal(messages, lambda messages: _applied(config, tokenizer, tools, messages, tokenize=False))


def _template_kwargs(config: DictConfig) -> Any:
    return OmegaConf.to_container(OmegaConf.create(config.data.get("apply_chat_template_kwargs") or {}))


def _rendered(
    config: DictConfig, tokenizer: Any, each: DataRow, tools: list[dict[str, Any]] | None, messages: Any
) -> list[int]:
    try:
        tokens = _applied(config, tokenizer, tools, messages, tokenize=True)
    except CtwaError:
        raise
    except Exception as error:  # a template raises what it likes
        raise each.error(
            f"the model's chat template cannot render its prompt ({one_line(error)}); write messages that it takes"
        ) from error
    return list(tokens)


def _applied(
    config: DictConfig, tokenizer: Any, tools: list[dict[str, Any]] | None, messages: Any, *, tokenize: bool
) -> Any:
    """What the chat template makes of messages, as text or as tokens; it raises what it likes.

    Raises:
        CtwaError: it is no template.
    """
    try:
        return tokenizer.apply_chat_template(
            messages,
            tools=tools,
            add_generation_prompt=True,
            tokenize=tokenize,
            return_dict=False,
            **_template_kwargs(config),
        )
    except TemplateSyntaxError as error:
        raise model_source(config).error(
            f"has a chat template that is no template ({one_line(error)}); give the model's own"
        ) from error


def _unknown_frac(tokenizer: Any, tokens: Sequence[Sequence[int]]) -> float:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        return 0.0
    return sum(list(each).count(unknown) for each in tokens) / sum(map(len, tokens))


def _check_lengths(config: DictConfig, rows: Sequence[DataRow], lengths: Sequence[int]) -> None:
    limit = config.data.max_prompt_length
    too_long = [(length, each) for length, each in zip(lengths, rows, strict=True) if length > limit]
    if len(too_long) == len(rows):
        raise CtwaError(
            f"data.{rows[0].key}: all prompts that were looked at ({len(rows)}) are longer than data.max_prompt_length="
            f"{limit}, the shortest {min(lengths)} tokens, the longest {max(lengths)}: write {max(lengths)} or more"
        )
    if too_long and not config.data.filter_overlong_prompts:
        length, each = max(too_long, key=lambda pair: pair[0])
        raise each.error(
            f"its prompt has {length} tokens, more than data.max_prompt_length={limit}: write {length} or more, or "
            "data.filter_overlong_prompts=true to leave such rows out"
        )
