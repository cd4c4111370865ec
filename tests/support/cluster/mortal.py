"""An operator that dies by SIGKILL at one of its own writes: `python -m support.cluster.mortal`.

DIE_AT=3 DIE=after: the third create, delete or status patch is carried out, and then there is no operator any
more. With DIE=before it dies instead of sending it. Without DIE_AT it lives.
"""

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

from rephrase_operator.__main__ import main
from rephrase_operator.cluster import Cluster

_WRITES = ("POST", "DELETE", "PATCH")


def mortal(request: Callable[..., Awaitable[Any]], number: int, when: str) -> Callable[..., Any]:
    """A request that does not survive the write of this number."""
    writes = count(1)

    async def made(self: Cluster, method: str, *args: Any, **keywords: Any) -> Any:  # noqa: ANN401
        dry = (keywords.get("query") or {}).get("dryRun")
        last = method in _WRITES and not dry and next(writes) == number
        if last and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = await request(self, method, *args, **keywords)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    return made


if __name__ == "__main__":
    if "DIE_AT" in os.environ:
        fatal = mortal(Cluster._request, int(os.environ["DIE_AT"]), os.environ["DIE"])
        Cluster._request = fatal  # type: ignore[method-assign]
    sys.exit(main())
