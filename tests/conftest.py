"""The whole suite runs with shapes and types checked at every call of the library (jaxtyping with beartype)."""

import jaxtyping

jaxtyping.install_import_hook("course_lib", "beartype.beartype")

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def _own_messages(request):
    """In tests marked `bad_input` the checker is off: what a caller without it sees is what is tested."""
    off = request.node.get_closest_marker("bad_input") is not None
    jaxtyping.config.update("jaxtyping_disable", off)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
