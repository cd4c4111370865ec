"""The operator's price list: read at the start, again when it changes, and never lost to a bad edit."""

import logging
import os
from pathlib import Path

import pytest

from rephrase_api.errors import ExitCode, InvalidSpec, Problems
from rephrase_api.prices import PriceList
from rephrase_operator.__main__ import main
from rephrase_operator.handlers import Handlers
from rephrase_operator.price_file import PriceFile
from rephrase_operator.settings import Settings
from support.looks import a_run

RUN = a_run(workers={"pools": [{"name": "p", "gpu": {"name": "H100"}}]})


def a_list(price: str) -> str:
    return f"currency: USD\ndate: 2026-11-01\npricePerGPUHour:\n  H100/OnDemand: {price}\n"


class Mount:
    """A ConfigMap as a kubelet mounts it: a link to a folder, which it replaces by another."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder = folder
        self.path = folder / "prices.yaml"
        self._version = 0
        self.path.symlink_to(Path("..data") / "prices.yaml")
        self.update(text)

    def update(self, text: str | None) -> None:
        """Another content of the ConfigMap; None = it has no such key any more."""
        self._version += 1
        data = self.folder / f"..{self._version}"
        data.mkdir()
        if text is not None:
            (data / "prices.yaml").write_text(text)
        link = self.folder / "..data_tmp"
        link.symlink_to(data.name)
        link.rename(self.folder / "..data")


def price(found: PriceList | None) -> str:
    assert found is not None
    return str(*found.prices.values())


def test_without_a_list_there_is_none() -> None:
    assert PriceFile("").current() is None


def test_a_changed_list_is_read_without_a_restart(tmp_path: Path) -> None:
    mount = Mount(tmp_path, a_list("1"))
    file = PriceFile(str(mount.path))

    first = price(file.current())
    mount.update(a_list("2"))

    assert (first, price(file.current())) == ("1", "2")


@pytest.mark.parametrize("bad", [a_list("cheap"), "", None], ids=["wrong", "empty", "gone"])
def test_a_bad_list_leaves_the_last_good_one_is_told_once_and_is_forgotten(
    tmp_path: Path, bad: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    mount = Mount(tmp_path, a_list("1"))
    file = PriceFile(str(mount.path))

    mount.update(bad)
    during = [price(file.current()) for _ in range(3)]
    refused = file.refused
    told = [record for record in caplog.records if record.levelno == logging.ERROR]
    mount.update(a_list("3"))

    assert during == ["1", "1", "1"]
    assert refused
    assert len(told) == 1
    assert price(file.current()) == "3"
    assert not file.refused


def test_a_file_that_nobody_touched_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(a_list("1"))
    file = PriceFile(str(path))
    before = path.stat()

    with path.open("r+") as same:
        same.write(a_list("2"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert price(file.current()) == "1", "its inode, time and size are the same"


def test_runs_are_priced_by_the_list_and_the_metric_tells_of_a_bad_one(tmp_path: Path) -> None:
    mount = Mount(tmp_path, a_list("1"))
    handlers = Handlers(Settings(prices=str(mount.path)))

    def metric() -> float | None:
        name = "rephrase_operator_price_list_refused"
        return handlers.metrics.registry.get_sample_value(name)

    first, good = handlers.prices_of(RUN), metric()
    mount.update(a_list("cheap"))
    second, bad = handlers.prices_of(RUN), metric()

    assert {name: str(price) for name, price in first.known.items()} == {"p": "1"}
    assert second == first
    assert (good, bad) == (0, 1)


def test_a_bad_list_at_the_start_ends_the_operator_with_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(a_list("cheap"))
    for name, value in {"RUNNER_IMAGE": "r", "DRIVER_IMAGE": "d", "PRICES": str(path)}.items():
        monkeypatch.setenv(f"REPHRASE_OPERATOR_{name}", value)

    code = main()

    assert code == ExitCode.INVALID
    assert f"{path}: 1 problem\n  line 4: H100/OnDemand: must be an amount" in (
        capsys.readouterr().err
    )


def test_a_list_that_is_not_there_at_the_start_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="REPHRASE_OPERATOR_PRICES"):
        PriceFile(str(tmp_path / "prices.yaml"))
    (tmp_path / "prices.yaml").write_text("currency: [")
    with pytest.raises(Problems, match="line 1"):
        PriceFile(str(tmp_path / "prices.yaml"))
