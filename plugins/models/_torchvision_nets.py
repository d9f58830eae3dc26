"""The classification nets of torchvision as one table; no torch, since every command reads it."""

from __future__ import annotations

from typing import NamedTuple


class Net(NamedTuple):
    """One architecture and its weights.

    Attributes
    ----------
    name : str
        torchvision's own.
    weights, file : str
        The weights by torchvision's name, and their file: ``IMAGENET1K_V1`` for the nets of the paper, torchvision's
        default for the others.
    pixels : int
        Height and width of the input.
    parameters : int
        Of the whole net, with the heads that only training uses (googlenet, inception_v3).
    depth : int
        Number of weight layers: convolutions, linear layers and attention's joint projection to query, key and value;
        those beside the main path (a shortcut's convolution) count, heads that only training uses do not.
    layers : int
        Of the untrained net, seed 0, for three images of noise, by the extraction rule: every module call but
        containers, equal ones once. Which are equal depends on weights and images, so it may be a few more or fewer.
    """

    name: str
    weights: str
    file: str
    pixels: int
    parameters: int
    depth: int
    layers: int


PAPER = (  # the thirty that Conwell et al. (2020) scored
    Net("alexnet", "IMAGENET1K_V1", "alexnet-owt-7be5be79.pth", 224, 61_100_840, 8, 18),
    Net("vgg11", "IMAGENET1K_V1", "vgg11-8a719046.pth", 224, 132_863_336, 11, 26),
    Net("vgg13", "IMAGENET1K_V1", "vgg13-19584684.pth", 224, 133_047_848, 13, 30),
    Net("vgg16", "IMAGENET1K_V1", "vgg16-397923af.pth", 224, 138_357_544, 16, 36),
    Net("vgg19", "IMAGENET1K_V1", "vgg19-dcbb9e9d.pth", 224, 143_667_240, 19, 42),
    Net("vgg11_bn", "IMAGENET1K_V1", "vgg11_bn-6002323d.pth", 224, 132_868_840, 11, 34),
    Net("vgg13_bn", "IMAGENET1K_V1", "vgg13_bn-abd245e5.pth", 224, 133_053_736, 13, 40),
    Net("vgg16_bn", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth", 224, 138_365_992, 16, 49),
    Net("vgg19_bn", "IMAGENET1K_V1", "vgg19_bn-c79401a0.pth", 224, 143_678_248, 19, 58),
    Net("resnet18", "IMAGENET1K_V1", "resnet18-f37072fd.pth", 224, 11_689_512, 21, 60),
    Net("resnet34", "IMAGENET1K_V1", "resnet34-b627a593.pth", 224, 21_797_672, 37, 108),
    Net("resnet50", "IMAGENET1K_V1", "resnet50-0676ba61.pth", 224, 25_557_032, 54, 158),
    Net("resnet101", "IMAGENET1K_V1", "resnet101-63fe2227.pth", 224, 44_549_160, 105, 311),
    Net("resnet152", "IMAGENET1K_V1", "resnet152-394f9c45.pth", 224, 60_192_808, 156, 464),
    Net("squeezenet1_0", "IMAGENET1K_V1", "squeezenet1_0-b66bff10.pth", 224, 1_248_424, 26, 64),
    Net("squeezenet1_1", "IMAGENET1K_V1", "squeezenet1_1-b8a52dc0.pth", 224, 1_235_496, 26, 64),
    Net("densenet121", "IMAGENET1K_V1", "densenet121-a639ec97.pth", 224, 7_978_856, 121, 369),
    Net("densenet161", "IMAGENET1K_V1", "densenet161-8d451a50.pth", 224, 28_681_000, 161, 489),
    Net("densenet169", "IMAGENET1K_V1", "densenet169-b2777c0a.pth", 224, 14_149_480, 169, 513),
    Net("densenet201", "IMAGENET1K_V1", "densenet201-c1103571.pth", 224, 20_013_928, 201, 609),
    Net("googlenet", "IMAGENET1K_V1", "googlenet-1378be20.pth", 224, 13_004_888, 58, 195),
    Net("shufflenet_v2_x0_5", "IMAGENET1K_V1", "shufflenetv2_x0.5-f707e7126e.pth", 224, 1_366_792, 57, 167),
    Net("shufflenet_v2_x1_0", "IMAGENET1K_V1", "shufflenetv2_x1-5666bf0f80.pth", 224, 2_278_604, 57, 167),
    Net("mobilenet_v2", "IMAGENET1K_V1", "mobilenet_v2-b0353104.pth", 224, 3_504_872, 53, 151),
    Net("resnext50_32x4d", "IMAGENET1K_V1", "resnext50_32x4d-7cdf4587.pth", 224, 25_028_904, 54, 158),
    Net("resnext101_32x8d", "IMAGENET1K_V1", "resnext101_32x8d-8ba56ff5.pth", 224, 88_791_336, 105, 311),
    Net("wide_resnet50_2", "IMAGENET1K_V1", "wide_resnet50_2-95faca4d.pth", 224, 68_883_240, 54, 158),
    Net("wide_resnet101_2", "IMAGENET1K_V1", "wide_resnet101_2-32ee1156.pth", 224, 126_886_696, 105, 311),
    Net("mnasnet0_5", "IMAGENET1K_V1", "mnasnet0.5_top1_67.823-3ffadce67e.pth", 224, 2_218_512, 53, 151),
    Net("mnasnet1_0", "IMAGENET1K_V1", "mnasnet1.0_top1_73.512-f206786ef8.pth", 224, 4_383_312, 53, 151),
)
OTHERS = (
    Net("convnext_base", "IMAGENET1K_V1", "convnext_base-6075fbad.pth", 224, 88_591_464, 113, 335),
    Net("convnext_large", "IMAGENET1K_V1", "convnext_large-ea097f82.pth", 224, 197_767_336, 113, 335),
    Net("convnext_small", "IMAGENET1K_V1", "convnext_small-0c510722.pth", 224, 50_223_688, 113, 335),
    Net("convnext_tiny", "IMAGENET1K_V1", "convnext_tiny-983f1562.pth", 224, 28_589_128, 59, 173),
    Net("efficientnet_b0", "IMAGENET1K_V1", "efficientnet_b0_rwightman-7f5810bc.pth", 224, 5_288_548, 82, 231),
    Net("efficientnet_b1", "IMAGENET1K_V2", "efficientnet_b1-c27df63c.pth", 240, 7_794_184, 116, 330),
    Net("efficientnet_b2", "IMAGENET1K_V1", "efficientnet_b2_rwightman-c35c1473.pth", 288, 9_109_994, 116, 330),
    Net("efficientnet_b3", "IMAGENET1K_V1", "efficientnet_b3_rwightman-b3899882.pth", 300, 12_233_232, 131, 372),
    Net("efficientnet_b4", "IMAGENET1K_V1", "efficientnet_b4_rwightman-23ab8bcd.pth", 380, 19_341_616, 161, 455),
    Net("efficientnet_b5", "IMAGENET1K_V1", "efficientnet_b5_lukemelas-1a07897c.pth", 456, 30_389_784, 195, 552),
    Net("efficientnet_b6", "IMAGENET1K_V1", "efficientnet_b6_lukemelas-24a108a5.pth", 528, 43_040_704, 225, 637),
    Net("efficientnet_b7", "IMAGENET1K_V1", "efficientnet_b7_lukemelas-c5b4e57e.pth", 600, 66_347_960, 274, 776),
    Net("efficientnet_v2_l", "IMAGENET1K_V1", "efficientnet_v2_l-59c71312.pth", 480, 118_515_272, 340, 1_012),
    Net("efficientnet_v2_m", "IMAGENET1K_V1", "efficientnet_v2_m-dc08266a.pth", 480, 54_139_356, 246, 731),
    Net("efficientnet_v2_s", "IMAGENET1K_V1", "efficientnet_v2_s-dd5fe13b.pth", 384, 21_458_488, 171, 496),
    Net("inception_v3", "IMAGENET1K_V1", "inception_v3_google-0cc3c7bd.pth", 299, 27_161_264, 95, 297),
    Net("maxvit_t", "IMAGENET1K_V1", "maxvit_t-bc5ab103.pth", 224, 30_919_624, 151, 409),
    Net("mnasnet0_75", "IMAGENET1K_V1", "mnasnet0_75-7090bc5f.pth", 224, 3_170_208, 53, 151),
    Net("mnasnet1_3", "IMAGENET1K_V1", "mnasnet1_3-a4c69d6f.pth", 224, 6_282_256, 53, 151),
    Net("mobilenet_v3_large", "IMAGENET1K_V2", "mobilenet_v3_large-5c1a4163.pth", 224, 5_483_032, 64, 183),
    Net("mobilenet_v3_small", "IMAGENET1K_V1", "mobilenet_v3_small-047dcff4.pth", 224, 2_542_856, 54, 154),
    Net("regnet_x_16gf", "IMAGENET1K_V2", "regnet_x_16gf-ba3796d7.pth", 224, 54_278_536, 72, 211),
    Net("regnet_x_1_6gf", "IMAGENET1K_V2", "regnet_x_1_6gf-a12f2b72.pth", 224, 9_190_136, 60, 175),
    Net("regnet_x_32gf", "IMAGENET1K_V2", "regnet_x_32gf-6eb8fdc6.pth", 224, 107_811_560, 75, 220),
    Net("regnet_x_3_2gf", "IMAGENET1K_V2", "regnet_x_3_2gf-7071aa85.pth", 224, 15_296_552, 81, 238),
    Net("regnet_x_400mf", "IMAGENET1K_V2", "regnet_x_400mf-62229a5f.pth", 224, 5_495_976, 72, 211),
    Net("regnet_x_800mf", "IMAGENET1K_V2", "regnet_x_800mf-94a99ebd.pth", 224, 7_259_656, 54, 157),
    Net("regnet_x_8gf", "IMAGENET1K_V2", "regnet_x_8gf-2b70d774.pth", 224, 39_572_648, 75, 220),
    Net("regnet_y_128gf", "IMAGENET1K_SWAG_E2E_V1", "regnet_y_128gf_swag-c8ce3e52.pth", 384, 644_812_894, 141, 418),
    Net("regnet_y_16gf", "IMAGENET1K_V2", "regnet_y_16gf-3e4a00f9.pth", 224, 83_590_140, 96, 283),
    Net("regnet_y_1_6gf", "IMAGENET1K_V2", "regnet_y_1_6gf-0d7bc02a.pth", 224, 11_202_430, 141, 418),
    Net("regnet_y_32gf", "IMAGENET1K_V2", "regnet_y_32gf-8db6d4b5.pth", 224, 145_046_770, 106, 313),
    Net("regnet_y_3_2gf", "IMAGENET1K_V2", "regnet_y_3_2gf-9180c971.pth", 224, 19_436_338, 111, 328),
    Net("regnet_y_400mf", "IMAGENET1K_V2", "regnet_y_400mf-e6988f5f.pth", 224, 4_344_144, 86, 253),
    Net("regnet_y_800mf", "IMAGENET1K_V2", "regnet_y_800mf-58fc7688.pth", 224, 6_432_512, 76, 223),
    Net("regnet_y_8gf", "IMAGENET1K_V2", "regnet_y_8gf-dc2b1b54.pth", 224, 39_381_472, 91, 268),
    Net("resnext101_64x4d", "IMAGENET1K_V1", "resnext101_64x4d-173b62eb.pth", 224, 83_455_272, 105, 311),
    Net("shufflenet_v2_x1_5", "IMAGENET1K_V1", "shufflenetv2_x1_5-3c479a10.pth", 224, 3_503_624, 57, 167),
    Net("shufflenet_v2_x2_0", "IMAGENET1K_V1", "shufflenetv2_x2_0-8be3c8ee.pth", 224, 7_393_996, 57, 167),
    Net("swin_b", "IMAGENET1K_V1", "swin_b-68c6b09e.pth", 224, 87_768_224, 101, 181),
    Net("swin_s", "IMAGENET1K_V1", "swin_s-5e29d889.pth", 224, 49_606_258, 101, 181),
    Net("swin_t", "IMAGENET1K_V1", "swin_t-704ceda3.pth", 224, 28_288_354, 53, 97),
    Net("swin_v2_b", "IMAGENET1K_V1", "swin_v2_b-781e5279.pth", 256, 87_930_848, 149, 181),
    Net("swin_v2_s", "IMAGENET1K_V1", "swin_v2_s-637d8ceb.pth", 256, 49_737_442, 149, 181),
    Net("swin_v2_t", "IMAGENET1K_V1", "swin_v2_t-b137f0e2.pth", 256, 28_351_570, 77, 97),
    Net("vit_b_16", "IMAGENET1K_V1", "vit_b_16-c867db91.pth", 224, 86_567_656, 50, 88),
    Net("vit_b_32", "IMAGENET1K_V1", "vit_b_32-d86f8d99.pth", 224, 88_224_232, 50, 88),
    Net("vit_h_14", "IMAGENET1K_SWAG_E2E_V1", "vit_h_14_swag-80465313.pth", 518, 633_470_440, 130, 228),
    Net("vit_l_16", "IMAGENET1K_V1", "vit_l_16-852ce7e3.pth", 224, 304_326_632, 98, 172),
    Net("vit_l_32", "IMAGENET1K_V1", "vit_l_32-c7638314.pth", 224, 306_535_400, 98, 172),
)
NETS = {net.name: net for net in (*PAPER, *OTHERS)}
