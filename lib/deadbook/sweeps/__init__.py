"""Grids of runs or chapters, on this machine or on SLURM."""
