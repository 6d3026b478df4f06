"""The parts of the benchmark: each names its subjects, stage by stage."""
