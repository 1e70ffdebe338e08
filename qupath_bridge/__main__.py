"""`python -m qupath_bridge` is `qupath-pathsegdiff`."""

from qupath_bridge.cli import main

if __name__ == "__main__":  # the workers of a local cluster import this as well
    main(prog_name="qupath-pathsegdiff")
