"""What the machine is and does: GPUs, clocks, memory, its matmul rate, processes. Nothing of models or studies."""
