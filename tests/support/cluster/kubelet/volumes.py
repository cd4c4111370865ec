"""Volumes of a pod as folders of this machine: made when the pod comes, gone when its folder goes.

Files of Secrets and ConfigMaps are written once; those of the downward API follow the pod's annotations.
An `emptyDir` in memory belongs to one container alone.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.cluster.client import Client
from support.cluster.kubelet.environment import data_of
from support.cluster.kubelet.fields import BadReference, field, resource_field
from support.cluster.kubelet.quantities import amount
from support.cluster.wire import Object


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume that containers can mount.

    Attributes:
        folder: where it lies, which may be a file; None: it is in memory.
        options: of the memory's mount.
        read_only: nobody may write to it.
    """

    folder: Path | None
    options: str = ""
    read_only: bool = False


class Volumes:
    """Makes the volumes of one pod.

    Args:
        folder: of the pod.
        pod: with addresses in its status.
        client: within the pod's namespace.
        allocatable: resources of the node.
    """

    def __init__(
        self, folder: Path, pod: Object, client: Client, allocatable: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._pod = pod
        self._client = client
        self._allocatable = allocatable
        self._group: int | None = (pod["spec"].get("securityContext") or {}).get("fsGroup")

    def prepare(self) -> dict[str, Volume]:
        """Make all of them, by name.

        Raises:
            BadReference: what one is to hold is not there (yet).
        """
        volumes = self._pod["spec"].get("volumes") or []
        return {volume["name"]: self._volume(volume) for volume in volumes}

    def follow(self, pod: Object) -> None:
        """Write the files of the downward API anew where the pod's labels or annotations changed.

        Args:
            pod: as it is now, with addresses in its status.
        """
        before, self._pod = self._pod["metadata"], pod
        if all(before.get(key) == pod["metadata"].get(key) for key in ("labels", "annotations")):
            return
        for volume in pod["spec"].get("volumes") or []:
            for path, content, mode in self._files({"downwardAPI": volume.get("downwardAPI")}):
                fresh = self._folder / volume["name"] / f"..{path}"
                self._write(fresh, content, mode or 0o644)
                fresh.replace(fresh.with_name(path))  # a reader sees the old one or the new one

    def _volume(self, volume: Object) -> Volume:
        folder = self._folder / volume["name"]
        if "emptyDir" in volume:
            return self._empty(folder, volume["emptyDir"] or {})
        if path := volume.get("hostPath"):
            return Volume(self._host_path(path))
        if claim := volume.get("persistentVolumeClaim"):
            return Volume(self._claimed(claim["claimName"]), read_only=claim.get("readOnly", False))
        sources = (volume.get("projected") or {}).get("sources")
        if sources is None:  # a projection of one source
            name = next(kind for kind in ("secret", "configMap", "downwardAPI") if kind in volume)
            sources = [{name: volume[name]}]
        mode = next((v["defaultMode"] for v in volume.values() if "defaultMode" in v), 0o644)
        folder.mkdir(parents=True, exist_ok=True)
        for source in sources:
            for path, content, own_mode in self._files(source):
                self._write(folder / path, content, own_mode or mode)
        return Volume(folder, read_only=True)

    def _empty(self, folder: Path, options: Mapping[str, Any]) -> Volume:
        if options.get("medium") == "Memory":
            limit = options.get("sizeLimit")
            return Volume(None, "mode=1777" + (f",size={int(amount(limit))}" if limit else ""))
        folder.mkdir(parents=True, exist_ok=True)
        if self._group is not None:
            os.chown(folder, -1, self._group)
        folder.chmod(0o2777 if self._group is not None else 0o777)
        return Volume(folder)

    def _host_path(self, options: Mapping[str, Any]) -> Path:
        path = Path(options["path"])
        if options.get("type") == "DirectoryOrCreate":
            path.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            raise BadReference(f"hostPath {path} is not there")
        return path

    def _claimed(self, name: str) -> Path:
        claim = self._client.get("persistentvolumeclaims", name)
        volume = self._client.get("persistentvolumes", claim["spec"]["volumeName"])
        path = volume["spec"].get("hostPath") or volume["spec"].get("local")
        if path is None:
            raise BadReference(
                f"persistentvolume {volume['metadata']['name']} is no folder of this machine"
            )
        return self._host_path(path)

    def _files(self, source: Object) -> Iterator[tuple[str, bytes, int | None]]:
        """Path, content and mode of each file of one source."""
        for kind, resource in (("secret", "secrets"), ("configMap", "configmaps")):
            if reference := source.get(kind):
                yield from _chosen(data_of(self._client, resource, reference), reference)
        for item in (source.get("downwardAPI") or {}).get("items") or []:
            yield item["path"], self._about_pod(item).encode(), item.get("mode")
        if token := source.get("serviceAccountToken"):
            yield token["path"], self._token(token).encode(), None

    def _about_pod(self, item: Object) -> str:
        if reference := item.get("fieldRef"):
            return field(self._pod, reference["fieldPath"])
        reference = item["resourceFieldRef"]
        containers = self._pod["spec"]["containers"]
        container = next(one for one in containers if one["name"] == reference["containerName"])
        return resource_field(container, reference, self._allocatable)

    def _token(self, options: Mapping[str, Any]) -> str:
        account = self._pod["spec"].get("serviceAccountName", "default")
        seconds = options.get("expirationSeconds", 3600)
        return self._client.token(account, seconds=seconds, bound_to=self._pod)

    def _write(self, path: Path, content: bytes, mode: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if self._group is not None:
            os.chown(path, -1, self._group)
            mode |= (mode & 0o400) >> 3
        path.chmod(mode)


def _chosen(
    data: Mapping[str, bytes], reference: Mapping[str, Any]
) -> Iterator[tuple[str, bytes, int | None]]:
    items = reference.get("items")
    if items is None:
        yield from ((key, content, None) for key, content in data.items())
        return
    for item in items:
        if item["key"] in data:
            yield item["path"], data[item["key"]], item.get("mode")
        elif not reference.get("optional"):
            raise BadReference(f"references non-existent key: {item['key']}")
