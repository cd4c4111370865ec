"""`rephrase status --watch`: a run followed to its end from its objects alone."""

import json

from support.laptop import Laptop
from support.manifests import echo
from support.runs import small_run


def test_a_run_is_followed_until_it_is_complete(laptop: Laptop) -> None:
    small_run(laptop, model=echo(concurrency=8, latency=0.02))
    going = laptop.start_run("--workers", "1")
    laptop.wait_for_commits(1)

    followed = laptop.rephrase("status", "output", "--watch", "--every", "0.5", "--json")
    ended = going.ended()

    looks = [json.loads(line) for line in followed.out.splitlines()]
    committed = [look["units"]["committed"] for look in looks]
    assert (followed.code, ended.code) == (0, 0), followed.said + ended.said
    assert len(looks) >= 2
    assert committed == sorted(committed)
    assert committed[-1] == 20
    assert [look["finished"] for look in looks] == [False] * (len(looks) - 1) + [True]


def test_of_a_complete_run_there_is_one_look(undisturbed: Laptop) -> None:
    followed = undisturbed.rephrase("status", "output", "--watch")

    assert followed.code == 0
    assert followed.out.count("state") == 1
