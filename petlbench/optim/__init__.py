"""Training: the gradient loop, schedules, zeroth-order optimisers, devices and number formats."""
