"""The ablation table: every technique a row, measured on the same tasks."""
