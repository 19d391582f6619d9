"""Small PatchCamelyon: the nine files under their own names, with bytes that h5py wrote."""

import base64
import math
import struct
import zlib

import numpy as np

PREFIX = "camelyonpatch_level_2_split_"

CONTIGUOUS = (
    "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvf7&ur^`B0Dmr5T}g2b5mH1QTZj%Sk}R1)=7ns|yKobp@&Zj|O1&7(lFN;9wX9BN2GGItGB~2q+(xN>4DM"
    "s;fjxj~*1-%gDeAF^dt#hnUF70<(by#XfYJkUTTcCyY@4Fe0UJRv-=HGchqSLPQ}sh?x<Q1z1pAnn0I$2=?=L0p)0zBNUiN)8;4`1w$180B|WQ"
    "zW"
)
"""The first 2,048 bytes of a file of h5py 3.16: uint8 `y` of (262144, 1, 1, 1), contiguous."""

CHUNKED = (
    "c-rgqaB<`1lHy_j0S*oZ76t(ZWbhvf1VmB!F!=;1%?PDCp!5nRm^dR?P68?}2sIyFT}Y6tD@gT!Gyt>5fCWNxFpPqc2s~UJ13+{Hln+a#Czw#xRiLFu4+`"
    "yNWMG4s#R%g=Ok`w%2yii=rb`&j45bOlGXs6X2=xymk_uKJ4dOE~Gl7M<87#njMyP+8!19a?#Tlh(X*sEI|1v_wQ&Q7%5=&AUIN|mxK<r~;tzd-+u|O?jg"
    "*pdngaqF32=?=LVFcR(0Se5cX_FiPD(^sP3%$H^Bhj1#!Vua5hde6|aW)YM4YQAhNc-%d`pj|Y!)0F!RG&TrY32BCs6I6u`f%CzN(7b9gQlMqEgv$DCdpA"
    "S3P!;w7zLwX6pVsVFbYP&AO{t<_8#|SWKiH>Fc46BAjmkCqw9-*D)%>O28ATe){YsHo3xa+Ub`0czP4v#Sm@m1bz8sPOPhAB_}t#>ckfpVPQ1n+JI{u(;#"
    "P8MYHD(Fa(a3?19Mnap{lCt(j`llEM5BY%vB(`eEIVA>&uO=U%Ytn<jIpaZ_Ydy!w`O5qY+{IhAst{1IkQVf+C$cq}U$t@Dd})l!Jl{jw~z(yo)**4Hei_"
    "_JoQb`Ldp|qhnQ_{f4ZxcXEPH($Ydp&377a-d*ngj`{ngCZOd{j~g;F7;rFe_!%C^CDfqAFK%;MoFUEa(p_by@Uv%Dy~^`6F244CChN<Fg^m@sqIZ?N+?0"
    "BHntuE_1~%`PNAK<|e!ebtciH=UzUl8gm>E2uCNly6zW(VK"
)
"""A whole file of h5py 3.16: uint8 `x` of (10, 8, 8, 3), `20 * row + column`, in chunks of (4, 8, 5, 3), shuffled and deflated."""


def chunked():
    return zlib.decompress(base64.b85decode(CHUNKED))


def hdf5(key, values):
    """A file with one data set of bytes, contiguous."""
    block = bytearray(zlib.decompress(base64.b85decode(CONTIGUOUS)))
    struct.pack_into("<Q", block, 40, 2048 + values.size)
    block[0x2D0:0x2D1] = key.encode()
    struct.pack_into("<8Q", block, 0x340, *values.shape, *values.shape)
    struct.pack_into("<Q", block, 0x3C2, math.prod(values.shape))
    return bytes(block) + values.astype(np.uint8).tobytes()


def write_pcam(root, slides=None, side=96):
    """Write 24 train, 12 valid and 12 test patches; class 1 is darker in the middle, two patches a slide."""
    root.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(3)
    slides = slides or {
        "train": "camelyon16_train_tumor_{:03d}",
        "valid": "camelyon16_train_normal_{:03d}",
        "test": "camelyon16_test_{:03d}",
    }
    for part, count in (("train", 24), ("valid", 12), ("test", 12)):
        labels = np.arange(count) // 2 % 2
        pixels = random.integers(150, 200, (count, side, side, 3))
        pixels[:, 32:64, 32:64] -= 100 * labels[:, None, None, None]
        (root / f"{PREFIX}{part}_x.h5").write_bytes(hdf5("x", pixels))
        (root / f"{PREFIX}{part}_y.h5").write_bytes(hdf5("y", labels.reshape(-1, 1, 1, 1)))
        rows = [f"{n},{n},{n},True,True,{slides[part].format(n // 2 + 1)}" for n in range(count)]
        table = "\n".join([",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi", *rows])
        (root / f"{PREFIX}{part}_meta.csv").write_text(table + "\n")
    return root
