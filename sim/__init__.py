"""The discrete-event kernel, the virtual-time loop, simulated devices."""
