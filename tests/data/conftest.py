"""No test here touches the network: the opener that torchvision uses fails, unless a test puts its own in place."""

import urllib.request

import pytest


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(request, *_, **__):
        raise AssertionError(f"a test reached for the network: {getattr(request, 'full_url', request)}")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.delenv("COURSE_DATA", raising=False)
