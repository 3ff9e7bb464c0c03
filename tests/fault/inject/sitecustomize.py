"""On the PYTHONPATH of processes that a test wants to disturb."""

import kill_points
import wrong_clock

kill_points.from_environment(kill_points.role())
wrong_clock.from_environment()
