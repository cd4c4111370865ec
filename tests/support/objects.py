"""What kind of object a name of an output belongs to, for counting requests and naming moments."""

import re

_RUN = re.compile(r"(?:^|/)_run/(?:[0-9a-f]{16}/)?(.*)$")
_PUBLISHED = re.compile(r"(?:^|/)(data|dead_letter)/")


def kind_of(name: str) -> str:
    """`claims`, `workers`, `parts`, `commits`, `plan`, `plan table`, `data` ...; "" for a root.

    Args:
        name: of an object or a folder of the output, with or without what comes before it.
    """
    if match := _RUN.search(name):
        first = match[1].split("/", 1)[0]
        if first.startswith("plan-"):
            return "plan table"
        if first.startswith("probe-"):
            return "probe"
        if name.endswith(".done.json"):
            return "groups done"
        return first.removesuffix(".json") or "_run"
    if match := _PUBLISHED.search(name):
        return match[1]
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return last if "." in last else ""
