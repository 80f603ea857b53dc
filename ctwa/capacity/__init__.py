"""What a run takes of GPUs, memory, network, disk and time: formulas of numbers alone, known before anything starts.

``shape`` counts a model's parts, ``hardware`` has what a GPU can do, ``workload`` says what a step is made of. From
these ``memory``, ``traffic`` and ``seconds`` tell what the step takes, and ``remedies`` what to change where it does
not fit. Bytes are bytes, GB are 1e9 of them, and rates are a second's.
"""
