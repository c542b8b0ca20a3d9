"""Tasks: what a model is judged by. One file a task."""
