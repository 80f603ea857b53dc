"""`ctwa plan`: what a run takes of GPUs that need not be there, and what to change where it is much."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from omegaconf import DictConfig

from ctwa.capacity import memory, seconds, traffic
from ctwa.capacity.hardware import Cluster, read_cluster
from ctwa.capacity.remedies import GPUS_OPTION, faults, remedies
from ctwa.capacity.seconds import Rates
from ctwa.capacity.shape import ModelShape, read_shape
from ctwa.capacity.workload import Sampling, Workload
from ctwa.engine.caid_settings import check_caid_settings
from ctwa.engine.checks.adapter import check_new_adapter
from ctwa.engine.checks.config import check_train_settings
from ctwa.engine.checks.model import check_model, model_source
from ctwa.engine.checks.pairs import check_pair_settings, check_prompts
from ctwa.engine.compose import compose_written
from ctwa.engine.plan import GB, line, reference_line
from ctwa.engine.workload import of_pairs, of_rewards, of_samples
from ctwa.engine.written import Written
from ctwa.errors import CtwaError, neighbour
from ctwa.gradients.settings import GradientSettings
from ctwa.models.look import model_config
from ctwa.preference.modpo import Modpo

ReadShape = Callable[..., ModelShape]
"""As :func:`read_shape`."""

ANY_RUN = ("ctwa.run=runs", "ctwa.task_dir=.")
ANY_DATA = ("data.train_files=-", "data.val_files=-")
"""What a configuration needs and a plan does not go by: no file of these is looked at."""


@dataclass(frozen=True)
class Planned:
    """A run that a plan is made of.

    Attributes:
        workload: its step.
        method: in words.
        step: what a step is made of, in words.
        beside: lines on what is not of every step.
        run: lines on what more than a step takes, where the hardware reaches some rates.
    """

    workload: Workload
    method: str
    step: str
    beside: Sequence[str] = ()
    run: Callable[[Rates], Sequence[str]] = lambda _: ()


def make_plan(
    arguments: Sequence[str], gpus: str, *, command: str = "train", mean_tokens: float | None = None, rates: Rates
) -> tuple[str, bool]:
    """The plan of a run, and whether it fits.

    Args:
        arguments: of the command; without an engine among them `engine=gpu`, also where a file has that of a CPU.
        gpus: as :func:`read_cluster` reads them.
        command: ``train``, ``prefer`` or ``caid``.
        mean_tokens: of a response, as expected; of `ctwa prefer` of a response with its prompt. By default as many as
            there may be.
        rates: what the hardware is taken to reach.

    Raises:
        CtwaError: a mistake in the arguments, or a model without a config.json here.
    """
    read = cache(read_shape)  # once: other settings leave a model's shape as it is

    def planned_of(arguments: Sequence[str], gpus: str) -> tuple[DictConfig, Planned]:
        cluster = read_cluster(gpus)
        config = _compose(arguments, cluster, command)
        return config, _PLANS[command](config, cluster, mean_tokens, read)

    def is_taken(more: Mapping[str, str]) -> bool:
        """Whether a run with more settings is not refused, and fits: what is advised is planned before."""
        try:
            _, planned = planned_of(*_with(arguments, gpus, more))
        except CtwaError:
            return False
        return not faults(planned.workload)

    config, planned = planned_of(arguments, gpus)
    return "\n".join(plan_lines(command, config, planned, rates, is_taken)), not faults(planned.workload)


_RANKS = ("trainer.nnodes", "trainer.n_gpus_per_node")


def _with(arguments: Sequence[str], gpus: str, more: Mapping[str, str]) -> tuple[Sequence[str], str]:
    """Arguments with those of a remedy behind them; another `--gpus` takes the place of what was said of ranks."""
    added = [f"{key}={value}" for key, value in more.items() if key != GPUS_OPTION]
    replaced = _RANKS if GPUS_OPTION in more else ()
    own = [each for each in arguments if each.partition("=")[0] not in replaced]
    return [*own, *added], more.get(GPUS_OPTION, gpus)


def _compose(arguments: Sequence[str], cluster: Cluster, command: str) -> DictConfig:
    """The configuration of a run on these GPUs; a whole one keeps the engine that is in it."""
    ranks = [f"{key}={num}" for key, num in zip(_RANKS, (cluster.num_nodes, cluster.gpus_per_node), strict=True)]
    for rank in ranks:
        key = rank.partition("=")[0]
        if given := next((each for each in arguments if each.startswith(f"{key}=") and each != rank), None):
            raise CtwaError(f"{given} is not what --gpus {cluster} says, which is {rank}: write one of the two")
    written = Written.read([*arguments, *ranks], command)
    chosen = any(each.startswith("engine=") for each in arguments) or written.whole
    if not chosen and written.choices(command).get("engine", "cpu") == "cpu":
        written = replace(written, overrides=("engine=gpu", *written.overrides))
    config = compose_written(written.over(ANY_RUN if command == "prefer" else (*ANY_RUN, *ANY_DATA)), command=command)
    samples = command != "prefer"
    if config.trainer.device == "cuda" and (not samples or config.actor_rollout_ref.rollout.name == "vllm"):
        return config
    served = " whose server is vLLM" if samples else ""
    instead = "write engine=gpu, or no engine, which is gpu"
    if written.whole:
        instead = f"{written.whole.path} is all of a run on another engine; give the settings that it was made of"
    raise CtwaError(f"a plan is of a run on GPUs{served}: {instead}")


def _training(config: DictConfig, cluster: Cluster, mean_response: float | None, read: ReadShape) -> Planned:
    settings = check_train_settings(config)
    longest = config.data.max_prompt_length + config.data.max_response_length
    shape = _shape(config, settings.gradients, longest, "data.max_prompt_length + data.max_response_length", read)
    _check_mean(mean_response, config.data.max_response_length, "data.max_response_length")
    workload = of_rewards(config, settings, shape, cluster, mean_response)
    return Planned(workload, settings.method.type, _sampled(workload.served))


def _alignment(config: DictConfig, cluster: Cluster, mean_row: float | None, read: ReadShape) -> Planned:
    settings, num_pairs = check_pair_settings(config), config.data.train_batch_size
    shape = _shape(config, settings.gradients, settings.max_length, "ctwa.max_length", read)
    _check_mean(mean_row, settings.max_length, "ctwa.max_length")
    workload = of_pairs(config, settings, shape, cluster, mean_row)
    others = Modpo(settings.modpo, settings.weights).others if settings.modpo else {}
    policies = [name for name, share in others.items() if share != 0]
    thousand = replace(workload, num_rows=2000)

    def of_reference(rates: Rates) -> list[str]:
        asked = seconds.log_probs(thousand, rates) if settings.needs_reference else 0
        asked += len(policies) * seconds.log_probs(_on_one_gpu(thousand), rates)
        return [line("", f"{asked:.3g} s before the first step for each 1,000 pairs")] if asked else []

    return Planned(
        workload,
        f"{settings.method_name}, {settings.loss.type}",
        f"{num_pairs} pairs of two rows, of {workload.row_tokens:g} tokens (at most {settings.max_length})",
        [reference_line("all" if settings.needs_reference else ""), *_policy_lines(policies, workload)],
        of_reference,
    )


def _iterations(config: DictConfig, cluster: Cluster, mean_response: float | None, read: ReadShape) -> Planned:
    settings, num_pairs = check_caid_settings(config), config.data.train_batch_size
    check_prompts(config, settings.pairs_per_prompt)
    longest = config.data.max_prompt_length + config.data.max_response_length
    shape = _shape(config, settings.gradients, longest, "data.max_prompt_length + data.max_response_length", read)
    _check_mean(mean_response, config.data.max_response_length, "data.max_response_length")
    workload, steps = of_samples(config, settings, shape, cluster, mean_response), settings.steps_per_iteration
    num_compared = workload.served.prompts * settings.pairs_per_prompt
    policies = list(settings.policies)

    def of_policies(rates: Rates) -> list[str]:
        samples, num = seconds.sampling(workload, rates), settings.caid.iterations
        trained = steps * sum(seconds.step(workload, rates).values())
        reference = samples + seconds.log_probs(replace(workload, num_rows=2 * num_compared), rates)
        scored = replace(_on_one_gpu(workload), num_rows=workload.served.num_rows)
        scores = (1 + len(policies)) * seconds.log_probs(scored, rates) if policies else 0
        samples += scores  # of the policies whose scores are trained on, and of the reference
        reference += scores
        return [
            line("", f"{trained:.3g} s for the {steps} steps of a policy, {samples:.3g} for its samples"),
            line("", f"{(reference + num * (trained + samples)) / 3600:.3g} h for the reference and {num} policies"),
        ]

    return Planned(
        workload,
        f"{'PeCAID' if policies else 'MoCAID'}, labels {settings.labels}",
        f"{num_pairs} pairs of two rows, of {workload.row_tokens:g} tokens (at most {workload.served.longest})",
        [
            line("samples", f"{_sampled(workload.served)}, of the reference and of each policy"),
            line("policies", f"at most {settings.caid.iterations}, {steps} steps each"),
            reference_line(f"at most {num_compared:,}"),
            *_policy_lines([*policies, "the reference"] if policies else [], workload),
        ],
        of_policies,
    )


_PLANS: dict[str, Callable[[DictConfig, Cluster, float | None, ReadShape], Planned]] = {
    "train": _training,
    "prefer": _alignment,
    "caid": _iterations,
}


def _check_mean(tokens: float | None, most: int, key: str) -> None:
    if tokens is not None and not 0 < tokens <= most:
        raise CtwaError(f"--response {tokens:g}: write a number of tokens up to {key}={most}")


def _shape(config: DictConfig, gradients: GradientSettings, longest: int, what: str, read: ReadShape) -> ModelShape:
    """The model's, whose config.json goes with the run's configuration; arguments as of :func:`check_model`."""
    source = model_source(config)
    folder = source.folder(ask=False)
    if folder is None or not (folder / "config.json").is_file():
        where = "is neither a folder nor among the downloads" if folder is None else "has no config.json"
        near = "" if folder else neighbour(Path(source.name))
        raise source.error(
            f"{where}; give the folder of a model, or fetch its config.json alone (hf download NAME config.json){near}"
        )
    shape, model = read(folder, trust_remote_code=source.trust_remote_code), model_config(source, folder)
    check_model(config, gradients, model, longest, what)
    check_new_adapter(config, model)
    return shape


def _sampled(served: Sampling) -> str:
    return (
        f"{served.prompts} prompts x {served.completions} completions = {served.num_rows}, of {served.prompt_tokens} + "
        f"{served.mean_response_tokens:g} tokens (at most {served.prompt_tokens} + {served.response_tokens})"
    )


def _on_one_gpu(workload: Workload) -> Workload:
    """The driver's own policies are on one GPU, if they are not on the CPU."""
    return replace(workload, cluster=replace(workload.cluster, num_nodes=1, gpus_per_node=1))


def _policy_lines(names: Sequence[str], workload: Workload) -> list[str]:
    """Of policies beside the one that is trained, which the driver asks for log-probabilities."""
    if not names:
        return []
    size = workload.shape.num_parameters * workload.weight_bytes / GB
    where = "on the GPU with the most free memory, where it fits into half of that, else in main memory"
    return [line("beside it", f"{', '.join(names)}: each up to {size:.3g} GB if it is as large, {where}")]


def plan_lines(
    command: str, config: DictConfig, planned: Planned, rates: Rates, is_taken: Callable[[Mapping[str, str]], bool]
) -> list[str]:
    """The plan, a line each; `is_taken` says whether the run may have more settings."""
    workload = planned.workload
    return [
        f"plan of `ctwa {command}` on {workload.cluster}:",
        *_model_lines(config, planned),
        *_memory_lines(config, workload),
        *_traffic_lines(workload),
        *_time_lines(planned, rates),
        *_verdict_lines(workload, is_taken),
    ]


def _model_lines(config: DictConfig, planned: Planned) -> list[str]:
    shape, passes, num_trained = planned.workload.shape, planned.workload.passes, planned.workload.num_trained
    trained = "all trained" if num_trained == shape.num_parameters else f"{_count(num_trained)} trained"
    update = f"update {passes.forwards:g} forward and {passes.backwards:g} backward"
    update += f", {passes.epochs} epochs" * (passes.epochs > 1)
    without = "" if planned.workload.has_pairs else f"{passes.log_probs:g} forward without gradients; "
    model = _from_here(config.actor_rollout_ref.model.path)
    return [
        line("model", f"{model}: {_count(shape.num_parameters)} parameters, {trained}"),
        line("method", planned.method),
        line("a step", planned.step),
        line("passes", without + update),
        *planned.beside,
    ]


def _from_here(path: str) -> str:
    """A path below the working directory as one writes it there; any other, or a name on a hub, as it is."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _memory_lines(config: DictConfig, workload: Workload) -> list[str]:
    kept = config.trainer.max_actor_ckpt_to_keep
    of_pairs = f", and {memory.KEPT_TOKEN} bytes for each token of all pairs" * (workload.sampling is None)
    return [
        *_phase("updating", memory.updating(workload), workload),
        *_checkpointing(workload),
        *(_sampling_lines(workload, workload.sampling) if workload.sampling else []),
        line("driver", f"{memory.driver(workload) / GB:.1f} GB of main memory at the most{of_pairs}"),
        line(
            "disk",
            f"{memory.checkpoint(workload) / GB:,.1f} GB a checkpoint, {f'{kept} are' if kept else 'all are'} kept",
        ),
    ]


def _sampling_lines(workload: Workload, served: Sampling) -> list[str]:
    room, needed = memory.cached_rows(workload), served.num_rows * served.tensor_parallel / workload.cluster.num_gpus
    cache = max(memory.cache(workload), 0.0)
    return [
        *_phase("sampling", memory.sampling(workload), workload),
        line(
            "cache",
            f"{cache / GB:.1f} GB of a server's share on each GPU are for keys and values: {room} completions of full "
            f"length at once, of {needed:g} that each server has to write",
        ),
    ]


def _phase(name: str, parts: Mapping[str, float], workload: Workload) -> list[str]:
    total, has = sum(parts.values()), workload.cluster.gpu.memory
    several = f" ({workload.num_gradients} at once)" if workload.num_gradients > 1 else ""
    named = [f"{part}{several * (part == 'gradients')} {size / GB:.2f}" for part, size in parts.items()]
    return [
        line(
            name, f"{total / GB:.1f} GB of {has / GB:.0f} on each GPU" + (", WHICH IS TOO MUCH" if total > has else "")
        ),
        line("", ", ".join(named)),
    ]


def _checkpointing(workload: Workload) -> list[str]:
    other = replace(workload, checkpoints_activations=not workload.checkpoints_activations)
    how = "without" if workload.checkpoints_activations else "with"
    return [line("", f"{how} gradient checkpointing activations {memory.activations(other) / GB:.2f}")]


def _traffic_lines(workload: Workload) -> list[str]:
    between = f"; {traffic.node_bytes(workload) / GB:,.0f} GB into each node, and as many out"
    sent = f"a step sends {traffic.driver_bytes(workload) / GB:.3g} GB through the driver"
    told = [line("network", sent + between * (workload.cluster.num_nodes > 1))]
    if workload.has_pairs and workload.sampling:
        told.append(line("", f"the samples of a policy at most {traffic.sampled_bytes(workload) / GB:.3g} GB"))
    return told


def _time_lines(planned: Planned, rates: Rates) -> list[str]:
    workload = planned.workload
    if faults(workload):
        return []
    gpu, found = workload.cluster.gpu, seconds.step(workload, rates)
    assumed = f"at {rates.compute:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s"
    if workload.sampling:
        assumed += f", {rates.bandwidth:.0%} of {gpu.bandwidth / 1e12:.2f} TB/s while sampling"
    if workload.cluster.num_nodes > 1:
        node = gpu.network * workload.cluster.gpus_per_node
        assumed += f", {rates.network:.0%} of {node / GB:.0f} GB/s between nodes without overlap"
    parts = ", ".join(f"{name} {each:.3g}" for name, each in found.items() if each)
    return [line("time", f"{sum(found.values()):.3g} s a step: {parts}"), *planned.run(rates), line("", assumed)]


def _verdict_lines(workload: Workload, is_taken: Callable[[Mapping[str, str]], bool]) -> list[str]:
    wrong = faults(workload)
    if not wrong:
        return [line("verdict", "it fits")]
    ways = remedies(workload, is_taken)
    return [
        line("verdict", f"it does not fit: {'; '.join(wrong)}"),
        *(line("" if number else "write", way) for number, way in enumerate(ways)),
        *([] if ways else [line("write", "another model: no number of these GPUs that was tried is enough")]),
    ]


def _count(number: int) -> str:
    return f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"
