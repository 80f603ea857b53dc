"""Which model a run, a checkpoint or a folder stands for."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ctwa.errors import CtwaError
from ctwa.evaluation.models import Model
from ctwa.models.locate import locate


class TestModels:
    def test_a_run_stands_for_its_newest_complete_checkpoint(self, places: SimpleNamespace) -> None:
        assert locate(str(places.run)) == places.trained
        assert locate(str(places.run / "checkpoints" / "global_step_2")) == places.trained
        assert locate(str(places.testbed)) == places.base
        assert locate("owner/name") == "owner/name"

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (lambda places, _: places.run / "checkpoints" / "global_step_4", "is not complete"),
            (lambda _, root: (root / "checkpoints").mkdir() or root, "has no complete checkpoint: it ended before"),
            (lambda _, root: root, "holds no model"),
            (lambda _, root: (root / "config.json").write_text("{}") and root, "has no weights"),
        ],
    )
    def test_a_folder_without_a_whole_model(self, make: Any, said: str, places, tmp_path: Path) -> None:
        with pytest.raises(CtwaError, match=said):
            locate(str(make(places, tmp_path)))

    def test_one_that_cannot_be_loaded_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "no_such_type"}')
        (tmp_path / "model.safetensors").write_bytes(b"")

        with pytest.raises(CtwaError, match=r"the config of model 'mine' .* cannot be loaded"):
            _ = Model("mine", str(tmp_path)).config
