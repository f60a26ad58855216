"""What tests of the command line share."""

from tests.exports import exported_once  # noqa: F401
