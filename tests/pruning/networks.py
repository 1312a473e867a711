"""Networks to try the pruning on: torchvision's, timm's, and small ones as users write them; weights are random."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from tests.pruning import user_modules

Build = Callable[[], tuple[nn.Module, object]]  # a network and an example of what it reads

CLASSES = 10
_CLASSIFICATION_SIZES = {"inception_v3": 96, "alexnet": 80, "maxvit_t": 224}
_IMAGE_SIZE = {"vit_b_16": 64, "vit_b_32": 64, "vit_l_16": 64, "vit_l_32": 64, "vit_h_14": 56}
_SEGMENTATION = (
    "deeplabv3_mobilenet_v3_large",
    "deeplabv3_resnet101",
    "deeplabv3_resnet50",
    "fcn_resnet101",
    "fcn_resnet50",
    "lraspp_mobilenet_v3_large",
)
_VIDEO = (
    "mc3_18",
    "mvit_v1_b",
    "mvit_v2_s",
    "r2plus1d_18",
    "r3d_18",
    "s3d",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
)
_DETECTION = (
    "fasterrcnn_mobilenet_v3_large_320_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fcos_resnet50_fpn",
    "keypointrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn",
    "maskrcnn_resnet50_fpn_v2",
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "ssd300_vgg16",
    "ssdlite320_mobilenet_v3_large",
)

# timm's networks with convolutions, alone or beside attention; and more of them, transformers among those.
_TIMM = """
resnet18 resnet26d resnetblur18 resnetv2_18 res2net50_26w_4s resnest14d skresnet18 seresnet18 ecaresnet26t
wide_resnet50_2 gcresnext26ts eca_resnet33ts resnext26ts regnetx_002 regnety_002 regnetz_005 efficientnet_b0
tf_efficientnetv2_b0 efficientnetv2_rw_t mixnet_s mnasnet_small semnasnet_050 spnasnet_100 mobilenetv1_100
mobilenetv2_050 mobilenetv3_small_050 mobilenetv3_large_100 mobilenetv4_conv_small mobilenetv4_hybrid_medium
ghostnet_050 ghostnetv2_100 hardcorenas_a fbnetc_100 fbnetv3_b rexnet_100 dla46_c dla60_res2net dpn48b
densenet121 ese_vovnet19b_dw cspresnet50 cspdarknet53 darknet17 hrnet_w18_small inception_v3 inception_v4
inception_resnet_v2 xception41 pnasnet5large nf_resnet26 eca_nfnet_l0 nf_regnet_b0 convnext_atto
convnextv2_atto convmixer_768_32 coat_lite_tiny coatnet_pico_rw_224 maxvit_pico_rw_256 mobilevit_xxs
mobilevitv2_050 mobileone_s0 repvgg_a0 repghostnet_050 edgenext_xx_small efficientformer_l1
efficientformerv2_s0 efficientvit_b0 efficientvit_m0 fastvit_t8 levit_128s poolformer_s12 caformer_s18
inception_next_atto lcnet_050 tinynet_e selecsls42b gernet_s lambda_resnet26t botnet26t_256 tresnet_m
cs3darknet_focus_s visformer_tiny repvit_m0_9 starnet_s1 hgnetv2_b0
"""
_MORE = """
resnetv2_50 resnest26d skresnext50_32x4d legacy_seresnet18 ecaresnet50t regnetv_040 tf_efficientnet_b0
tf_mixnet_s ghostnet_100 ghostnetv3_100 rexnetr_200 dla34 dpn68 vovnet39a darknetaa53 xception65p
nf_resnet50 nfnet_l0 convit_tiny coat_tiny coatnet_nano_rw_224 maxvit_tiny_tf_224 levit_conv_128s
poolformerv2_s12 convformer_s18 inception_next_tiny bat_resnext26ts halonet26t sebotnet33ts_256 cs3darknet_s
cs3sedarknet_l tiny_vit_5m_224 repvit_m1 hgnet_tiny focalnet_tiny_srf davit_tiny xcit_nano_12_p16_224
pvt_v2_b0 gcvit_xxtiny nest_tiny twins_svt_small mvitv2_tiny hiera_tiny_224 crossvit_tiny_240 pit_ti_224
resnetaa50 seresnext26ts swinv2_cr_tiny_ns_224 mambaout_femto rdnet_tiny nextvit_small shvit_s1
swiftformer_xs fasternet_t0 csatv2 volo_d1_224 sedarknet21 cspresnext50 vit_tiny_patch16_224 mixer_s32_224
resmlp_12_224 gmlp_ti16_224 swin_tiny_patch4_window7_224
"""
_TIMM_SIZES = {
    "inception_v3": 96,
    "inception_v4": 96,
    "inception_resnet_v2": 96,
    "efficientformer_l1": 224,
    "bat_resnext26ts": 256,
    "halonet26t": 256,
}  # 64 for the others
_TOLD_THE_SIZE = """
coat_lite_tiny coatnet_pico_rw_224 maxvit_pico_rw_256 efficientformerv2_s0 levit_128s botnet26t_256
visformer_tiny convit_tiny coat_tiny coatnet_nano_rw_224 maxvit_tiny_tf_224 levit_conv_128s sebotnet33ts_256
gcvit_xxtiny nest_tiny hiera_tiny_224 pit_ti_224 swinv2_cr_tiny_ns_224 volo_d1_224 vit_tiny_patch16_224
mixer_s32_224 resmlp_12_224 gmlp_ti16_224 swin_tiny_patch4_window7_224
"""


def image(size: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(1))


def converted(example: object, dtype: torch.dtype) -> object:
    """The example with its floating-point tensors in another dtype."""
    if isinstance(example, Tensor):
        return example.to(dtype) if example.is_floating_point() else example
    if isinstance(example, dict):
        return {key: converted(value, dtype) for key, value in example.items()}
    return tuple(converted(value, dtype) for value in example) if isinstance(example, tuple) else example


def _classifier(name: str) -> tuple[nn.Module, Tensor]:
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    options |= {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    if name in _IMAGE_SIZE:
        options["image_size"] = _IMAGE_SIZE[name]
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES, **options)
    return model, image(_IMAGE_SIZE.get(name, _CLASSIFICATION_SIZES.get(name, 64)))


def _segmentation(name: str) -> tuple[nn.Module, Tensor]:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None, num_classes=CLASSES)
    return model, image(64)


def _video(name: str) -> tuple[nn.Module, Tensor]:
    model = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    frames, size = (16, 224) if name.startswith(("mvit", "s3d")) else (4, 64)
    return model, image(size)[:, :, None].expand(-1, -1, frames, -1, -1).contiguous()


def _backbone(name: str, frozen: bool) -> tuple[nn.Module, Tensor]:
    model = torchvision.models.get_model(name, weights=None, weights_backbone=None).backbone
    return (_frozen(model) if frozen else model), image(300 if name.startswith("ssd300") else 64)


def _frozen(model: nn.Module) -> nn.Module:
    """Batch norms as the pretrained backbones have them: fixed, and of buffers alone."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(model, name, FrozenBatchNorm2d(child.num_features, child.eps))
        else:
            _frozen(child)
    return model


def _timm(name: str) -> tuple[nn.Module, Tensor]:
    import timm

    size = _TIMM_SIZES.get(name, 64)
    options = {"img_size": size} if name in _TOLD_THE_SIZE.split() else {}
    return timm.create_model(name, pretrained=False, num_classes=CLASSES, **options), image(size)


def _user(name: str) -> tuple[nn.Module, object]:
    entry = user_modules.MODULES[name]
    return entry.build(), entry.example


def _torchvision() -> dict[str, Build]:
    names = torchvision.models.list_models(module=torchvision.models)
    return {
        **{name: partial(_classifier, name) for name in names},
        **{name: partial(_segmentation, name) for name in _SEGMENTATION},
        **{name: partial(_video, name) for name in _VIDEO},
        **{f"{name}.backbone": partial(_backbone, name, False) for name in _DETECTION},
        **{
            f"{name}.backbone frozen": partial(_backbone, name, True)
            for name in _DETECTION
            if "v2" not in name and "vgg" not in name
        },
    }


COLLECTIONS: Mapping[str, Mapping[str, Build]] = {
    "torchvision": _torchvision(),
    "timm": {name: partial(_timm, name) for name in _TIMM.split()},
    "user": {name: partial(_user, name) for name in user_modules.MODULES},
    "more": {name: partial(_timm, name) for name in _MORE.split()},
}
