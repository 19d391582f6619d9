"""What a check of a data set finds."""

from benchmarks.data.dataset import load
from benchmarks.data.report import Report


def problems(name, root):
    data_set = load(name)
    report = Report(name, root)
    data_set.verify(data_set.home_in(root), report)
    return report.problems


def counts(name, root):
    return {kind: len(texts) for kind, texts in problems(name, root).items()}
