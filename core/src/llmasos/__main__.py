"""``python -m llmasos``: the command line, in whichever environment that Python is."""

from llmasos.cli import main

main()
