"""`ctwa plan`: what a run of `ctwa train` takes of GPUs that need not be there, and what to change where it is much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from ctwa.capacity import memory, seconds, traffic
from ctwa.capacity.hardware import Cluster, read_cluster
from ctwa.capacity.remedies import faults, remedies
from ctwa.capacity.seconds import Rates
from ctwa.capacity.shape import read_shape
from ctwa.capacity.workload import Workload
from ctwa.engine.checks.batches import check_batches, check_groups_of_ranks, check_token_budgets
from ctwa.engine.checks.look import model_source
from ctwa.engine.compose import compose_config
from ctwa.engine.plan import GB, line
from ctwa.engine.settings import Settings, read_settings
from ctwa.engine.workload import workload_of
from ctwa.errors import CtwaError, neighbour

ANY_RUN = ("ctwa.run=runs", "ctwa.task_dir=.", "data.train_files=-", "data.val_files=-")
"""What a configuration needs and a plan does not go by: no file of these is looked at."""


def make_plan(
    arguments: Sequence[str], gpus: str, *, mean_response: float | None = None, rates: Rates
) -> tuple[str, bool]:
    """The plan of a run, and whether it fits.

    Args:
        arguments: of `ctwa train`; without an engine among them `engine=gpu`.
        gpus: as :func:`read_cluster` reads them.
        mean_response: tokens of a response, as expected; by default as many as there may be.
        rates: what the hardware is taken to reach.

    Raises:
        CtwaError: a mistake in the arguments, or a model without a config.json here.
    """
    cluster = read_cluster(gpus)
    engine = () if any(each.startswith("engine=") for each in arguments) else ("engine=gpu",)
    ranks = (f"trainer.nnodes={cluster.num_nodes}", f"trainer.n_gpus_per_node={cluster.gpus_per_node}")
    config = compose_config([*engine, *ANY_RUN, *arguments, *ranks])
    if config.trainer.device != "cuda" or config.actor_rollout_ref.rollout.name != "vllm":
        raise CtwaError("a plan is of a run on GPUs whose server is vLLM: write engine=gpu, or no engine, which is gpu")
    workload = _workload(config, cluster, mean_response)
    return "\n".join(plan_lines(config, workload, rates)), not faults(workload)


def _workload(config: DictConfig, cluster: Cluster, mean_response: float | None) -> Workload:
    settings: Settings = read_settings(config)
    data, source = config.data, model_source(config)
    check_batches(config)
    check_groups_of_ranks(config)
    longest = data.max_prompt_length + data.max_response_length
    check_token_budgets(config, longest, "data.max_prompt_length + data.max_response_length")
    if mean_response is not None and not 0 < mean_response <= data.max_response_length:
        raise CtwaError(
            f"--response {mean_response:g}: write a number of tokens up to data.max_response_length="
            f"{data.max_response_length}"
        )
    folder = source.folder(ask=False)
    if folder is None or not (folder / "config.json").is_file():
        where = "is neither a folder nor among the downloads" if folder is None else "has no config.json"
        near = "" if folder else neighbour(Path(source.name))
        raise source.error(
            f"{where}; give the folder of a model, or fetch its config.json alone (hf download NAME config.json){near}"
        )
    shape = read_shape(folder, trust_remote_code=source.trust_remote_code)
    return workload_of(config, settings, shape, cluster, mean_response=mean_response)


def plan_lines(config: DictConfig, workload: Workload, rates: Rates) -> list[str]:
    """The plan, a line each."""
    return [
        f"plan of `ctwa train` on {workload.cluster}:",
        *_model_lines(config, workload),
        *_memory_lines(workload),
        *_traffic_lines(workload),
        *_time_lines(workload, rates),
        *_verdict_lines(workload),
    ]


def _model_lines(config: DictConfig, workload: Workload) -> list[str]:
    shape, passes = workload.shape, workload.passes
    trained = (
        "all trained" if workload.num_trained == shape.num_parameters else f"{_count(workload.num_trained)} trained"
    )
    rows = f"{workload.prompts} prompts x {workload.completions} completions"
    return [
        line("model", f"{config.actor_rollout_ref.model.path}: {_count(shape.num_parameters)} parameters, {trained}"),
        line("method", config.ctwa.method.type),
        line(
            "a step",
            f"{rows} = {workload.num_rows}, of {workload.prompt_tokens} + {workload.mean_response_tokens:g} tokens "
            f"(at most {workload.prompt_tokens} + {workload.response_tokens})",
        ),
        line(
            "passes",
            f"{passes.log_probs:g} forward without gradients; update {passes.forwards:g} forward and "
            f"{passes.backwards:g} backward" + f", {passes.epochs} epochs" * (passes.epochs > 1),
        ),
    ]


def _memory_lines(workload: Workload) -> list[str]:
    room, needed = (
        memory.cached_rows(workload),
        workload.num_rows * workload.tensor_parallel / workload.cluster.num_gpus,
    )
    cache = max(memory.cache(workload), 0.0)
    return [
        *_phase("updating", memory.updating(workload), workload),
        *_checkpointing(workload),
        *_phase("sampling", memory.sampling(workload), workload),
        line(
            "cache",
            f"{cache / GB:.1f} GB of a server's share on each GPU are for keys and values: {room} completions of full "
            f"length at once, of {needed:g} that each server has to write",
        ),
        line("driver", f"{memory.driver(workload) / GB:.1f} GB of main memory at the most"),
        line("disk", f"{memory.checkpoint(workload) / GB:,.1f} GB a checkpoint"),
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
    sent = traffic.of_step(workload)
    between = f"; {sent.node / GB:,.0f} GB into each node, and as many out" if workload.cluster.num_nodes > 1 else ""
    return [line("network", f"a step sends {sent.driver / GB:.3g} GB through the driver{between}")]


def _time_lines(workload: Workload, rates: Rates) -> list[str]:
    if faults(workload):
        return []
    gpu, found = workload.cluster.gpu, seconds.step(workload, rates)
    assumed = f"at {rates.compute:.0%} of {gpu.flops / 1e12:.0f} TFLOP/s"
    assumed += f", {rates.bandwidth:.0%} of {gpu.bandwidth / 1e12:.2f} TB/s while sampling"
    if workload.cluster.num_nodes > 1:
        node = gpu.network * workload.cluster.gpus_per_node
        assumed += f", {rates.network:.0%} of {node / GB:.0f} GB/s between nodes without overlap"
    parts = ", ".join(f"{name} {each:.3g}" for name, each in found.items() if each)
    return [line("time", f"{sum(found.values()):.3g} s a step: {parts}"), line("", assumed)]


def _verdict_lines(workload: Workload) -> list[str]:
    wrong = faults(workload)
    if not wrong:
        return [line("verdict", "it fits")]
    ways = [" ".join(remedy.setting for remedy in way) for way in remedies(workload)]
    return [
        line("verdict", f"it does not fit: {'; '.join(wrong)}"),
        *(line("" if number else "write", way) for number, way in enumerate(ways)),
        *([] if ways else [line("write", "another model: no number of these GPUs that was tried is enough")]),
    ]


def _count(number: int) -> str:
    return f"{number / 1e9:.3g} B" if number >= 1e9 else f"{number / 1e6:.3g} M"
