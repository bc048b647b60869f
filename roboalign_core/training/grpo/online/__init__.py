"""Online distillation (RoboAlign-R1, A3): the teacher sees what the policy imagines by now, and the student follows."""
