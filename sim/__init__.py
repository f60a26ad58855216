"""The discrete-event model: DRAM channel, buffers, DMA engines, PE array, functional execution."""
