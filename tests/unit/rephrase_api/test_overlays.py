from typing import Any

import pytest

from rephrase_api.v1alpha1.engine_arguments import OWNED, owned_flag
from rephrase_api.v1alpha1.overlays import protected_fields


def container(**context: object) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", "securityContext": context}]}}


@pytest.mark.parametrize(
    ("overlay", "fields"),
    [
        ({"metadata": {"ownerReferences": []}}, [".metadata.ownerReferences"]),
        (
            {"metadata": {"labels": {"rephrase.io/pool": "x", "team": "a"}}},
            ['.metadata.labels["rephrase.io/pool"]'],
        ),
        (
            {"metadata": {"annotations": {"rephrase.io/template-hash": "x"}}},
            ['.metadata.annotations["rephrase.io/template-hash"]'],
        ),
        ({"spec": {"serviceAccountName": "admin"}}, [".spec.serviceAccountName"]),
        ({"spec": {"hostPID": True, "hostIPC": True}}, [".spec.hostPID", ".spec.hostIPC"]),
        ({"spec": {"restartPolicy": "Always"}}, [".spec.restartPolicy"]),
        (
            {"spec": {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}},
            [".spec.securityContext.seccompProfile"],
        ),
        (
            {"spec": {"volumes": [{"name": "a", "emptyDir": {}}, {"name": "b", "hostPath": {}}]}},
            [".spec.volumes[1].hostPath"],
        ),
        (
            container(runAsNonRoot=False, allowPrivilegeEscalation=True),
            [
                ".spec.containers[0].securityContext.allowPrivilegeEscalation",
                ".spec.containers[0].securityContext.runAsNonRoot",
            ],
        ),
    ],
)
def test_an_overlay_may_not_weaken_or_take_over_a_pod(
    overlay: dict[str, Any], fields: list[str]
) -> None:
    assert list(protected_fields(overlay)) == fields


@pytest.mark.parametrize(
    "overlay",
    [
        None,
        {},
        {"metadata": {"labels": {"team": "a"}, "annotations": {"b": "c"}}},
        {"spec": {"hostNetwork": False, "runtimeClassName": "nvidia", "securityContext": None}},
        {"spec": {"securityContext": {"runAsUser": 1000, "fsGroup": 2000}}},
        container(runAsNonRoot=True, readOnlyRootFilesystem=True, capabilities={"drop": ["ALL"]}),
        {"spec": {"volumes": "not a list", "containers": [7]}},
    ],
)
def test_an_overlay_may_add_and_may_be_stricter(overlay: dict[str, Any] | None) -> None:
    assert list(protected_fields(overlay)) == []


@pytest.mark.parametrize("flag", OWNED)
def test_an_owned_flag_is_found_in_each_of_its_forms(flag: str) -> None:
    for argument in (flag, f"{flag}=x", f"{flag}.key=x"):
        assert owned_flag(argument) == flag


@pytest.mark.parametrize(
    "argument",
    ["--max-num-seqs=256", "--model-impl=auto", "--seeds=1", "--no-enable-prefix-caching"],
)
def test_flags_for_speed_are_not_owned(argument: str) -> None:
    assert owned_flag(argument) is None
