"""What memories cost: time, memory and FLOPs of updates and of acting, by the length of the context."""
