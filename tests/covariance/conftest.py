import json
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def goldens() -> dict:
    return json.loads((Path(__file__).parents[1] / "goldens" / "methods.json").read_text())
