"""`python -m kdinpaint` is the command line."""

from kdinpaint.cli.main import main

main()
