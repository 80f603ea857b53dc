"""What verl must know in every process of a run, small enough to be imported in all of them.

verl imports the modules named in ``VERL_USE_EXTERNAL_MODULES`` while it is itself imported. This one registers the CPU
platform and closes the transfer queue's sockets. Whatever needs more of verl (the training engine, the rollouts) is
registered where it is used: ``ctwa.engine.verl.registry.install``.
"""

import os
import sys

import ctwa.engine.verl.queue_security  # noqa: F401 - closes the queue's sockets by being imported
from ctwa.engine.verl.cpu_platform import register_cpu_platform

register_cpu_platform()

if os.environ.get("VERL_PLATFORM") == "cpu":
    # verl's way to send weights between Ascend NPUs begins with an import of vLLM, which takes a second: not to be had.
    sys.modules.setdefault("verl.checkpoint_engine.hccl_checkpoint_engine", None)  # type: ignore[arg-type]
