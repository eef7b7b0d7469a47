"""Quotas of control groups, which bound the number of threads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastsoftmax import _threads


def write_v2(root: Path, quota: str, period: int = 100_000) -> None:
    """Write the quota file of a group of version 2."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "cpu.max").write_text(f"{quota} {period}\n")


def write_v1(root: Path, quota: int, period: int = 100_000) -> None:
    """Write the quota files of a group of version 1."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (root / "cpu.cfs_period_us").write_text(f"{period}\n")


@pytest.mark.parametrize(
    ("own", "parent", "quota"),
    [
        ("max", "max", np.inf),
        ("150000", "max", 1.5),
        ("max", "250000", 2.5),
        ("300000", "200000", 2.0),
        ("50000", "200000", 0.5),
    ],
)
def test_quota_of_version_2(
    tmp_path: Path, own: str, parent: str, quota: float
) -> None:
    write_v2(tmp_path / "service" / "web", own)
    write_v2(tmp_path / "service", parent)
    assert _threads.quota_below(tmp_path, "0::/service/web\n") == quota


@pytest.mark.parametrize(
    ("own", "parent", "quota"),
    [(-1, -1, np.inf), (150_000, -1, 1.5), (-1, 250_000, 2.5), (300_000, 200_000, 2)],
)
@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct"])
def test_quota_of_version_1(
    tmp_path: Path, own: int, parent: int, quota: float, controllers: str
) -> None:
    write_v1(tmp_path / "cpu" / "docker" / "web", own)
    write_v1(tmp_path / "cpu" / "docker", parent)
    cgroups = f"5:memory:/docker/web\n4:{controllers}:/docker/web\n1:name=systemd:/\n"
    assert _threads.quota_below(tmp_path, cgroups) == quota


def test_quota_in_a_container_that_sees_its_own_group_as_root(tmp_path: Path) -> None:
    write_v1(tmp_path / "cpu", 150_000)
    assert _threads.quota_below(tmp_path, "4:cpu,cpuacct:/docker/0123abcd\n") == 1.5
    write_v2(tmp_path, "120000")
    assert _threads.quota_below(tmp_path, "0::/\n") == 1.2
    assert _threads.quota_below(tmp_path, "0::/../outside\n") == 1.2


def test_quota_of_other_controllers_and_groups_does_not_count(tmp_path: Path) -> None:
    write_v1(tmp_path / "cpuset" / "web", 100_000)
    write_v1(tmp_path / "cpu" / "other", 100_000)
    write_v2(tmp_path / "other", "100000")
    cgroups = "7:cpuset:/web\n4:cpu,cpuacct:/web\n0::/web\n"
    assert _threads.quota_below(tmp_path, cgroups) == np.inf


def test_quota_files_that_make_no_sense_are_passed_over(tmp_path: Path) -> None:
    write_v2(tmp_path / "a", "nonsense")
    write_v2(tmp_path / "a" / "b", "100000", period=0)
    write_v1(tmp_path / "cpu" / "a", 100_000, period=0)
    assert _threads.quota_below(tmp_path, "4:cpu:/a\n0::/a/b\n") == np.inf
    assert _threads.quota_below(tmp_path, "") == np.inf


def test_default_heeds_the_quota_of_this_machine() -> None:
    if not Path("/proc/self/cgroup").exists():
        pytest.skip("no control groups here")
    quota = _threads.quota_below(
        Path("/sys/fs/cgroup"), Path("/proc/self/cgroup").read_text()
    )
    assert _threads.count(1024) <= max(1, quota)
