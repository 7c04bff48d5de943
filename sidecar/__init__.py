"""The service beside the notebook: keeps the student's work, and tells the truth about it."""
