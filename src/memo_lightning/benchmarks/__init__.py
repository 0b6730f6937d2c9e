"""Benchmarks of memories: time, memory and FLOPs of updates and acting, by context length."""
