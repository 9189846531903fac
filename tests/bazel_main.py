"""Runs pytest on the files and options of the command line, for Bazel's targets."""

import os
import sys

import pytest

if __name__ == "__main__":
    # Bazel's sandbox has no home that Matplotlib could write to.
    os.environ.setdefault("MPLCONFIGDIR", os.environ["TEST_TMPDIR"])
    status = pytest.main([*sys.argv[1:], "-p", "no:cacheprovider"])
    # A file whose every test was deselected by `-m` has nothing to fail.
    no_tests = pytest.ExitCode.NO_TESTS_COLLECTED
    sys.exit(pytest.ExitCode.OK if status == no_tests else status)
