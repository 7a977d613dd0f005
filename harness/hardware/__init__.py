"""Measure and describe the machine: GPUs, clocks, energy, memory, its matmul rate, processes.

What holds for any program on the machine belongs here. Models, studies and records do not.
"""
