"""Each thing the doctor knows of, in a machine where it is as it should be and in one where it is not."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from ctwa.doctor.environment import environment, proxies, shadows
from ctwa.doctor.findings import Finding, Needs, as_json, text
from ctwa.doctor.machine import GB, cores, disks, host_name, loopback, memory, open_files, ray_folder, shared_memory
from ctwa.doctor.software import against_driver, each_gpu, packages, python, trl

GPU = Needs(device="cuda", vllm=True, flash_attn=True)


def test_findings_are_told_with_what_they_mean_and_what_to_do() -> None:
    found = [Finding("cores", "ok", "2 cores"), Finding("GPU", "fail", "none", "a run needs one", "write engine=cpu")]

    assert text(found).splitlines() == [
        "ok    cores  2 cores",
        "fail  GPU    none",
        "             a run needs one",
        "             -> write engine=cpu",
        "",
        "a run would fail: 1 fail, 0 warn",
    ]
    assert as_json(found)["fails"] is True
    assert as_json(found[:1])["findings"] == [
        {"topic": "cores", "level": "ok", "found": "2 cores", "means": "", "do": ""}
    ]


@pytest.mark.parametrize(
    ("quota", "allowed", "level", "told"),
    [
        ("max 100000", 8, "ok", "8 cores"),
        ("400000 100000", 8, "warn", "8 cores, of which 4 may be used"),
        ("50000 100000", 8, "warn", "8 cores, of which 0.5 may be used"),
        ("max 100000", 1, "warn", "8 cores, of which 1 may be used"),
    ],
)
def test_cores_by_affinity_and_quota(tmp_path: Path, quota: str, allowed: int, level: str, told: str) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    found = cores(8, allowed, tmp_path)

    assert (found.level, found.found) == (level, told)


def test_memory_is_what_the_group_leaves(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(f"MemTotal: {64 * GB >> 10} kB\nMemAvailable: {48 * GB >> 10} kB\n")
    assert memory(GPU, tmp_path / "meminfo", tmp_path).level == "ok"

    (tmp_path / "memory.max").write_text(str(20 * GB))
    (tmp_path / "memory.current").write_text(str(10 * GB))
    assert memory(Needs(), tmp_path / "meminfo", tmp_path).found == "10 GB free"
    assert memory(GPU, tmp_path / "meminfo", tmp_path).level == "warn"


def test_a_place_for_runs_under_a_file_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    [runs, _] = disks(Needs(run=str(tmp_path / "file" / "run")))

    assert (runs.topic, runs.level) == ("disk of runs", "fail")


def test_the_disk_of_ray_is_that_of_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    [_, ray] = disks(Needs(run=str(tmp_path)))

    assert ray.found.startswith(f"{tmp_path}: ")


def test_shared_memory_that_is_not_there(tmp_path: Path) -> None:
    assert shared_memory(Needs(), tmp_path / "none").level == "warn"


@pytest.mark.parametrize(("hard", "level"), [(1024, "warn"), (65536, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_open_files_are_the_hard_limit(hard: int, level: str) -> None:
    assert open_files(1024, hard).level == level


def test_the_path_of_a_socket_has_an_end() -> None:
    assert ray_folder("/tmp").level == "ok"
    assert ray_folder("/scratch/" + "x" * 40).level == "fail"


def test_names_and_ports_of_this_machine() -> None:
    assert loopback().level == "ok"
    assert host_name("localhost").level == "ok"
    assert host_name("no such host").level == "fail"


@pytest.mark.parametrize(("version", "level"), [((3, 10, 4), "fail"), ((3, 12, 0), "ok"), ((3, 13, 0), "fail")])
def test_python(version: tuple[int, ...], level: str) -> None:
    assert python(version).level == level


def test_packages_against_their_bounds() -> None:
    declared = [
        *("pytest>=1,<999", "typer>=999", "no-such-package>=1"),
        *("ctwa[report]; extra == 'engine'", "pydantic==1.0; extra == 'report'"),
        *("rich>=1; extra == 'engine'", "numpy>=999; extra == 'dev'"),
    ]
    found = {each.topic: each for each in packages(engine=True, declared=declared)}

    assert {topic: each.level for topic, each in found.items()} == {
        "typer": "warn",
        "no-such-package": "fail",
        "pydantic": "fail",
    }
    assert found["typer"].do == "pip install 'typer>=999'"


@pytest.mark.parametrize("needed", [True, False])
def test_an_engine_that_is_not_installed(needed: bool) -> None:
    declared = ["rich>=1", *(f"no-such-{number}; extra == 'engine'" for number in range(3))]
    engine, rest = packages(engine=needed, declared=declared)

    assert (engine.topic, engine.level, rest.level) == ("engine", "fail" if needed else "warn", "ok")


def test_a_driver_takes_older_versions_and_its_own_major_one() -> None:
    assert against_driver("13.0", (12, 8), needed=True).level == "fail"
    assert against_driver("12.8", (12, 4), needed=True).level == "ok"
    assert against_driver("12.8", (13, 0), needed=True).level == "ok"


def test_each_gpu_by_its_age_and_what_is_used_of_it() -> None:
    table = "NVIDIA H100, 9.0, 81559, 0\nNVIDIA H100, 9.0, 81559, 40000\nTesla V100, 7.0, 32768, 0\n"

    assert [each.level for each in each_gpu(table)] == ["ok", "warn", "fail"]


class TestEnvironment:
    def levels(self, needs: Needs, here: Path, **variables: str) -> dict[str, str]:
        return {each.topic: each.level for each in environment(needs, variables, here)}

    def test_variables_that_change_a_run(self, tmp_path: Path) -> None:
        variables = {
            "RAY_ADDRESS": "10.0.0.1:6379",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        }

        assert self.levels(GPU, tmp_path, **variables) == {
            "RAY_ADDRESS": "warn",
            "CUDA_VISIBLE_DEVICES": "fail",
            "HF_HUB_OFFLINE": "ok",
            "PYTORCH_CUDA_ALLOC_CONF": "fail",
            "current directory": "ok",
        }
        assert self.levels(Needs(), tmp_path, **variables)["CUDA_VISIBLE_DEVICES"] == "ok"
        assert self.levels(GPU, tmp_path, HF_HUB_OFFLINE="0") == {"current directory": "ok"}

    @pytest.mark.parametrize(
        ("spared", "levels"), [("", ["fail"]), ("localhost,127.0.0.1", ["ok"]), ("localhost", ["fail"]), ("*", ["ok"])]
    )
    def test_a_proxy_is_not_for_this_machine(self, spared: str, levels: list[str]) -> None:
        assert [each.level for each in proxies({"http_proxy": "http://proxy", "no_proxy": spared})] == levels
        assert list(proxies({})) == []

    def test_names_of_packages_in_the_current_directory(self, tmp_path: Path) -> None:
        (tmp_path / "trl").mkdir()
        (tmp_path / "queue.py").write_text("")
        (tmp_path / "rewards.py").write_text("")
        (tmp_path / "torch.txt").write_text("")
        elsewhere, on_path = (shadows(tmp_path, path, {"torch": []}) for path in (["/usr/bin"], ["/usr/bin", ""]))

        assert (elsewhere.level, elsewhere.found) == ("warn", "queue.py, trl have names of a package")
        assert on_path.level == "fail"
        assert shadows(tmp_path, [str(tmp_path)], {}).level == "fail"

    def test_a_folder_that_is_no_package_takes_no_name_of_one_that_is_installed(self, tmp_path: Path) -> None:
        (tmp_path / "scripts").mkdir()
        (tmp_path / "trl").mkdir()
        installed = {"scripts": [], "trl": []}

        assert shadows(tmp_path, [""], installed).level == "ok"

        (tmp_path / "scripts" / "__init__.py").write_text("")
        assert shadows(tmp_path, [""], installed).found == "scripts has the name of a package"


def test_a_trl_that_verl_would_take_for_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("from .trainer import GRPOTrainer")
    found = trl(tmp_path)
    assert found is not None
    assert (found.level, found.topic) == ("fail", "TRL")

    (tmp_path / "experimental" / "ppo").mkdir(parents=True)
    (tmp_path / "experimental" / "ppo" / "__init__.py").write_text('__all__ = ["AutoModelForCausalLMWithValueHead"]')
    assert trl(tmp_path) is None
