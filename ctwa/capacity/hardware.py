"""GPUs: what their makers say of them, and how to write so many of one kind."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ctwa.errors import CtwaError, did_you_mean

NODE = 8
"""GPUs of a node, where more are asked for and nothing is said of nodes."""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU, by its maker's data sheet.

    Attributes:
        name: as it is written.
        memory: bytes. A card sold with 80 GB shows its programs some 85e9 bytes; CUDA, NCCL and what lies between
            tensors take the difference.
        flops: bf16 operations of dense matrix products.
        bandwidth: bytes of its memory.
        network: bytes that it sends out of its node, and as many in: a card of 400 Gb/s beside each GPU of a server
            made for training (200 Gb/s beside an A100), one of 100 Gb/s for four of the others.
    """

    name: str
    memory: float
    flops: float
    bandwidth: float
    network: float


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("B200", 180e9, 2250e12, 8.0e12, 50e9),
        Gpu("H200", 141e9, 989e12, 4.8e12, 50e9),
        Gpu("H100", 80e9, 989e12, 3.35e12, 50e9),
        Gpu("A100", 80e9, 312e12, 2.039e12, 25e9),
        Gpu("A100-40", 40e9, 312e12, 1.555e12, 25e9),
        Gpu("L40S", 48e9, 362e12, 0.864e12, 3.1e9),
        Gpu("A6000", 48e9, 155e12, 0.768e12, 3.1e9),
        Gpu("A10", 24e9, 125e12, 0.6e12, 3.1e9),
        Gpu("L4", 24e9, 121e12, 0.3e12, 3.1e9),
        Gpu("RTX4090", 24e9, 165e12, 1.008e12, 3.1e9),
    )
}
"""By name."""


@dataclass(frozen=True)
class Cluster:
    """So many nodes of so many GPUs of one kind."""

    gpu: Gpu
    num_nodes: int
    gpus_per_node: int

    @property
    def num_gpus(self) -> int:
        """Of all nodes: the ranks."""
        return self.num_nodes * self.gpus_per_node

    def __str__(self) -> str:
        """As it is written."""
        nodes = f"{self.num_nodes}x" if self.num_nodes > 1 else ""
        return f"{nodes}{self.gpus_per_node}x{self.gpu.name}"


def read_cluster(text: str) -> Cluster:
    """``8xH100``: so many of a kind, in nodes of at most 8; ``4x2xA100``: four nodes of two.

    Raises:
        CtwaError: it is not written so, or nothing is known of the kind.
    """
    found = re.fullmatch(r"(?:(\d+)x)?(\d+)x(?!\d+x)(\w[\w-]*)", text)
    if found is None or "0" in (found[1], found[2]):
        raise CtwaError(f"--gpus {text}: write [NODESx]NUMBERxTYPE, e.g. 8xH100 or 4x8xH100")
    known = {name.lower(): gpu for name, gpu in GPUS.items()}
    gpu = known.get(found[3].lower())
    if gpu is None:
        raise CtwaError(
            f"--gpus {text}: nothing is known of a {found[3]}; write one of {', '.join(GPUS)}"
            + did_you_mean(found[3], GPUS)
        )
    num = int(found[2])
    if found[1]:
        return Cluster(gpu, int(found[1]), num)
    if num > NODE and num % NODE:
        raise CtwaError(f"--gpus {text}: more than {NODE} are nodes of {NODE}: write a multiple, or NODESx{num}x...")
    return Cluster(gpu, max(num // NODE, 1), min(num, NODE))
