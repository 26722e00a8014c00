"""The methods a build is measured against, and the build itself: what a task is worth without each ingredient."""
