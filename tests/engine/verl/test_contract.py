"""What is asked of verl is what the installed verl has: run with -s for the list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.engine.verl.contract import CONTRACT, signature_of

ENGINE = Path(__file__).parents[3] / "ctwa" / "engine"


def overrides_of(ours: type) -> set[str]:
    """The attributes of verl's classes that a class of ours replaces."""
    bases = [base for base in ours.__mro__[1:] if base.__module__.startswith("verl.")]
    own = {name for name in vars(ours) if not name.startswith(("__", "_abc_")) or name == "__init__"}
    return {name for name in own for base in bases if name in vars(base)}


def test_the_installed_verl_keeps_the_contract() -> None:
    changed = []
    for clause in CONTRACT:
        print(f"{clause.use:<11} {clause.where} {clause.signature}")
        try:
            found = signature_of(clause.where)
        except (ImportError, AttributeError) as error:
            found = f"is not there: {error}"
        if found != clause.signature:
            changed.append(f"{clause.use} {clause.where}: {clause.signature} is now {found}")
    assert changed == []


def test_the_contract_names_everything_that_is_overridden() -> None:
    from ctwa.engine.verl.agent_loop import SeededSingleTurnAgentLoop, SeededToolAgentLoop
    from ctwa.engine.verl.cpu_engine import CpuEngine
    from ctwa.engine.verl.multi_objective_engine import MultiObjectiveEngine
    from ctwa.engine.verl.resharding import AnyRanks
    from ctwa.engine.verl.rollout.transformers_rollout import TransformersReplica, WeightSender
    from ctwa.engine.verl.session import Session
    from ctwa.engine.verl.workers import MultiObjectiveWorker, PolicyWorker

    named = {clause.where.rsplit(".", 1)[1] for clause in CONTRACT if clause.use in ("overridden", "read")}
    ours = (Session, MultiObjectiveEngine, CpuEngine, PolicyWorker, MultiObjectiveWorker, AnyRanks)
    rollouts = (SeededSingleTurnAgentLoop, SeededToolAgentLoop, TransformersReplica, WeightSender)
    found = {name for each in (*ours, *rollouts) for name in overrides_of(each)}
    assert found - named == set()
    private = {name for each in ours for name in overrides_of(each) if name.startswith("_") and name != "__init__"}
    assert len(private) <= 7


def test_the_contract_names_every_private_name_of_another_package() -> None:
    """A name with an underscore that ctwa uses and defines nowhere is somebody else's."""
    texts = [path.read_text() for path in ENGINE.rglob("*.py")]
    used = {name for text in texts for name in re.findall(r"\.(_[a-z]\w+)", text)}
    own = {
        name for text in texts for name in re.findall(r"(?:def |self\.|^ *)(_[a-z]\w+)[\[(:,=) ]", text, re.MULTILINE)
    }
    named = {re.split(r"[.:]", clause.where)[-1] for clause in CONTRACT}
    # Of Ray, OmegaConf, configurations of transformers, os and tuples; and in the names that pickles of torch and numpy
    # have.
    not_verls = {"_private", "_raylet", "_ray_params", "_get_unused_port", "_get_full_key"}
    not_verls |= {"_commit_hash", "_attn_implementation", "_exit", "_replace", "_core", "_dtensor_spec", "_reconstruct"}
    assert used - own - named - not_verls == set()


@pytest.mark.parametrize("name", ["deprecated", "ray_trainer"])
def test_nothing_of_verls_old_trainer_is_used(name: str) -> None:
    assert [path.name for path in ENGINE.rglob("*.py") if f"verl.trainer.ppo.{name}" in path.read_text()] == []
