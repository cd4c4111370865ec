"""Images on a machine without a source of images: a small Debian, the tools of buildah, `make images`.

Packages come from where this machine's own come from; what is built lies in a folder of the test's.
"""

import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from support.cluster.binary import PAUSE

ROOT = Path(__file__).parents[3]
PYTHON = "localhost/python:1"
"""A base with Python, in place of the one that the Dockerfile names."""
UV = "localhost/uv:1"
VLLM = "localhost/vllm:1"
"""A base with packages by the names of vLLM and torch, and nothing in them."""
TORCH = "2.13.0+cu130"
_PACKAGES = ("ca-certificates", "python3")
_SUITE = "bookworm"
_UNREAD = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "var/cache",
    "var/lib/apt",
)
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class NotMade(Exception):
    """A command failed; with what it said."""


class Builder:
    """Builds images by buildah, which needs no daemon; a context manager.

    Args:
        folder: for its images; they are large.
        uv: the program.
    """

    def __init__(self, folder: Path, uv: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        storage = folder / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/run"\n'
        )
        self._storage = {"CONTAINERS_STORAGE_CONF": str(storage)}
        self._uv = uv

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # buildah leaves some mounted
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for place in reversed(mounts):
            if Path(place).is_relative_to(self._folder):
                _said(["umount", place], {})
        shutil.rmtree(self._folder)

    def environment(self, base: str = VLLM) -> dict[str, str]:
        """What tells `make images` to build here: README and Dockerfile name what is not reachable.

        Args:
            base: that the runner's image is made on.
        """
        bases = {"PYTHON_IMAGE": PYTHON, "UV_IMAGE": UV, "BASE": base}
        # no --layers: a stage that buildah 1.28 takes from its cache is not there to be mounted
        flags = [
            "--isolation=chroot", "--network=host",
            *(f"--build-arg={name}={image}" for name, image in bases.items()),
        ]  # fmt: skip
        if _CERTIFICATES.exists():
            flags.append(f"--secret=id=ca,src={_CERTIFICATES}")
        return self._storage | {
            "BUILDER": "buildah",
            "BUILD_FLAGS": " ".join(flags),
            "PUSH_FLAGS": "--tls-verify=false",
        }

    def make_bases(self) -> None:
        """The images that ours are built on."""
        debian = self._context("python", {"base.tar": _debian()})
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.build(PYTHON, debian, f"FROM scratch\nADD base.tar /\nENV {path}\n")
        self.build(UV, self._context("uv", {"uv": self._uv}), "FROM scratch\nCOPY uv /uv\n")
        self.make_vllm(VLLM, {"torch": (TORCH, ()), "vllm": ("0.32.0", ("torch==2.13.0",))})

    def make_vllm(self, tag: str, packages: Mapping[str, tuple[str, tuple[str, ...]]]) -> None:
        """An image that has these packages beside a Python: version, and what each asks for."""
        context = self._context(tag.split("/")[1].split(":")[0])
        for name, (version, requires) in packages.items():
            write_wheel(context, name, version, requires)
        self.build(
            tag,
            context,
            f"""
FROM {UV} AS uv
FROM {PYTHON}
RUN --mount=type=bind,from=uv,source=/uv,target=/mnt/uv --mount=type=bind,source=.,target=/mnt/wheels \\
  /mnt/uv pip install --system --break-system-packages --no-cache --no-index --no-deps /mnt/wheels/*.whl
""",
        )

    def make_pause(self, registry: str) -> None:
        """The image that holds a pod's namespaces, in the registry."""
        tag = f"{registry}/pause:1"
        context = self._context("pause", {"pause": PAUSE.binary()})
        self.build(tag, context, 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
        self._buildah("push", "--tls-verify=false", tag)

    def build(self, tag: str, context: Path, dockerfile: str) -> None:
        """Build an image from a folder."""
        (context / "Dockerfile").write_text(dockerfile)
        self._buildah("build", "--isolation=chroot", f"--tag={tag}", str(context))

    def make(self, *targets: str, registry: str, images: str, base: str = VLLM) -> None:
        """Run `make images`.

        Raises:
            NotMade: it fails.
        """
        words = [*targets, f"REGISTRY={registry}", f"IMAGES={images}"]
        _said(["make", "--directory", str(ROOT), *words], self.environment(base))

    def config_of(self, image: str) -> dict[str, Any]:
        """User, environment, labels and command of an image."""
        found: dict[str, Any] = json.loads(self._buildah("inspect", "--type=image", image))
        return dict(found["OCIv1"]["config"])

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """The files of an image."""
        container = self._buildah("from", "--pull-never", image).strip()
        try:
            yield Path(self._buildah("mount", container).strip())
        finally:
            self._buildah("rm", container)

    def run(self, image: str, *command: str) -> str:
        """What a command says in a container of the image, as the user that it names."""
        container = self._buildah("from", "--pull-never", image).strip()
        try:
            return self._buildah("run", "--isolation=chroot", container, "--", *command)
        finally:
            self._buildah("rm", container)

    def _context(self, name: str, files: Mapping[str, Path] | None = None) -> Path:
        folder = self._folder / "contexts" / name
        folder.mkdir(parents=True)
        for target, source in (files or {}).items():
            shutil.copy(source, folder / target)
        return folder

    def _buildah(self, *arguments: str) -> str:
        return _said(["buildah", *arguments], self._storage)


def write_wheel(folder: Path, name: str, version: str, requires: tuple[str, ...] = ()) -> None:
    """A package with an empty module."""
    about = f"{name}-{version}.dist-info"
    asked = "".join(f"Requires-Dist: {one}\n" for one in requires)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{asked}"
        )
        wheel.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{about}/RECORD", "")


def _debian() -> Path:
    """A minimal Debian with Python as a tar archive, made once and kept in the cache folder."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rephrase-tests"
    what = json.dumps([_SUITE, _PACKAGES, _UNREAD])
    archive = caches / f"debian-{hashlib.sha256(what.encode()).hexdigest()[:16]}.tar"
    if not archive.exists():
        root, partial = archive.with_suffix(".root"), archive.with_suffix(".partial")
        shutil.rmtree(root, ignore_errors=True)
        packages = f"--include={','.join(_PACKAGES)}"
        _said(["debootstrap", "--variant=minbase", packages, _SUITE, str(root)], {})
        left_out = [f"--exclude=./{folder}/*" for folder in _UNREAD]
        _said(["tar", "--create", f"--file={partial}", f"--directory={root}", *left_out, "."], {})
        shutil.rmtree(root)
        partial.rename(archive)
    return archive


def _said(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotMade(f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done.stdout
