"""Search the model of the ledger protocol, scope by scope.

    python tests/model/explore.py --scope small | large | holes | walks | poison

Prints states, seconds of processor and a verdict for each scope; a violation with its shortest trace. Exit
code 1 if a rule is missing, or a hole is not found without its rule.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from model.poison import Trial, cases
from model.scopes import HOLES, LARGE, SMALL, WALKS, Scope, model_of
from model.search import Outcome, explore
from model.walks import walk


def main() -> int:
    """Parse, search, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    what = ["small", "large", "holes", "walks", "poison"]
    parser.add_argument("--scope", choices=what, default="small")
    parser.add_argument("--walks", type=int, default=5000, help="of each kind")
    options = parser.parse_args()
    match options.scope:
        case "small":
            sound = search(SMALL)
        case "large":
            sound = search(LARGE)
        case "holes":
            sound = holes()
        case "walks":
            sound = walks(options.walks)
        case _:
            sound = poison()
    return 0 if sound else 1


def search(scopes: dict[str, Scope]) -> bool:
    """Search all scopes; whether nothing was found."""
    outcomes = [told(name, explore(model_of(scope))) for name, scope in scopes.items()]
    say(
        f"{sum(one.states for one in outcomes):,} states,"
        f" {sum(one.seconds for one in outcomes):.0f} s of processor"
    )
    return all(one.exhausted and one.violation is None for one in outcomes)


def told(name: str, outcome: Outcome) -> Outcome:
    """Print how a search went."""
    rate = outcome.states / max(outcome.seconds, 1e-9) / 1000
    verdict = "exhausted, sound" if outcome.exhausted else "not exhausted"
    say(
        f"{name:<52}{outcome.states:>10,} states {outcome.seconds:6.1f} s {rate:5.0f} k/s  "
        f"{verdict if outcome.violation is None else outcome.violation}",
    )
    return outcome


def holes() -> bool:
    """Every hole without its rules; whether each was found."""
    found = True
    for hole in HOLES:
        violation = explore(model_of(hole.open_scope)).violation
        rules = " and ".join(rule.name.lower().replace("_", " ") for rule in hole.rules)
        say(f"hole {hole.number}; without: {rules}\n{violation}\n")
        found = found and violation is not None
    return found


def walks(count: int) -> bool:
    """So many walks through each large model; whether nothing was found."""
    sound = True
    for name, scope in WALKS.items():
        model = model_of(scope)
        found = [(seed, one) for seed in range(count) if (one := walk(model, seed)) is not None]
        say(f"{name:<52}{count:>10,} walks, {len(found)} violations")
        for seed, violation in found[:1]:
            say(f"seed {seed}: {violation}")
        sound = sound and not found
    return sound


def poison() -> bool:
    """Killers of all kinds; whether each was found, and no innocent."""
    tried = faulty = 0
    for case in cases(every=25):
        tried += 1
        for fault in Trial(case).faults():
            faulty += 1
            say(f"{case}: {fault}")
    say(f"{tried:,} cases, {faulty} faults")
    return not faulty


def say(line: str) -> None:
    """Print at once, however long the next scope takes."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
