"""How the operator was installed: images, namespaces, clocks, ports. Pure; read from a mapping once."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from rephrase_api.errors import Problems
from rephrase_api.v1alpha1.policy import LogLevel

PREFIX = "REPHRASE_OPERATOR_"
_YES, _NO = "true", "false"


@dataclass(frozen=True, slots=True)
class Settings:
    """The operator's settings; each is an environment variable, ``REPHRASE_OPERATOR_RUNNER_IMAGE`` ...

    Attributes:
        runner_image: image of workers where the spec names none.
        driver_image: image of drivers where the spec names none.
        namespaces: the ones watched, separated by commas; empty = all of the cluster.
        reconcile_seconds: between two looks at a run.
        crash_loop_failures: failures of a run's workers, without progress, that stop it; 1 to 10, as many
            as the status remembers.
        max_workers_per_run: most workers of a run, whatever its spec says; 0 = no limit.
        max_runs_per_namespace: most live runs of a namespace; 0 = no limit.
        allow_pod_template: whether runs may have a `podTemplate`.
        log_level: Debug, Info, Warning or Error.
        host: address that probes and metrics listen on.
        health_port: port of `/healthz`; 0 = none.
        metrics_port: port of `/metrics`; 0 = none.
        prices: file with the price list; empty = there is none.
    """

    runner_image: str = ""
    driver_image: str = ""
    namespaces: tuple[str, ...] = ()
    reconcile_seconds: float = 5.0
    crash_loop_failures: int = 8
    max_workers_per_run: int = 0
    max_runs_per_namespace: int = 0
    allow_pod_template: bool = True
    log_level: str = "Info"
    host: str = "0.0.0.0"  # noqa: S104 - the kubelet's and Prometheus' requests come from outside
    health_port: int = 8080
    metrics_port: int = 8081
    prices: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read REPHRASE_OPERATOR_* variables.

        Raises:
            Problems: all that is wrong with them, at once.
        """
        read, default = _Reader(environment), cls()
        names = read.text("NAMESPACES")
        found = cls(
            runner_image=read.needed("RUNNER_IMAGE"),
            driver_image=read.needed("DRIVER_IMAGE"),
            namespaces=tuple(filter(None, (name.strip() for name in names.split(",")))),
            reconcile_seconds=read.number(
                "RECONCILE_SECONDS", default.reconcile_seconds, least=0.1
            ),
            crash_loop_failures=int(
                read.number("CRASH_LOOP_FAILURES", default.crash_loop_failures, least=1, most=10)
            ),
            max_workers_per_run=int(
                read.number("MAX_WORKERS_PER_RUN", default.max_workers_per_run, least=0)
            ),
            max_runs_per_namespace=int(
                read.number("MAX_RUNS_PER_NAMESPACE", default.max_runs_per_namespace, least=0)
            ),
            allow_pod_template=read.one_of("ALLOW_POD_TEMPLATE", _YES, (_YES, _NO)) == _YES,
            log_level=read.one_of("LOG_LEVEL", default.log_level, list(LogLevel)),
            host=read.text("HOST") or default.host,
            health_port=int(read.number("HEALTH_PORT", default.health_port, least=0, most=65535)),
            metrics_port=int(
                read.number("METRICS_PORT", default.metrics_port, least=0, most=65535)
            ),
            prices=read.text("PRICES"),
        )
        if read.problems:
            raise Problems(read.problems, where="the operator's environment")
        return found


class _Reader:
    """Reads variables and gathers what is wrong with them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        return self._environment.get(PREFIX + name, "")

    def needed(self, name: str) -> str:
        value = self.text(name)
        if not value:
            self.problems.append(f"{PREFIX}{name}: must be set; the chart sets it")
        return value

    def one_of(self, name: str, default: str, allowed: Collection[str]) -> str:
        value = self.text(name) or default
        if value not in allowed:
            self.problems.append(
                f"{PREFIX}{name}: must be one of {', '.join(allowed)}, got {value!r}"
            )
        return value

    def number(self, name: str, default: float, *, least: float, most: float = 1e9) -> float:
        text = self.text(name)
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            allowed = f"a number from {least:g} to {most:g}"
            self.problems.append(f"{PREFIX}{name}: must be {allowed}, got {text!r}")
            return default
        return value
