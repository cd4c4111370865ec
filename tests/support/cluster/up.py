"""Starts a cluster and keeps it until it is stopped; for people, and for several runs of the tests.

PYTHONPATH=tests python -m support.cluster.up                        # prints KUBECONFIG; Ctrl-C ends it
PYTHONPATH=tests python -m support.cluster.up --nodes 3 --gpus 1     # with nodes that run pods
PYTHONPATH=tests python -m support.cluster.up -- pytest tests/cluster
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from support.cluster.binary import CONTROL_PLANE, NotBuilt
from support.cluster.control_plane import ControlPlane
from support.cluster.kubelet.kubelet import Kubelet
from support.cluster.kubelet.node import Shape


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        if not CONTROL_PLANE.is_built:
            _tell("building the control plane, about 6 minutes, this once ...")
        CONTROL_PLANE.binary()
    except NotBuilt as reason:
        _tell(str(reason))
        return 69
    ended = threading.Event()
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda *_: ended.set())
    folder = options.folder or Path(tempfile.mkdtemp(prefix="rephrase-cluster-"))
    with ExitStack() as stack:
        plane = stack.enter_context(ControlPlane(folder / "control-plane"))
        if options.nodes:
            kubelet = stack.enter_context(Kubelet(plane.client(), folder / "kubelet"))
            for number in range(options.nodes):
                kubelet.add_node(f"node-{number}", Shape(gpus=options.gpus))
        _tell(f"the cluster is up; its logs are in {folder}")
        if options.command:
            return _run(options.command, plane.kubeconfig)
        sys.stdout.write(f"export KUBECONFIG={plane.kubeconfig}\n")
        sys.stdout.flush()
        while not ended.wait(1):
            for program in plane.programs:
                program.check()
    _tell("the cluster is down")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="up", description="A Kubernetes cluster for tests.")
    parser.add_argument(
        "--folder", type=Path, help="for data and logs; a temporary one if left out"
    )
    parser.add_argument(
        "--nodes", type=int, default=0, help="that run pods as processes; needs root"
    )
    parser.add_argument("--gpus", type=int, default=0, help="that each of them is said to have")
    parser.add_argument("command", nargs="*", help="run this with KUBECONFIG set, then end")
    return parser


def _run(command: Sequence[str], kubeconfig: Path) -> int:
    environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
    with subprocess.Popen(command, env=environment) as process:
        # Ctrl-C goes to the command as well; it is the command that says when it ends
        return process.wait()


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
