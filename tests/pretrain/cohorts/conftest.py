"""One small rehearsal cohort for all tests here."""

import pytest
from rehearsal_files import SEED, SIZE, SLIDES

from pretrain.cohorts.rehearsal import generate
from pretrain.cohorts.rehearsal.scene import compose


@pytest.fixture(scope="session")
def cohort(tmp_path_factory):
    return generate(tmp_path_factory.mktemp("rehearsal") / "cohort", SEED, SLIDES, SIZE)


@pytest.fixture(scope="session")
def scene():
    return compose(SEED, 0, "RHSL-H1-0001-DX1", "H1", SIZE / 2, SIZE / 2)
