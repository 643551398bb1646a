"""How fast the runtime is, as ratios to a floor or to other libraries in the same run. See docs/benchmarks.md."""
