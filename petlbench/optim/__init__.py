"""Training: the gradient loop, schedules, number formats."""
