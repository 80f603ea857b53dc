"""What verl must know in every process of a run, small enough to be imported in all of them.

verl imports the modules named in ``VERL_USE_EXTERNAL_MODULES`` while it is itself imported. This one registers the CPU
platform and closes the transfer queue's sockets. Whatever needs more of verl (the training engine, the rollouts) is
registered by the module that uses it: ``ctwa.engine.verl.workers``.
"""

import ctwa.engine.verl.queue_security  # noqa: F401 - closes the queue's sockets by being imported
from ctwa.engine.verl.cpu_platform import register_cpu_platform

register_cpu_platform()
