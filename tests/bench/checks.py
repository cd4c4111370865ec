"""What the checks of a rewrite cost: CPU time per sample, in one process and nothing else.

python tests/bench/checks.py [--documents 400]
"""

import argparse
import hashlib
import time

from rephrase_api.v1alpha1.generation import Quality
from rephrase_runner.checks import assess
from rephrase_runner.scrutiny import Original, scrutinize

DOCUMENT_WORDS, REWRITE_WORDS = 750, 250
"""About 1,050 and 350 tokens: a page of FineWeb-Edu and the mean rewrite of FinePhrase."""
PROMPTS = ("faq", "math", "table", "tutorial")
GOAL_MICROSECONDS = 150
LETTERS = str.maketrans("0123456789abcdef", "etaoinshrdlucmfw")
VOCABULARY = [
    hashlib.sha256(b"%d" % number).hexdigest()[: 2 + number % 9].translate(LETTERS)
    for number in range(4096)
]
ROUNDS = 5


def main() -> None:
    """Measure and print; the best of some rounds, since other work on the machine only adds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=400)
    documents = parser.parse_args().documents
    corpus = [(text(number, DOCUMENT_WORDS), rewrites(number)) for number in range(documents)]
    samples = documents * len(PROMPTS)
    print(f"checks: {samples:,} rewrites of {REWRITE_WORDS} words, documents of {DOCUMENT_WORDS}")
    for name, work in (("what decides", decide), ("beside the document", compare)):
        seconds = min(cpu_seconds(work, corpus) for _ in range(ROUNDS))
        print(f"  {name:24} {seconds / samples * 1e6:8.0f} us of CPU a sample")
    print(f"  goal for both together   {GOAL_MICROSECONDS:8} us")


Corpus = list[tuple[str, dict[str, str]]]


def cpu_seconds(work: object, corpus: Corpus) -> float:
    """CPU time of one pass."""
    assert callable(work)
    begun = time.process_time()
    work(corpus)
    return time.process_time() - begun


def decide(corpus: Corpus) -> None:
    """What runs before a sample is recorded."""
    quality = Quality()
    for _, made in corpus:
        for rewrite in made.values():
            assess(rewrite, "stop", 350, quality)


def compare(corpus: Corpus) -> None:
    """What runs in a thread of its own."""
    for document, made in corpus:
        original = Original(document)
        for prompt, rewrite in made.items():
            scrutinize(rewrite, original, prompt)


def text(number: int, words: int) -> str:
    """Sentences of seven to fourteen words and some numbers, frequent words as frequent as in a language."""
    found = []
    for place in range(words):
        draw = (
            int.from_bytes(hashlib.sha256(b"%d %d" % (number, place)).digest()[:4], "big") / 2**32
        )
        word = VOCABULARY[int(len(VOCABULARY) ** draw) - 1]
        if place % 37 == 5:
            word = f"1,{number * 31 % 900 + 100}"
        found.append(f"{word}." if place % (7 + number % 8) == 6 else word)
    return " ".join(found)


def rewrites(number: int) -> dict[str, str]:
    """One for each prompt: three of four words of the document's, in lines."""
    own = text(number, DOCUMENT_WORDS).split()
    other = text(number + 1_000_000, DOCUMENT_WORDS).split()
    made = {}
    for place, prompt in enumerate(PROMPTS):
        first = place * 120
        words = [
            (other if (at * at) % 4 == 1 else own)[at] for at in range(first, first + REWRITE_WORDS)
        ]
        lines = [" ".join(words[at : at + 12]) for at in range(0, len(words), 12)]
        made[prompt] = "\n".join(
            f"{line}?" if at % 3 == 0 else line for at, line in enumerate(lines)
        )
    return made


if __name__ == "__main__":
    main()
