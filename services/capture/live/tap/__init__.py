"""The programs in the kernel, loaded and attached, and what they leave in maps and ring buffers."""
