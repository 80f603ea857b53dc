"""The types that a model's tensors may be turned into; imports nothing, for the command line names them too."""

from enum import StrEnum


class Dtype(StrEnum):
    """As torch calls them."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
