"""The images of the dense tasks: on the same torch as pretraining, and whole without a GPU."""

import json
import re

import pytest

pytestmark = [pytest.mark.container, pytest.mark.slow, pytest.mark.timeout(2400)]

IMPORTS = """if True:
    import importlib.util, json, shutil
    import torch
    found = {name: importlib.util.find_spec(name) is not None for name in ('detectron2', 'mmseg', 'pycocotools', 'pip')}
    found['tools'] = [tool for tool in ('gcc', 'g++', 'nvcc', 'git') if shutil.which(tool)]
    found['torch'] = torch.__version__.partition('+')[0]
"""
DETECTRON2 = """
    from transfer.engines.detectron2 import compat
    compat.prepare()
    from detectron2 import model_zoo
    from detectron2.evaluation import COCOEvaluator
    found['version'] = compat.version()
    print(json.dumps(found))
"""
MMSEG = """
    import mmseg.models
    from mmseg.evaluation import IoUMetric
    found['version'] = mmseg.__version__
    print(json.dumps(found))
"""
IMAGES = {"transfer-det": ("detectron2", DETECTRON2), "transfer-seg": ("mmseg", MMSEG)}


@pytest.fixture(scope="module")
def built(services):
    """Both images, built with the default Detectron2."""
    done = services.compose("build", *IMAGES)
    assert done.returncode == 0, done.stderr[-4000:]
    return services


@pytest.fixture(scope="module")
def images(built, engine):
    names = ("pretrain", *IMAGES)
    return {name: engine.images.get(built.compose("config", "--images", name).stdout.split()[0]) for name in names}


def test_torch_is_stored_once(images, record_property):
    """The layers of torch and of the shared libraries, some 6 GB, are the same in all three."""
    layers = {name: image.attrs["RootFS"]["Layers"] for name, image in images.items()}
    shared = 0
    while len({tuple(own[: shared + 1]) for own in layers.values()}) == 1:
        shared += 1
    base = [entry for entry in reversed(images["pretrain"].history()) if entry["Size"]]
    largest = max(range(len(base)), key=lambda i: base[i]["Size"])
    assert base[largest]["Size"] > 3e9
    assert shared > largest + 1
    for name, image in images.items():
        record_property(f"{name}_bytes", image.attrs["Size"])
        print(f"{name}: {image.attrs['Size'] / 1e9:.2f} GB")
        assert image.attrs["Size"] < images["pretrain"].attrs["Size"] + 0.8e9


@pytest.mark.parametrize("service", IMAGES)
def test_the_image_says_nothing_of_an_index_and_runs_as_a_user(service, images):
    image = images[service]
    assert image.attrs["Config"]["User"] == "1000:1000"
    assert not re.search(r"https?://", json.dumps([image.history(), image.attrs["Config"]["Env"]]))


@pytest.mark.parametrize("service", IMAGES)
def test_its_engine_and_no_compiler_is_inside(service, built):
    library, code = IMAGES[service]
    done = built.run("--entrypoint", "python -W ignore -c", service, IMPORTS + code)
    assert done.returncode == 0, done.stderr[-3000:]
    inside = json.loads(done.stdout.splitlines()[-1])
    assert inside["pycocotools"]
    assert not inside["pip"]
    assert inside["tools"] == []
    assert {name for name in ("detectron2", "mmseg") if inside[name]} == {library}
    assert inside["version"].startswith("0.6 (tag v0.6" if library == "detectron2" else "1.4.2")


@pytest.mark.parametrize("service", IMAGES)
def test_its_command_tells_its_settings(service, built):
    done = built.run(service, "--help")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "encoder=" in done.stdout


@pytest.mark.parametrize("service", IMAGES)
def test_its_models_take_our_weights(service, built):
    """Each engine's own models are built, loaded and compared inside its image: the proof of an export."""
    library, _ = IMAGES[service]
    words = f"python -W ignore -m transfer export encoder=random out=work/exports/{service} formats=[{library}]"
    done = built.run("--entrypoint", words, service)
    assert done.returncode == 0, done.stderr[-3000:]
    card = json.loads((built.work / "exports" / service / "card.json").read_text())
    assert 0 < card["bundle"]["proof"]["formats"][library]["largest"] <= 1e-5
