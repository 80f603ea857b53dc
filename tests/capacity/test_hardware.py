"""How GPUs are written."""

from __future__ import annotations

import pytest

from ctwa.capacity.hardware import GPUS, Cluster, read_cluster
from ctwa.errors import CtwaError


class TestClusters:
    def test_many_are_nodes_of_eight(self) -> None:
        assert read_cluster("8xH100") == Cluster(GPUS["H100"], 1, 8)
        assert str(read_cluster("64xh200")) == "8x8xH200"
        assert read_cluster("4x2xA100-40") == Cluster(GPUS["A100-40"], 4, 2)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("H100", "write "),
            ("8xH1000", "did you mean .H100"),
            ("12xH100", "multiple"),
            ("0xL4", "write"),
            ("8x8x8xH100", "write"),
        ],
    )
    def test_what_is_none_is_refused(self, text: str, said: str) -> None:
        with pytest.raises(CtwaError, match=said):
            read_cluster(text)
