"""verl's FSDP engine on the CPU: what differs of it. That it trains is tests/e2e's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ctwa.engine.verl.registry import register_engines


def test_it_is_the_engine_of_cpus() -> None:
    from verl.workers.engine import EngineRegistry

    from ctwa.engine.verl.cpu_engine import CpuEngine

    register_engines()

    for backend in ("fsdp", "fsdp2"):
        assert EngineRegistry._engines["language_model"][backend]["cpu"] is CpuEngine
        assert EngineRegistry._engines["language_model"][backend]["cuda"] is CpuEngine.__base__


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("forward_only", [False, True])
def test_a_reference_policy_is_sharded_as_the_policy_is_and_stays_one(
    monkeypatch: pytest.MonkeyPatch, forward_only: bool, fails: bool
) -> None:
    """verl would shard a model that is forward only into pinned memory, which torch refuses on a CPU."""
    from ctwa.engine.verl.cpu_engine import CpuEngine

    seen = []

    def build(engine: CpuEngine, module: str) -> str:
        seen.append(engine.engine_config.forward_only)
        if fails:
            raise RuntimeError("out of memory")
        return f"sharded {module}"

    monkeypatch.setattr(CpuEngine.__base__, "_build_fsdp_module", build)
    engine = object.__new__(CpuEngine)
    engine.engine_config = SimpleNamespace(forward_only=forward_only)

    if fails:
        with pytest.raises(RuntimeError, match="out of memory"):
            engine._build_fsdp_module("model")
    else:
        assert engine._build_fsdp_module("model") == "sharded model"
    assert seen == [False]
    assert engine.engine_config.forward_only == forward_only
