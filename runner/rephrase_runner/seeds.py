"""Seeds, ids and sampling of documents, all from hashes: same inputs, same numbers on any machine. Pure.

Free text (a source id, a file name) comes last in what is hashed, after fields that cannot hold the
separator "\\0", so that two different inputs never make the same bytes.
"""

from decimal import Decimal

from xxhash import xxh3_64_intdigest, xxh3_128_hexdigest, xxh64_intdigest


def sample_seed(run_seed: int, source_id: str, prompt: str, rollout: int) -> int:
    """Seed of the first engine call for a sample, in [0, 2**63): what vLLM and torch accept.

    It names the document by its source id, so that it survives a new order of the source's files.
    """
    return _seed(f"sample\0{run_seed}\0{prompt}\0{rollout}\0{source_id}")


def attempt_seed(seed: int, attempt: int) -> int:
    """Seed of a further call for the same sample; `attempt` counts the calls made before, 0 keeps `seed`.

    A new seed is what may help: with the old one the model would do the same again.
    """
    return seed if attempt == 0 else _seed(f"attempt\0{seed}\0{attempt}")


def sample_id(source_file: str, row: int, prompt: str, rollout: int) -> str:
    """The `id` column: 32 hexadecimal digits, unique per (source file, row, prompt, rollout)."""
    return xxh3_128_hexdigest(_encoded(f"id\0{row}\0{prompt}\0{rollout}\0{source_file}"))


def keep(source_id: str, fraction: Decimal, seed: int) -> bool:
    """Whether a document belongs to the sample of this share of the source.

    Exact for any decimal fraction: 0 keeps none, 1 keeps all, and a larger fraction under the same seed
    keeps all that a smaller one keeps.
    """
    numerator, denominator = fraction.as_integer_ratio()
    return document_hash(source_id, seed) * denominator < numerator << 64


def document_hash(source_id: str, seed: int) -> int:
    """Where a document lies in [0, 2**64); evenly spread and independent of its sample seeds."""
    return xxh3_64_intdigest(_encoded(f"document\0{seed}\0{source_id}"))


def sample_order(source_id: str, prompt: str, rollout: int) -> int:
    """Where a sample lies in [0, 2**64); the smallest of a prompt are looked at for collapse."""
    return xxh64_intdigest(_encoded(f"{prompt}\0{rollout}\0{source_id}"))


def _seed(fields: str) -> int:
    return xxh3_64_intdigest(_encoded(fields)) >> 1


def _encoded(fields: str) -> bytes:
    # surrogatepass: an id that JSON spelled with a lone surrogate must not stop the run
    return fields.encode("utf-8", "surrogatepass")
