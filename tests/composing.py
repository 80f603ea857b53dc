"""Configurations are composed faster. A folder of tests that compose many imports the fixture into its conftest.py."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from omegaconf.grammar_parser import parse

import ctwa.config

_PARSED: dict[str, Any] = {}
_parse_once = cache(parse)


@pytest.fixture(autouse=True, scope="session")
def files_parsed_once() -> Iterator[None]:
    """To compose a configuration Hydra parses some forty files of verl's and ours, which do not change.

    The interpolations in them are parsed once, too.
    """
    load = OmegaConf.load

    def load_once(file: Any) -> Any:
        name = str(getattr(file, "name", file))
        if "site-packages" not in name and str(Path(ctwa.config.__file__).parent) not in name:
            return load(file)
        if name not in _PARSED:
            _PARSED[name] = load(file)
        return copy.deepcopy(_PARSED[name])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OmegaConf, "load", load_once)
        for module in ("omegaconf.base", "omegaconf._utils"):
            patch.setattr(f"{module}.parse", _parse_once)
        yield
