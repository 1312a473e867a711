"""What users' networks come to: every small module, and a dozen networks of timm and torchvision, by the judge."""

import pytest
import torch

from tests.pruning import law, networks, reach, zoo
from tests.pruning.user_modules import MODULES

TIMM = (
    "resnetv2_18",
    "mobilenetv3_small_050",
    "ghostnet_050",
    "tinynet_e",
    "lcnet_050",
    "repghostnet_050",
    "efficientvit_b0",
    "mobilevit_xxs",
)
TORCHVISION = (
    "squeezenet1_1",
    "shufflenet_v2_x0_5",
    "mnasnet0_5",
    "mobilenet_v3_small",
    "fasterrcnn_mobilenet_v3_large_320_fpn.backbone frozen",
)


@pytest.mark.parametrize("name", MODULES)
def test_modules_as_users_write_them(name):
    entry = MODULES[name]
    verdict = reach.judged("user", name)
    assert verdict.status == entry.verdict, verdict.detail
    assert set(entry.fixed) <= set(verdict.fixed)
    if verdict.status == "lawful":
        assert verdict.share > 0
        assert verdict.effect > 1e-6


@pytest.mark.parametrize(
    ("collection", "name"), [*(("timm", n) for n in TIMM), *(("torchvision", n) for n in TORCHVISION)]
)
def test_networks_of_timm_and_torchvision(collection, name):
    verdict = reach.judged(collection, name)
    assert verdict.status == "lawful", verdict.detail
    assert verdict.share > 0.05
    assert verdict.effect > 1e-6


@pytest.mark.parametrize("name", zoo.ALL)
def test_networks_of_the_zoo_are_cut_rightly_and_left_as_they_were(name):
    build, shape = zoo.ALL[name]
    torch.manual_seed(0)
    verdict = law.check_law(build(), torch.rand(shape), 0)
    assert verdict.status == "lawful", verdict.detail


def test_the_lists_are_as_long_as_is_claimed():
    lists = networks.COLLECTIONS
    assert len(lists["timm"]) == 85
    assert len([name for name in lists["torchvision"] if "." not in name]) >= 80 + 6 + 9
    assert len(lists["user"]) >= 110


def test_a_network_is_judged_in_a_process_of_its_own_beside_torch_pruning():
    row = reach.apart("user", "RepVGGBlock")
    assert (row["status"], row["peer"]) == ("lawful", "runs")
    assert reach.peer_verdict("user", "GlobalResponse") == "runs wrongly"
    assert "1 networks; 1 lawful" in reach.summary("user", [row])
