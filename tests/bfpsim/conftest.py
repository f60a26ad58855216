from tests.exports import exported_once  # noqa: F401
