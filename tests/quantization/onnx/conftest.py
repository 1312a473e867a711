"""The networks of the course as files, for all tests of this folder."""

import pytest

from tests.quantization.onnx.files import (
    Exported,
)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return Exported(tmp_path_factory.mktemp("exported"))
