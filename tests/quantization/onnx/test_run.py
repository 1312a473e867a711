"""Running a file, and timing it."""

import pytest
import torch

from course_lib import cost
from course_lib.data import to_float
from course_lib.quantization.onnx import collect, latency, run
from tests.quantization.onnx.files import (
    linear_file,
    pictures,
)


def test_files_of_a_fixed_batch_size(tmp_path):
    images = pictures(6, size=2)[:, :, :1]
    expected = run(linear_file(tmp_path / "open.onnx"), images)
    path = linear_file(tmp_path / "fixed.onnx", shape=(3, 1, 1, 2))
    torch.testing.assert_close(run(path, images), expected)
    assert collect(path, images)["x"].count == 12
    assert latency(path, images[:3], min_seconds=0.01).median > 0


def test_latency_times_one_call_for_all_images(exported, monkeypatch):
    _, path = exported["vgg"]
    calls = []

    def noted(network, example, **options):
        calls.append((network, example, options))
        return cost.Latency(1.0, 0.5, 2.0)

    monkeypatch.setattr("course_lib.quantization.onnx._run.cost.latency", noted)
    images = pictures(5)
    assert latency(path, images, threads=2, min_seconds=0.5) == cost.Latency(1.0, 0.5, 2.0)
    [(timed, example, options)] = calls
    assert torch.equal(example, to_float(images))
    assert options == {"threads": 2, "min_seconds": 0.5}
    assert timed.session.get_session_options().intra_op_num_threads == 2
    torch.testing.assert_close(timed(example), run(path, images))


def test_latency_is_that_of_the_session(exported):
    found = latency(exported["vgg"][1], pictures(1), min_seconds=0.01)
    assert 0 < found.lower_quartile <= found.median <= found.upper_quartile < 1


@pytest.mark.bad_input
def test_more_images_than_a_fixed_batch_are_not_one_call(tmp_path):
    path = linear_file(tmp_path / "a.onnx", shape=(3, 1, 1, 2))
    with pytest.raises(ValueError, match="takes batches of exactly 3 images, not of 6"):
        latency(path, pictures(6, size=2)[:, :, :1])
