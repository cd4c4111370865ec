"""What is in the images, and what a base with vLLM may not lose by ours."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from support.containers.images import TORCH, Builder, NotMade

pytestmark = pytest.mark.full

REGISTRY = "localhost/rephrase"
TAG = version("rephrase")
ALL = ("operator", "driver", "runner")
ML = {"numpy", "obstore", "pyarrow", "torch", "transformers", "vllm"}
BUILD_TOOLS = {
    "apt-ftparchive",
    "c++",
    "cc",
    "gcc",
    "go",
    "ld",
    "make",
    "pip",
    "pip3",
    "rustc",
    "uv",
    "uvx",
}
LIMIT_BYTES = 250_000_000


@pytest.fixture(scope="module")
def images(builder: Builder) -> dict[str, str]:
    builder.make("images", registry=REGISTRY, images=" ".join(ALL))
    return {name: f"{REGISTRY}/{name}:{TAG}" for name in ALL}


def packages(root: Path) -> set[str]:
    return {path.name.split("-")[0].lower() for path in root.rglob("*.dist-info")}


def programs(root: Path) -> set[str]:
    folders = ("bin", "sbin", "usr/bin", "usr/local/bin", "opt/rephrase/bin")
    return {path.name for folder in folders for path in (root / folder).glob("*")}


def regular_files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def test_the_operator_s_image_is_small_and_holds_no_ml(
    builder: Builder, images: dict[str, str]
) -> None:
    with builder.mounted(images["operator"]) as root:
        size = sum(path.stat().st_size for path in regular_files(root))

        assert size < LIMIT_BYTES
        assert packages(root) & ML == set()
        assert "kopf" in packages(root)


def test_a_driver_s_image_has_no_engine_and_no_kubernetes(
    builder: Builder, images: dict[str, str]
) -> None:
    with builder.mounted(images["driver"]) as root:
        assert {"pyarrow", "obstore"} <= packages(root)
        assert packages(root) & {"torch", "vllm", "transformers", "kubernetes", "kopf"} == set()


@pytest.mark.parametrize("name", ALL)
def test_an_image_holds_no_tools_and_no_tests(
    builder: Builder, images: dict[str, str], name: str
) -> None:
    with builder.mounted(images[name]) as root:
        ours = [
            *root.rglob("support/tiers.py"),
            *root.rglob("quickstart.yaml"),
            *root.rglob("uv.lock"),
        ]

        assert programs(root) & BUILD_TOOLS == set()
        assert ours == []
        for folder in ("mnt", "source", "tmp"):  # nothing of the build is left
            assert not list((root / folder).glob("*"))


@pytest.mark.parametrize("name", ALL)
def test_an_image_says_what_it_is_and_runs_as_nobody_of_note(
    builder: Builder, images: dict[str, str], name: str
) -> None:
    config = builder.config_of(images[name])

    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in config["Labels"].items()
    }
    assert config["User"] == "65532:65532"
    assert labels["title"] == f"rephrase-{name}"
    assert labels["version"] == TAG
    assert labels["licenses"] == "Apache-2.0"
    assert len(labels["revision"]) == 40
    assert builder.run(images[name], "id", "-u", "-n") == "rephrase\n"


@pytest.mark.parametrize("name", ALL)
def test_an_image_has_the_commands_that_pods_start(
    builder: Builder, images: dict[str, str], name: str
) -> None:
    command = "rephrase-operator" if name == "operator" else "rephrase"

    with builder.mounted(images[name]) as root:
        assert command in programs(root)
    if name != "operator":
        assert builder.run(images[name], "rephrase", "--version").strip() == TAG


def test_versions_are_those_of_the_lock_file(builder: Builder, images: dict[str, str]) -> None:
    for name, package in (("operator", "kopf"), ("driver", "pyarrow"), ("runner", "pyarrow")):
        ask = f"from importlib.metadata import version; print(version({package!r}))"
        assert builder.run(images[name], "python3", "-c", ask).strip() == version(package)


def test_the_runner_keeps_the_base_s_vllm_and_torch(
    builder: Builder, images: dict[str, str]
) -> None:
    ask = "from importlib.metadata import version; print(version('torch'), version('vllm'))"

    assert builder.run(images["runner"], "python3", "-c", ask).split() == [TORCH, "0.32.0"]


def test_a_package_that_would_change_torch_ends_the_build(builder: Builder) -> None:
    base = "localhost/torn:1"
    builder.make_vllm(base, {
        "torch": (TORCH, ()),
        "vllm": ("0.32.0", ("torch==2.13.0",)),
        "pyarrow": (version("pyarrow"), ("torch==2.12.0",)),
    })  # fmt: skip

    with pytest.raises(NotMade, match=r"(?s)pyarrow.* torch==2\.12\.0"):
        builder.make("images", registry=REGISTRY, images="runner", base=base)


def test_a_base_whose_packages_are_too_old_for_ours_ends_the_build(builder: Builder) -> None:
    base = "localhost/old:1"
    builder.make_vllm(base, {"vllm": ("0.32.0", ()), "pyarrow": ("17.0.0", ())})

    with pytest.raises(NotMade, match=r"(?s)pyarrow.*17\.0\.0"):
        builder.make("images", registry=REGISTRY, images="runner", base=base)


def test_a_base_without_vllm_is_refused_with_a_sentence(builder: Builder) -> None:
    base = "localhost/bare:1"
    builder.make_vllm(base, {"torch": (TORCH, ())})

    with pytest.raises(NotMade, match="BASE has no vLLM: name an image that has"):
        builder.make("images", registry=REGISTRY, images="runner", base=base)
