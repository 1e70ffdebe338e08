"""`python -m qupath_bridge` is `qupath-pathsegdiff`."""

from qupath_bridge.cli import main

main(prog_name="qupath-pathsegdiff")
