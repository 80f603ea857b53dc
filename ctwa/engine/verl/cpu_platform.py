"""The CPU as a platform of verl: ranks are logical slots, tensors stay in main memory, collectives run on gloo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform.platform_base import PlatformBase
from verl.plugin.platform.platform_manager import PlatformRegistry

PLATFORM_NAME = "cpu"


class _Stream:
    """A CPU has one queue of work: everything has been done when it is asked for."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, _: Any) -> None: ...

    def wait_event(self, _: Any) -> None: ...

    def synchronize(self) -> None: ...

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: Any) -> None: ...


class _Event:
    def __init__(self, *_: Any, **__: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def wait(self, *_: Any) -> None: ...

    def synchronize(self) -> None: ...

    def query(self) -> bool:
        return True


def _nothing(*_: Any, **__: Any) -> None:
    """Device bookkeeping (caches, allocators, synchronisation) that main memory does not have."""


def _zero(*_: Any, **__: Any) -> int:
    return 0


def _build_device_module() -> ModuleType:
    """What verl asks of ``torch.cuda``, answered for main memory (``torch.cpu`` lacks most of it)."""
    module = ModuleType("ctwa_cpu_device")
    for name in ("synchronize", "empty_cache", "ipc_collect", "set_device", "reset_peak_memory_stats"):
        setattr(module, name, _nothing)
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
        setattr(module, name, _zero)
    module.__dict__.update(
        Stream=_Stream,
        Event=_Event,
        stream=lambda _: nullcontext(),
        current_stream=lambda *_: _Stream(),
        current_device=lambda: torch.device("cpu"),
        device_count=lambda: 1,
        is_available=lambda: True,
        is_initialized=lambda: True,
        get_device_name=lambda *_: "cpu",
        get_rng_state=lambda *_: torch.get_rng_state(),
        set_rng_state=lambda state, *_: torch.set_rng_state(state),
        manual_seed=torch.manual_seed,
        manual_seed_all=torch.manual_seed,
        mem_get_info=lambda *_: _memory(),
        set_per_process_memory_fraction=_nothing,
    )
    return module


def _memory() -> tuple[int, int]:
    import psutil  # verl's own dependency

    memory = psutil.virtual_memory()
    return memory.available, memory.total


class CpuPlatform(PlatformBase):
    """verl on CPUs. Ranks are counted as Ray's ``GPU`` resource, which ``ray.init(num_gpus=...)`` grants logically."""

    device_name = PLATFORM_NAME
    vendor_name = "generic"
    device_module = _build_device_module()

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        # Never chosen by detection: a GPU node whose driver is broken must say so, not train on its CPU.
        return False

    def current_device(self) -> torch.device:
        # An index would be read by torch as an accelerator's.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def register_cpu_platform() -> None:
    """Make ``VERL_PLATFORM=cpu`` mean :class:`CpuPlatform` in this process."""
    if PlatformRegistry.get(PLATFORM_NAME) is not CpuPlatform:
        PlatformRegistry.register(platform=PLATFORM_NAME)(CpuPlatform)
