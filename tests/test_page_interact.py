"""What chapters put on their pages: here seen by a front end of a real kernel."""

import base64
import io
import os
from pathlib import Path

import ipywidgets
import PIL.Image
import pytest
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager
from matplotlib.figure import Figure

import course_lib
from course_lib import page

CELL = """
import ipywidgets
from matplotlib.figure import Figure

from course_lib import page


def draw(height):
    figure = Figure()
    figure.subplots().bar(["here"], [height])
    return figure, f"A bar in the middle of the figure, with the height {height:g}."


page.interact(draw, ipywidgets.FloatSlider(value=2))
"""
WAIT = 300  # seconds for a message of the kernel; a loaded machine is slow, not wrong


class FrontEnd:
    """Speaks to a kernel as JupyterLab does."""

    def __init__(self, client):
        self.client = client

    def run(self, source):
        return self._until_idle(self.client.execute(source))

    def move(self, control, value):
        data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
        message = self.client.session.msg("comm_msg", {"comm_id": control, "data": data})
        self.client.shell_channel.send(message)
        return self._until_idle(message["header"]["msg_id"])

    def _until_idle(self, request):
        heard = []
        while not (heard and heard[-1]["content"].get("execution_state") == "idle"):
            message = self.client.get_iopub_msg(timeout=WAIT)
            if message["parent_header"].get("msg_id") == request:
                heard.append(message)
        return [message for message in heard if message["msg_type"] != "status"]


@pytest.fixture(scope="module")
def front_end():
    class ThisPython(KernelManager):
        kernel_spec = KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())

    manager = ThisPython()
    manager.start_kernel(env={**os.environ, "PYTHONPATH": str(Path(course_lib.__file__).parents[1])})
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=WAIT)
        yield FrontEnd(client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture
def cell(front_end):
    return front_end.run(CELL)


def named(messages, kind):
    return [message["content"] for message in messages if message["msg_type"] == kind]


def pictures(messages, kind):
    return [content for content in named(messages, kind) if "image/png" in content["data"]]


def alt_of(content):
    return content["metadata"]["image/png"]["alt"]


def slider_of(messages):
    """The id of the control that is shown."""
    (shown,) = [
        content["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        for content in named(messages, "display_data")
        if "application/vnd.jupyter.widget-view+json" in content["data"]
    ]
    return shown


def test_the_first_picture_is_an_ordinary_output_and_there_is_no_output_widget(cell):
    assert named(cell, "error") == []
    (first,) = pictures(cell, "display_data")
    assert PIL.Image.open(io.BytesIO(base64.b64decode(first["data"]["image/png"]))).format == "PNG"
    assert alt_of(first) == "A bar in the middle of the figure, with the height 2."
    models = {content["data"]["state"].get("_model_name") for content in named(cell, "comm_open")}
    assert "FloatSliderModel" in models
    assert "OutputModel" not in models
    assert [content["comm_id"] for content in named(cell, "comm_open")].count(slider_of(cell)) == 1


def test_moving_the_control_draws_the_picture_anew_with_its_alt_text(front_end, cell):
    (first,) = pictures(cell, "display_data")
    seen = [first]
    for height in (5.0, 3.5):
        heard = front_end.move(slider_of(cell), height)
        assert pictures(heard, "display_data") == []  # not a second picture below the first
        (new,) = pictures(heard, "update_display_data")
        assert new["transient"]["display_id"] == first["transient"]["display_id"]
        assert alt_of(new) == f"A bar in the middle of the figure, with the height {height:g}."
        seen.append(new)
    assert len({content["data"]["image/png"] for content in seen}) == 3


def test_a_cell_that_ran_twice_has_two_pictures_and_each_control_moves_its_own(front_end, cell):
    again = front_end.run(CELL)
    (heard,) = pictures(front_end.move(slider_of(again), 4.0), "update_display_data")
    assert heard["transient"] == pictures(again, "display_data")[0]["transient"]
    assert heard["transient"] != pictures(cell, "display_data")[0]["transient"]


ALT = "An empty figure, which is enough here."


@pytest.mark.bad_input
@pytest.mark.parametrize(
    ("draw", "control", "error", "message"),
    [
        (None, ipywidgets.IntSlider, TypeError, "draw is None; it must be a function"),
        (lambda value: (Figure(), ALT), ipywidgets.Button, TypeError, "must be a widget with a value"),
        (lambda value: (Figure(), ALT), ipywidgets.Output, TypeError, "must be a widget with a value"),
        (lambda value: (Figure(), ALT), float, TypeError, r"control is 0\.0; it must be a widget"),
        (lambda value: None, ipywidgets.IntSlider, TypeError, "draw returned None; it must return"),
        (lambda value: Figure(), ipywidgets.IntSlider, TypeError, "must return .figure, alt text."),
        (lambda value: (ALT, Figure()), ipywidgets.IntSlider, TypeError, "must return .figure, alt text."),
        (lambda value: (Figure(), "bars"), ipywidgets.IntSlider, ValueError, "the alt text is 'bars'"),
    ],
)
def test_what_cannot_be_shown_is_refused_before_anything_is(monkeypatch, draw, control, error, message):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *things, **options: shown.append(things))
    with pytest.raises(error, match=message):
        page.interact(draw, control())
    assert shown == []
