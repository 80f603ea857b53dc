"""What keeps others out of a run's Ray: its address, its token, its folder, and when a run does not start."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from ray._private import ray_constants, services

from ctwa.engine import ray_security
from ctwa.engine.checks.config import check_config
from ctwa.engine.ray_security import asks_for_token, close_to_others
from ctwa.errors import CtwaError

AUTH = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR")


@pytest.fixture(autouse=True)
def fresh_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user who never started Ray; the folder that holds the home and the temporary files."""
    for name in AUTH:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    return tmp_path


def closed(*, trust_network: bool = False, **ray_init: Any) -> dict[str, Any]:
    close_to_others(ray_init, trust_network=trust_network)
    return ray_init


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class TestOwnCluster:
    def test_it_listens_on_loopback_here_and_in_its_processes(self) -> None:
        closed()

        assert services.get_node_ip_address() == "127.0.0.1"
        program = "from ray._private import services; print(services.get_node_ip_address())"
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert child.stdout.split() == ["127.0.0.1"]

    def test_it_is_one_of_its_own_whatever_a_file_in_tmp_says(self, fresh_user: Path) -> None:
        """Ray would join the cluster of whoever could write that file, and show it the token."""
        (fresh_user / "ray").mkdir()
        (fresh_user / "ray" / "ray_current_cluster").write_text("192.0.2.1:6379")

        assert services.canonicalize_bootstrap_address(None) == "192.0.2.1:6379"
        assert services.canonicalize_bootstrap_address(closed()["address"]) is None

    def test_its_token_is_for_its_user_alone(self, fresh_user: Path) -> None:
        closed()

        token = fresh_user / "home/.ray/auth_token"
        assert mode(token) == 0o600
        assert len(token.read_text()) == 64
        assert [path.name for path in token.parent.iterdir()] == ["auth_token"]

    def test_a_token_that_lay_open_stays_and_is_closed(self, fresh_user: Path) -> None:
        token = fresh_user / "home/.ray/auth_token"
        token.parent.mkdir()
        token.write_text("of a cluster that runs")
        token.chmod(0o644)

        closed()

        assert mode(token) == 0o600
        assert token.read_text() == "of a cluster that runs"

    @pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
    def test_a_token_of_the_users_own_is_left_alone(
        self, fresh_user: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, "/shared/token")

        closed()

        assert not (fresh_user / "home/.ray").exists()

    def test_its_logs_and_sockets_lie_where_nobody_else_may_enter(self, fresh_user: Path) -> None:
        folder = Path(closed()["_temp_dir"])

        assert folder.parent == fresh_user / f"ray-{os.getuid()}"
        assert mode(folder.parent) == 0o700

    def test_a_folder_of_the_users_own_is_left_alone(self) -> None:
        assert closed(_temp_dir="/scratch/ray")["_temp_dir"] == "/scratch/ray"

    @pytest.mark.parametrize("kind", ["link", "others"])
    def test_a_folder_that_somebody_else_made_is_refused(
        self, fresh_user: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        folder = fresh_user / f"ray-{os.getuid()}"
        if kind == "link":
            folder.symlink_to(fresh_user / "home")
        else:
            folder.mkdir(0o777)
            own = os.getuid()
            monkeypatch.setattr(ray_security.os, "getuid", iter([own, own + 1]).__next__)

        with pytest.raises(CtwaError, match=r"ray-\d+ belongs to somebody else.* RAY_TMPDIR"):
            closed()

    def test_a_home_that_cannot_be_written(self, fresh_user: Path) -> None:
        (fresh_user / "home/.ray").write_text("a file")

        with pytest.raises(CtwaError, match=r"cannot be kept from other users.* RAY_AUTH_TOKEN_PATH"):
            closed()

    def test_without_a_token_it_does_not_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")

        with pytest.raises(CtwaError, match=r"^RAY_AUTH_MODE=disabled: .* ctwa\.trust_network=true"):
            closed()
        assert closed(trust_network=True)["address"] == "local"


class TestOtherCluster:
    @pytest.mark.parametrize("given", ["key", "environment"])
    def test_it_is_joined_as_it_is(self, fresh_user: Path, monkeypatch: pytest.MonkeyPatch, given: str) -> None:
        monkeypatch.setattr(ray_security, "asks_for_token", lambda address: address == "192.0.2.1:6379")
        if given == "environment":
            monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")

        ray_init = closed(**({"address": "192.0.2.1:6379"} if given == "key" else {}))

        assert ray_init == {"address": "192.0.2.1:6379"}
        assert ray_constants.ENABLE_RAY_CLUSTER
        assert [path.name for path in fresh_user.iterdir()] == ["home"]

    def test_one_that_asks_for_no_token_is_not_joined(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ray_security, "asks_for_token", lambda _: False)

        with pytest.raises(CtwaError, match=r"192\.0\.2\.1:6379 asks for no token: .* ctwa\.trust_network=true"):
            closed(address="192.0.2.1:6379")
        assert closed(address="192.0.2.1:6379", trust_network=True) == {"address": "192.0.2.1:6379"}

    def test_one_that_cannot_be_asked_is_not_taken_for_closed(self) -> None:
        with pytest.raises(CtwaError, match=r"^the Ray at nonsense does not answer \(ValueError: .*nonsense\): give"):
            asks_for_token("nonsense")


@pytest.mark.parametrize("backend", ["MooncakeStore", "Yuanrong"])
def test_a_storage_with_connections_of_its_own_needs_trust(
    changed: Callable[[dict[str, Any]], DictConfig], backend: str
) -> None:
    key = "transfer_queue.backend.storage_backend"
    with pytest.raises(CtwaError, match=rf"^{key}='{backend}' .*: write SimpleStorage, or ctwa\.trust_network=true"):
        check_config(changed({key: backend}))
    check_config(changed({key: backend, "ctwa.trust_network": True}))
