"""Training: the trainer, its arguments, schedules, parameter groups and monitors."""
