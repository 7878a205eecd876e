"""``python -m llmasos``: the command line, in whichever environment that Python is."""

import sys

# Python puts the working folder first for -m: a file there would stand in for a library.
if not sys.flags.safe_path:
    del sys.path[0]

from llmasos.cli import main

main()
