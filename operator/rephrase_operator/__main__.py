"""`rephrase-operator`: environment → `Settings` → kopf, until a signal ends it."""

import logging
import os
import sys
import threading
from typing import Any

import kopf
from prometheus_client import start_http_server
from typing_extensions import override

from rephrase_api import logs, names
from rephrase_api.errors import RephraseError
from rephrase_operator.handlers import Handlers
from rephrase_operator.settings import Settings

logger = logging.getLogger(__name__)
_STOP_SECONDS = 10


class _NoDiffBase(kopf.DiffBaseStorage):
    """Keeps no copy of the spec: kopf would put it into an annotation, and large specs do not fit there.

    Nor makes one: a fifth of what a thousand workers that start cost was to copy their Jobs and pods.
    """

    @override
    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    @override
    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    @override
    def store(self, **_: Any) -> None:
        return None


def operator_settings() -> kopf.OperatorSettings:
    """How kopf is to behave; each line is there for a trap that docs/operator.md tells of."""
    settings = kopf.OperatorSettings()
    settings.persistence.finalizer = names.FINALIZER
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=names.GROUP)
    settings.posting.enabled = False  # Cluster.tell does it, quietly where a namespace ends
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (1, 1, 2, 3, *[5] * 100)  # then the process ends
    settings.queueing.error_delays = (1, 1, 2, 3, 5)
    # the server ends each watch, and tells how far it came two seconds before: a longer silence is an end
    settings.watching.server_timeout = 30
    settings.watching.inactivity_timeout = 40
    settings.watching.chunk_size = 500
    # `end_in_time` counts from the cleanup on; a watcher that hangs keeps kopf from coming that far
    settings.process.ultimate_exiting_timeout = 2 * _STOP_SECONDS
    for resource in (("", "v1", "pods"), ("batch", "v1", "jobs")):
        settings.watching.label_selectors[resource] = names.RUN_LABEL
    return settings


def main() -> int:
    """Run the operator until it is told to end; returns the exit code."""
    logs.configure("Info")
    try:
        settings = Settings.from_environment(os.environ)
        handlers = Handlers(settings)
    except RephraseError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    logs.configure(settings.log_level)
    _quiet_kopf()
    registry = kopf.OperatorRegistry()
    kopf.on.login(registry=registry)(_login)
    handlers.register(registry)
    kopf.on.cleanup(registry=registry)(end_in_time)
    kopf_settings = operator_settings()
    kopf_settings.scanning.disabled = bool(settings.namespaces)  # needs no rights on the cluster
    if settings.metrics_port:
        start_http_server(settings.metrics_port, settings.host, handlers.metrics.registry)
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    health = f"http://{host}:{settings.health_port}/healthz" if settings.health_port else None
    # kopf makes itself an identity of the user's name, and a container's user often has none
    os.environ.setdefault("LOGNAME", "rephrase-operator")
    kopf.run(
        registry=registry,
        settings=kopf_settings,
        standalone=True,
        clusterwide=not settings.namespaces,
        namespaces=settings.namespaces,
        liveness_endpoint=health,
    )
    return 0


def end_in_time(*, seconds: float = _STOP_SECONDS, **_: Any) -> None:  # noqa: ANN401 - kopf's keywords
    """End the process once it has been stopping for so long.

    kopf may wait for ever for a watcher that wants to log in anew while everything else has ended; a
    process that neither looks nor ends is of no use to anybody.
    """

    def end() -> None:
        logger.error("stopping takes too long", extra={"seconds": seconds})
        os._exit(1)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def _quiet_kopf() -> None:
    for name in ("kopf.objects", "kopf.activities.probe", "aiohttp.access"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell that every look succeeded
    # a stream that went silent and one that begins anew are told at this level only
    logging.getLogger("kopf._cogs.clients.watching").setLevel(logging.DEBUG)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_without_kopfs_settings)


def _without_kopfs_settings(record: logging.LogRecord) -> bool:
    """Keep of what kopf adds to each record only the object's name."""
    for name in ("settings", "k8s_skip"):
        record.__dict__.pop(name, None)
    if (ref := record.__dict__.pop("k8s_ref", None)) is not None:
        record.__dict__["object"] = f"{ref.get('kind')} {ref.get('namespace')}/{ref.get('name')}"
    return True


def _login(**keywords: Any) -> kopf.ConnectionInfo | None:  # noqa: ANN401 - kopf's keywords
    """As the pod's ServiceAccount, or as KUBECONFIG says; found anew when the API server says 401."""
    return kopf.login_via_client(**keywords)


if __name__ == "__main__":
    sys.exit(main())
