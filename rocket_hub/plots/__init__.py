"""Pictures of what was chosen and why, as files."""
