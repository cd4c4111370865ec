"""`make chaos`: a kill storm of any length on a folder or on an S3 server behind a faulty proxy.

Real drivers and workers are killed (SIGKILL, SIGTERM) and paused (SIGSTOP, some beyond their lease) at
random moments until KILLS kills are done, then left to finish. The dataset must be that of an undisturbed
run, sample by sample, and `rephrase verify` must find nothing. Prints figures; exit code 1 if not.

    make chaos KILLS=300
    make chaos KILLS=300 ARGS='--store s3 --workers 3 --seed 7'
"""

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from support.laptop import Laptop
from support.storm import (
    Site,
    Storm,
    assert_unharmed,
    on_a_folder,
    on_an_own_s3,
    undisturbed_storm,
)


def main() -> int:
    """Parse, storm, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--store", choices=["folder", "s3", "both"], default="both")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep everything here; must not exist")
    parser.add_argument("--quiet", action="store_true", help="only the figures")
    options = parser.parse_args()
    stores = ["folder", "s3"] if options.store == "both" else [options.store]
    with tempfile.TemporaryDirectory(prefix="rephrase-storm-") as temporary:
        folder = options.folder or Path(temporary) / "storms"
        folder.mkdir(parents=True)
        calm = undisturbed_storm(a_laptop(folder / "undisturbed"), options.kills)
        codes = [asyncio.run(storm(folder / store, store, calm, options)) for store in stores]
    return max(codes)


async def storm(folder: Path, store: str, calm: Laptop, options: argparse.Namespace) -> int:
    """One storm; 0 if it did no harm."""
    print(f"storm on {store}, seed {options.seed}", flush=True)
    laptop = a_laptop(folder)
    weed = a_folder(folder / "weed")
    async with AsyncExitStack() as stack:
        site: Site = on_a_folder()
        if store == "s3":
            site = await stack.enter_async_context(on_an_own_s3(weed, options.seed))
        wild = Storm(
            laptop,
            site,
            kills=options.kills,
            workers=options.workers,
            seed=options.seed,
            say=lambda line: None if options.quiet else print(f"  {line}", flush=True),
        )
        try:
            fleet = await wild.run()
            await assert_unharmed(wild, fleet, laptop, calm)
        except AssertionError as harm:
            print(wild.figures)
            print(f"HARM DONE (seed {options.seed}): {harm}", file=sys.stderr)
            return 1
        finally:
            laptop.lose_power()
    print(wild.figures)
    print(
        "  unharmed: the same samples as undisturbed, each once; verify finds nothing", flush=True
    )
    return 0


def a_laptop(folder: Path) -> Laptop:
    """An empty one."""
    return Laptop(a_folder(folder))


def a_folder(path: Path) -> Path:
    """A new one."""
    path.mkdir()
    return path


if __name__ == "__main__":
    sys.exit(main())
