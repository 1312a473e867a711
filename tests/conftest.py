"""The whole suite runs with shapes and types checked at every call of the library (jaxtyping with beartype)."""

import jaxtyping

import tests.typecheck  # noqa: F401  (the hook below finds it by name)

jaxtyping.install_import_hook("course_lib", "tests.typecheck.check")

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# A loaded machine is slow, not wrong: no deadline for a single example.
hypothesis.settings.register_profile("course", deadline=None)
hypothesis.settings.load_profile("course")


@pytest.fixture(autouse=True)
def _own_messages(request):
    """In tests marked `bad_input` the checker is off: what a caller without it sees is what is tested."""
    off = request.node.get_closest_marker("bad_input") is not None
    jaxtyping.config.update("jaxtyping_disable", off)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
