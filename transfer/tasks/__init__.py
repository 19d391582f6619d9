"""Tasks: one short YAML each, and one loader a kind. A task is what is asked of which units under which split."""

from transfer.tasks.schema import TaskSettings, known_tasks, read_task
from transfer.tasks.tile_labels import Split, TileTask, load_tile_task

__all__ = ["Split", "TaskSettings", "TileTask", "known_tasks", "load_tile_task", "read_task"]
