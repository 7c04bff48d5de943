"""What every launch of a course does, on a laptop and in a pod: places, saved work, the environment, the keys."""
