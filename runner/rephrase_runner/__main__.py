"""`python -m rephrase_runner` is the `rephrase` command."""

from rephrase_runner.cli import main

main()
