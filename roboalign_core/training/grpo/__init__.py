"""GRPO post-training of the dynamics (RoboAlign-R1, A4, stage 3): a reward on many imagined futures of one start."""
