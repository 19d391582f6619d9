"""Made-up answers of segmentation and detection; the truth belongs to the unit, so encoders of one task are paired."""

import numpy as np
import pyarrow as pa

TISSUES = ("tumour", "stroma", "fat")
NUCLEI = ("tumour", "lymphocyte")


def make_maps(quality=0.7, regions=8, side=24, noise_seed=0):
    """Per region a true and a predicted map (side, side); 255 is ignored."""
    maps = []
    for number in range(regions):
        world = np.random.default_rng([3, number])
        truth = world.integers(len(TISSUES), size=(side // 6, side // 6)).repeat(6, 0).repeat(6, 1)
        difficulty = world.random(truth.shape)
        own = np.random.default_rng([noise_seed, number, int(quality * 1000)])
        wrong = difficulty + own.normal(0, 0.05, truth.shape) > quality
        predicted = np.where(wrong, (truth + 1) % len(TISSUES), truth)
        truth[world.random(truth.shape) < 0.1] = 255
        maps.append((truth, predicted))
    return maps


def make_pixels(quality=0.7, regions=8, noise_seed=0):
    """Segmentation units, two regions a slide."""
    size = len(TISSUES)
    counts = np.zeros((regions, size, size), dtype=np.int64)
    for number, (truth, predicted) in enumerate(make_maps(quality, regions, noise_seed=noise_seed)):
        for i in range(size):
            for j in range(size):
                counts[number, i, j] = ((truth == i) & (predicted == j)).sum()
    columns = {"unit": [f"roi_{n}" for n in range(regions)], "cluster": [f"slide_{n // 2}" for n in range(regions)]}
    return pa.table(columns | {f"pixels_{name}": counts[:, i].tolist() for i, name in enumerate(TISSUES)})


def some_boxes(generator, count, size=200.0):
    """Boxes (count, 4) of 8 to 24 px."""
    corner = generator.uniform(0, size, (count, 2))
    return np.concatenate([corner, corner + generator.uniform(8, 24, (count, 2))], axis=1)


def make_boxes(quality=0.7, images=10, noise_seed=0, classes=NUCLEI, ties=False, metadata=None):
    """Detection units, two images a slide; image 3 has nothing, image 4 nothing found, and some truth is ignored."""
    columns = {name: [] for c in classes for name in (f"truth_{c}", f"found_{c}")}
    for number in range(images):
        for place, name in enumerate(classes):
            world = np.random.default_rng([5, number, place])
            truth = some_boxes(world, 0 if number == 3 else int(world.integers(1, 9)))
            ignore = (world.random(len(truth)) < 0.2).astype(float)
            own = np.random.default_rng([noise_seed, number, place, int(quality * 1000)])
            hit = truth[own.random(len(truth)) < quality]
            twice = np.concatenate([hit, hit[:2]])
            moved = twice + own.normal(0, 2 * (1.2 - quality), twice.shape)
            found = np.concatenate([moved, some_boxes(own, int(own.integers(0, 6)))])
            if number in (3, 4):
                found = found[:0]
            found[:, 2:] = np.maximum(found[:, 2:], found[:, :2])
            score = own.random(len(found))
            score = np.round(score * 6) / 6 if ties else score
            columns[f"truth_{name}"].append(np.column_stack([truth, ignore]).ravel().astype("f4").tolist())
            columns[f"found_{name}"].append(np.column_stack([found, score]).ravel().astype("f4").tolist())
    names = {"unit": [f"fov_{n}" for n in range(images)], "cluster": [f"slide_{n // 2}" for n in range(images)]}
    lists = {name: pa.array(values, pa.list_(pa.float32())) for name, values in columns.items()}
    return pa.table(names | lists).replace_schema_metadata(metadata)


def boxes_table(rows, metadata=None, classes=("a",)):
    """Detection units from, per image, {class: (truth (M, 5), found (n, 5))}."""
    columns = {"unit": [f"i{n}" for n in range(len(rows))], "cluster": [f"s{n}" for n in range(len(rows))]}
    for name in classes:
        for which, prefix in enumerate(("truth_", "found_")):
            values = [np.ravel(row.get(name, ((), ()))[which]).tolist() for row in rows]
            columns[prefix + name] = pa.array(values, pa.list_(pa.float32()))
    return pa.table(columns).replace_schema_metadata(metadata)
