"""`python -m startlist` is the command `startlist`."""

from startlist.cli import main

main()
