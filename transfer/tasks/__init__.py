"""Tasks: one short YAML each, and one loader a kind. A task is what is asked of which units under which split."""

from transfer.tasks.schema import Request, TaskSettings, known_tasks, load_task, read_task
from transfer.tasks.tile_task import Split, TileTask

__all__ = ["Request", "Split", "TaskSettings", "TileTask", "known_tasks", "load_task", "read_task"]
