"""A real vLLM in the middle of generating is asked to end: the finished samples are kept, soon."""

import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from support.laptop import Laptop
from support.waiting import wait_until

DOCUMENTS = 64


@pytest.mark.full
def test_a_run_that_is_interrupted_while_vllm_generates_saves_and_repeats_nothing(
    model: Path, tmp_path: Path
) -> None:
    laptop = Laptop(tmp_path)
    laptop.source.mkdir(parents=True, exist_ok=True)
    texts = [
        f"Lake {row} is {row + 3} miles long and {row + 1} miles wide." for row in range(DOCUMENTS)
    ]
    pq.write_table(pa.table({"text": texts}), laptop.source / "lakes.parquet")
    laptop.write(
        {
            "apiVersion": "rephrase.io/v1alpha1",
            "kind": "RephraseRun",
            "metadata": {"name": "lakes"},
            "spec": {
                "source": {"uri": "source"},
                "prompts": [{"name": "faq", "builtIn": "faq"}, {"name": "math", "builtIn": "math"}],
                "model": {
                    "uri": str(model),
                    "maxModelLength": 512,
                    "engine": {"args": ["--enforce-eager", "--max-num-seqs=8"]},
                },
                "sampling": {"maxTokens": 64, "temperature": 0.3},
                "output": {"uri": "output"},
                "durability": {"heartbeatSeconds": 1, "leaseSeconds": 3, "checkpointSeconds": 600},
            },
        }
    )
    command = laptop.start_run()

    def finished() -> int:
        return sum(beat["samples"] for beat in beats(laptop))

    wait_until(lambda: finished() >= 8, "some samples are finished", within=300)
    asked = time.monotonic()
    command.signal(signal.SIGINT)
    assert command.ended(within=30).code == 75
    assert time.monotonic() - asked < 10
    (before,) = beats(laptop)
    assert before["samples_checkpointed"] == before["samples"] < 2 * DOCUMENTS

    assert laptop.start_run().ended(within=400).code == 0
    generated = sum(beat["samples"] for beat in beats(laptop))

    assert generated == 2 * DOCUMENTS
    assert len(laptop.samples("faq", "math")) == 2 * DOCUMENTS


def beats(laptop: Laptop) -> list[dict[str, int]]:
    """The heartbeats of all workers so far."""
    return [
        laptop.record(str(path.relative_to(laptop.output))) for path in laptop.ledger("workers")
    ]
