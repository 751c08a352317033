"""The replaced system's tables: what is in them, and how it becomes rows of ours."""
