"""What a process of a run does first: see to it that Python looks for garbage rarely.

The engine's imports make millions of objects, of which none is garbage. Python looks through them again and again while
they are made, which is a fifth of the imports' time, and once more at the end. The driver imports this module, and on
the CPU every process that Ray starts does. Where tensors lie on an accelerator the workers stay as Python has them:
garbage there may hold its memory.
"""

from __future__ import annotations

import gc

gc.set_threshold(50_000, 20, 20)
