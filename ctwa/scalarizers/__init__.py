"""Methods that turn M rewards a completion into the advantages of one policy update."""

from ctwa.batch import ClipRange, Rollout, Update
from ctwa.scalarizers.base import Estimate, Requirements, Scalarizer
from ctwa.scalarizers.ctwa import CTWA, CtwaConfig
from ctwa.scalarizers.gdpo import Gdpo, GdpoConfig
from ctwa.scalarizers.hypervolume import Hypervolume, HypervolumeConfig
from ctwa.scalarizers.lagrangian import Lagrangian, LagrangianConfig
from ctwa.scalarizers.linear import Linear, LinearConfig
from ctwa.scalarizers.pama import Pama, PamaConfig
from ctwa.scalarizers.probe import Probe, ProbeConfig
from ctwa.scalarizers.registry import METHODS, MethodConfig, build_scalarizer
from ctwa.scalarizers.schedule import Schedule, ScheduleConfig, SchedulePoint
from ctwa.scalarizers.tchebycheff import Tchebycheff, TchebycheffConfig

__all__ = [
    "CTWA",
    "METHODS",
    "ClipRange",
    "CtwaConfig",
    "Estimate",
    "Gdpo",
    "GdpoConfig",
    "Hypervolume",
    "HypervolumeConfig",
    "Lagrangian",
    "LagrangianConfig",
    "Linear",
    "LinearConfig",
    "MethodConfig",
    "Pama",
    "PamaConfig",
    "Probe",
    "ProbeConfig",
    "Requirements",
    "Rollout",
    "Scalarizer",
    "Schedule",
    "ScheduleConfig",
    "SchedulePoint",
    "Tchebycheff",
    "TchebycheffConfig",
    "Update",
    "build_scalarizer",
]
