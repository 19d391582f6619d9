"""Detectron2 v0.6 and newer behind the compatibility layer, and both dense engines without a compiled operation."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from results.errors import UserError
from transfer.engines.detectron2 import compat

ROOT = Path(__file__).parents[2]
OLD_LAYERS = "import torch\nfrom detectron2 import _C\n"
NEW_LAYERS = "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None\n"

BLOCK = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name in ("detectron2._C", "mmcv._ext"):
            raise ModuleNotFoundError(f"{name} is blocked", name=name)
sys.meta_path.insert(0, Blocker())
"""
FASTER_RCNN = """
from transfer.engines.detectron2 import compat
compat.prepare()
compat.prepare()
import torch
from detectron2 import model_zoo
from detectron2.modeling import build_model
from detectron2.evaluation import COCOEvaluator, coco_evaluation
from pycocotools.cocoeval import COCOeval
assert coco_evaluation.COCOeval_opt is COCOeval
config = model_zoo.get_config("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", trained=False)
config.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.RESNETS.NORM", "BN", "MODEL.ROI_BOX_HEAD.FC_DIM", 16])
model = build_model(config).eval()
with torch.no_grad():
    (found,) = model([{"image": torch.zeros(3, 64, 96)}])
print(len(found["instances"]), compat.version())
"""
FCN = """
import mmseg.models
import torch
from mmseg.registry import MODELS
norm = {"type": "BN"}
model = MODELS.build({"type": "mmseg.EncoderDecoder", "test_cfg": {"mode": "whole"},
    "data_preprocessor": {"type": "mmseg.SegDataPreProcessor"},
    "backbone": {"type": "mmseg.ResNet", "depth": 18, "strides": (1, 2, 1, 1), "dilations": (1, 1, 2, 4), "norm_cfg": norm},
    "decode_head": {"type": "mmseg.FCNHead", "in_channels": 512, "in_index": 3, "channels": 8, "num_classes": 5, "norm_cfg": norm}})
model.eval()
with torch.no_grad():
    print(tuple(model(torch.zeros(1, 3, 64, 96)).shape))
"""


def run_blocked(code):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, "-W", "ignore", "-c", BLOCK + code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_faster_rcnn_needs_no_compiled_operation():
    pytest.importorskip("detectron2", reason="Detectron2 is not installed here")
    found, version = run_blocked(FASTER_RCNN).split(" ", 1)
    assert int(found) >= 0
    assert version == re.sub("compiled", "Python files only", compat.version())


@pytest.mark.slow
def test_fcn_needs_no_compiled_operation():
    pytest.importorskip("mmseg", reason="mmsegmentation is not installed here")
    assert run_blocked(FCN) == "(1, 5, 8, 12)"


@pytest.mark.slow
def test_the_block_of_these_tests_bites():
    with pytest.raises(AssertionError, match="is blocked"):
        run_blocked("import detectron2._C")


def package(root, layers, transform):
    for name in ("layers", "data", "model_zoo/configs", "projects"):
        (root / "detectron2" / name).mkdir(parents=True)
    (root / "detectron2/__init__.py").write_text('__version__ = "0.6"\n')
    (root / "detectron2/layers/deform_conv.py").write_text(layers)
    (root / "detectron2/data/transform.py").write_text(transform)
    return root / "detectron2"


@pytest.fixture
def old(tmp_path):
    return package(tmp_path, OLD_LAYERS, "a = np.int(1), np.bool, np.int64, x.np.float_, Image.LINEAR\n")


@pytest.fixture
def new(tmp_path):
    return package(tmp_path, NEW_LAYERS, "a = np.int64, np.float32, Image.BILINEAR\n")


@pytest.fixture
def outside(monkeypatch):
    """Pillow, NumPy and the module table as without the layer; put back afterwards."""
    for module, names in ((Image, ["LINEAR"]), (np, ["int", "float", "object", "str"])):
        for name in names:
            if name in vars(module):
                monkeypatch.delattr(module, name)
    for name in ("detectron2._C", "detectron2.evaluation.fast_eval_api"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    before = dict(sys.modules)
    yield
    for name in ("detectron2._C", "detectron2.evaluation.fast_eval_api"):
        sys.modules.pop(name, None)
        if name in before:
            sys.modules[name] = before[name]
    for module, names in ((Image, ["LINEAR"]), (np, ["int", "float", "object", "str"])):
        for name in names:
            if name in vars(module):
                delattr(module, name)


def prepared(monkeypatch, root, compiled=False):
    monkeypatch.setattr(compat, "installed", lambda: root)
    monkeypatch.setattr(compat, "compiled", lambda: compiled)
    compat.prepare()


@pytest.mark.usefixtures("outside")
def test_old_sources_get_what_they_name_and_no_more(old, monkeypatch):
    own_bool = np.bool
    prepared(monkeypatch, old)
    assert Image.LINEAR == Image.Resampling.BILINEAR
    assert vars(np)["int"] is int
    assert np.bool is own_bool
    assert "object" not in vars(np)
    stand_in = sys.modules["detectron2._C"]
    with pytest.raises(AttributeError, match="needs a compiled Detectron2"):
        _ = stand_in.nms_rotated
    compat.prepare()
    assert sys.modules["detectron2._C"] is stand_in


@pytest.mark.usefixtures("outside")
def test_new_sources_are_left_alone(new, monkeypatch):
    prepared(monkeypatch, new)
    assert not hasattr(Image, "LINEAR")
    assert "int" not in vars(np)
    assert "detectron2._C" not in sys.modules


@pytest.mark.usefixtures("outside")
def test_a_real_compiled_module_is_not_hidden(old, monkeypatch):
    prepared(monkeypatch, old, compiled=True)
    assert "detectron2._C" not in sys.modules


def test_a_compiled_module_is_found(tmp_path):
    """In a process of its own: a package whose `_C` is importable keeps it."""
    root = package(tmp_path, OLD_LAYERS, "")
    (root / "_C.py").write_text("nms_rotated = 'real'\n")
    code = (
        "from transfer.engines.detectron2 import compat; compat.prepare(); from detectron2 import _C; "
        "print(_C.nms_rotated, compat.compiled())"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "real True", done.stderr


def test_without_detectron2_one_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="make setup"):
        compat.prepare()


def test_the_version_tells_sources_apart(old, monkeypatch):
    monkeypatch.setattr(compat, "installed", lambda: old)
    monkeypatch.setattr(compat, "compiled", lambda: False)
    digest = compat.source_digest(old)
    assert compat.version() == f"0.6 (not a release, Python files only, sources {digest[:12]})"
    monkeypatch.setattr(compat, "V06_DIGEST", digest)
    assert compat.version().startswith("0.6 (tag v0.6, ")


def test_the_digest_is_of_the_packages_own_python_files(old):
    before = compat.source_digest(old)
    (old / "model_zoo/configs/x.py").write_text("linked in\n")
    (old / "LICENSE").write_text("text\n")
    compat._sources.cache_clear()
    assert compat.source_digest(old) == before
    (old / "data/transform.py").write_text("another\n")
    compat._sources.cache_clear()
    assert compat.source_digest(old) != before
