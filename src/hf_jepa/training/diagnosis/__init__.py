"""The collapse clinic: what a run measures of its task, what its folder says, and what that means."""
